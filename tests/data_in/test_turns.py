"""Packed conversations: each once, whole, scored where the assistant speaks, and blind to its neighbours."""

import tracemalloc

import numpy as np
import pytest
import torch

from danlu.config import ArticleConfig, Qwen3Config
from danlu.data.batches import batch
from danlu.data.chat import Conversation, Message
from danlu.data.prepare_turns import pack, prepare_turns
from danlu.data.template import ChatTemplate
from danlu.data.turns import Turns, WithReplay, open_turns
from danlu.errors import DataError
from danlu.model import build_model
from danlu.tokenizer import Tokenizer
from danlu.types import IGNORED, BatchPlan, Stretch

CONTEXT = 256
PLAN = BatchPlan(CONTEXT, (Stretch(0, CONTEXT, 2 * CONTEXT),))


def talk(number: int, turns: int = 1, words: int = 3) -> Conversation:
    messages = []
    for turn in range(turns):
        messages += [
            Message("user", f"第{number}个问题，第{turn}次？"),
            Message("assistant", "长江" * words + f"{number}。"),
        ]
    return Conversation(tuple(messages), "test", str(number))


@pytest.fixture(scope="module")
def template(tokenizer):
    return ChatTemplate(tokenizer)


def made(template, tmp_path, conversations, **options) -> Turns:
    prepare_turns(conversations, template, CONTEXT, tmp_path / "turns", 0.2, **options)
    return open_turns(tmp_path / "turns")


@pytest.mark.parametrize("seed", range(5))
def test_packing_holds_everything_once_and_wastes_little(seed):
    lengths = np.random.default_rng(seed).integers(1, 101, 500)
    rows = [row.tolist() for block in pack(lengths, 100) for row in block]
    assert sorted(item for row in rows for item in row) == list(range(500))
    assert all(lengths[row].sum() <= 100 for row in rows)
    fewest = max(-(-lengths.sum() // 100), (lengths > 50).sum())
    assert len(rows) <= 1.03 * fewest


def test_every_conversation_is_in_one_row_with_its_answers_scored(template, tmp_path):
    turns = made(template, tmp_path, [talk(i, turns=1 + i % 3) for i in range(60)])
    assert {name: entry["conversations"] for name, entry in turns.manifest["splits"].items()}["train"] < 60
    found = []
    for name in ("train", "validation"):
        for number in range(turns.manifest["splits"][name]["rows"]):
            ids, labels, segments, _ = turns.row(name, number, CONTEXT)
            for segment in range(1, segments.max() + 1):
                inside = labels[(segments == segment) & (labels != IGNORED)]
                found.append(template.tokenizer.decode(inside))
            assert (labels[segments == 0] == IGNORED).all()
            shifted = labels[:-1] != IGNORED
            assert np.array_equal(
                labels[:-1][shifted & (segments[:-1] == segments[1:])],
                ids[1:][shifted & (segments[:-1] == segments[1:])],
            )
    expected = [("长江长江长江" + f"{i}。<|im_end|>") * (1 + i % 3) for i in range(60)]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    "family",
    [
        Qwen3Config(hidden_size=32, num_hidden_layers=2, head_dim=16),
        ArticleConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
    ],
)
def test_an_answer_does_not_depend_on_its_neighbours(template, tmp_path, family):
    turns = made(template, tmp_path, [talk(i) for i in range(40)])
    model = build_model(family, turns.vocab_size, CONTEXT).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    ids, _, segments = (torch.from_numpy(part)[None] for part in turns.row("train", 0, CONTEXT)[:3])
    assert segments.max() >= 2
    whole = model(ids, segments=segments).logits_BTV
    for segment in range(1, int(segments.max()) + 1):
        inside = segments[0] == segment
        alone = model(ids[:, inside]).logits_BTV
        torch.testing.assert_close(whole[:, inside], alone, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_counted_or_cut_at_a_turn(template, tmp_path):
    long, hopeless = talk(100, turns=9), talk(101, words=200)
    few = [talk(i) for i in range(30)]
    dropped = made(template, tmp_path / "a", [*few, long, hopeless]).manifest
    assert (dropped["conversations"], dropped["dropped"]["longer than the context"], dropped["cut"]) == (32, 2, 0)
    cut = made(template, tmp_path / "b", [*few, long, hopeless], too_long="split").manifest
    assert (cut["dropped"]["longer than the context"], cut["cut"]) == (1, 1)
    pieces = [sum(entry["conversations"] for entry in m["splits"].values()) for m in (dropped, cut)]
    assert pieces[1] > pieces[0]
    answers = sum(entry["scored_tokens"] for entry in cut["splits"].values())
    assert answers > sum(entry["scored_tokens"] for entry in dropped["splits"].values())


def test_copies_are_left_out_and_one_question_lies_on_one_side(template, tmp_path):
    again = [talk(i) for i in range(30)] * 2
    other = [Conversation((talk(i).messages[0], Message("assistant", "不知道。")), "test", "x") for i in range(30)]
    turns = made(template, tmp_path, [*again, *other])
    assert turns.manifest["dropped"]["copy of another"] == 30
    decode = template.tokenizer.decode
    questions = {}
    for name in ("train", "validation"):
        split = turns.split(name)
        said = [decode(split.ids[split.tokens(n)].tolist()).split("<|im_end|>")[0] for n in range(len(split.ends))]
        questions[name] = set(said)
    assert not questions["train"] & questions["validation"]


def test_a_set_in_which_nothing_fits_is_refused_and_leaves_nothing(template, tmp_path):
    with pytest.raises(DataError, match=r"2 do not fit into the context of 256 tokens.*--too-long split"):
        made(template, tmp_path, [talk(1, words=200), talk(2, words=200)])
    assert not (tmp_path / "turns").exists()


@pytest.fixture(scope="module")
def without_system(tokenizer_folder):
    """A template that takes no system message, as Gemma's."""
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer = Tokenizer.load(tokenizer_folder)
    tokenizer.chat_template = refuse + str(tokenizer.chat_template)
    return ChatTemplate(tokenizer)


BAD = [
    Conversation((Message("system", "你好"), *talk(99).messages), "bad.jsonl", "7"),
    Conversation((Message("user", "\ud800"), Message("assistant", "什么？")), "bad.jsonl", "8"),
]


@pytest.mark.parametrize(("conversation", "reason"), [(BAD[0], "no system"), (BAD[1], "lone surrogate")])
def test_what_cannot_be_encoded_is_one_line_and_leaves_nothing(without_system, tmp_path, conversation, reason):
    with pytest.raises(DataError, match=rf"bad.jsonl, record {conversation.id}: .*{reason}"):
        made(without_system, tmp_path, [*(talk(i) for i in range(20)), conversation])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_encoded_is_passed_over_if_whoever_is_told_lets_it(without_system, tmp_path):
    few, told = [talk(i) for i in range(20)], []
    turns = made(without_system, tmp_path / "a", [few[0], *BAD, *few[1:]], bad=told.append)
    assert [message.split(":")[0] for message in told] == ["bad.jsonl, record 7", "bad.jsonl, record 8"]
    assert turns.address == made(without_system, tmp_path / "b", few).address
    assert turns.manifest["conversations"] == 20


def test_the_files_are_numpys_own(template, tmp_path):
    turns = made(template, tmp_path, [talk(i, turns=1 + i % 3) for i in range(60)])
    for path in turns.folder.glob("*.npy"):
        np.save(tmp_path / "again.npy", np.load(path))
        assert path.read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_memory_does_not_grow_with_the_tokens(template, tmp_path):
    def peak(count):
        tracemalloc.start()
        tokens = made(template, tmp_path / str(count), (talk(i, words=30) for i in range(count))).manifest["splits"]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, sum(entry["tokens"] for entry in tokens.values())

    (few, few_tokens), (many, many_tokens) = peak(100), peak(700)
    assert many - few < 0.3 * (many_tokens - few_tokens)


def test_batches_cover_an_epoch(template, tmp_path):
    turns = made(template, tmp_path, [talk(i) for i in range(60)])
    rows = turns.blocks_per_epoch(PLAN)
    seen = [batch(turns, PLAN, 0, step) for step in range(-(-rows // 2))]
    got = torch.cat([b.labels_BT for b in seen])[:rows]
    expected = torch.from_numpy(np.stack([turns.block(PLAN, i).labels_L for i in range(rows)]))
    assert sorted(map(tuple, got.tolist())) == sorted(map(tuple, expected.tolist()))
    assert seen[0].segments_BT is not None


def test_replay_takes_its_share(template, tmp_path, shards):
    mixed = WithReplay(made(template, tmp_path, [talk(i) for i in range(60)]), shards, 0.25)
    rows, total = mixed.turns.blocks_per_epoch(PLAN), mixed.blocks_per_epoch(PLAN)
    assert total - rows == round(total * 0.25)
    assert np.array_equal(mixed.block(PLAN, 0).ids_L, mixed.turns.block(PLAN, 0).ids_L)
    assert np.array_equal(mixed.block(PLAN, rows).ids_L, shards.block(PLAN, 0).ids_L)
    steps = [batch(mixed, PLAN, 0, step) for step in range(total // 2)]
    assert all(b.segments_BT is not None and b.segments_BT.shape == b.ids_BT.shape for b in steps)
