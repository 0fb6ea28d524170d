"""Generation: equal to the plain loop over full forwards, streamed without broken characters."""

import copy
import math

import pytest
import torch

import danlu
from danlu.checkpoint import save_checkpoint
from danlu.config import ArticleConfig, Qwen3Config
from danlu.errors import CheckpointError, ConfigError, DataError
from danlu.infer.generate import generate, generate_many
from danlu.infer.request import Request
from danlu.infer.sampling import Sampling
from danlu.model import build_model

GREEDY = Sampling(temperature=0)
PROMPT = "珠穆朗玛峰是"
QWEN3 = Qwen3Config(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=48
)


def random_model(config, tokenizer, context=64):
    model = build_model(config, tokenizer.vocab_size, context)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="module")
def qwen3(tokenizer):
    return random_model(QWEN3, tokenizer)


@pytest.fixture(scope="module")
def article(tokenizer):
    return random_model(ArticleConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4), tokenizer, 48).eval()


def plain_greedy(model, tokenizer, prompt, n):
    ids = [tokenizer.eos_id, *tokenizer.encode(prompt)]
    new = []
    with torch.no_grad():
        for _ in range(n):
            token = int(model(torch.tensor([(ids + new)[-model.context :]])).logits_BTV[0, -1].argmax())
            if token == tokenizer.eos_id:
                break
            new.append(token)
    return tokenizer.decode(new)


@pytest.mark.parametrize("family", ["qwen3", "article"])
def test_greedy_equals_the_loop_over_full_forwards(family, request, tokenizer):
    model = request.getfixturevalue(family).eval()
    got = generate(model, tokenizer, PROMPT, max_new_tokens=25, sampling=GREEDY)
    assert got.texts == [plain_greedy(model, tokenizer, PROMPT, 25)]


def test_the_article_family_goes_on_past_its_context(article, tokenizer):
    model = copy.deepcopy(article)
    with torch.no_grad():
        model.language_model_out_linear_layer.bias[tokenizer.eos_id] = -1_000.0
    got = generate(model, tokenizer, PROMPT, max_new_tokens=90, sampling=GREEDY)
    assert (got.tokens, got.stopped) == (90, ["length"])
    assert got.texts == [plain_greedy(model, tokenizer, PROMPT, 90)]


def endless_model(tokenizer, context=64):
    """Make a qwen3 model that never draws eos greedily: its logit is 0, and others are above."""
    model = random_model(QWEN3.model_copy(update={"tie_word_embeddings": False}), tokenizer, context)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_id] = 0
    return model


@pytest.mark.parametrize("samples", [1, 2])
def test_qwen3_stops_where_its_context_ends_and_says_so(tokenizer, samples):
    """The context holds the begin mark, the prompt and all new tokens but the last, which nobody reads."""
    endless = endless_model(tokenizer)
    room = endless.context - len([tokenizer.eos_id, *tokenizer.encode(PROMPT)]) + 1
    got = generate(endless, tokenizer, PROMPT, max_new_tokens=500, sampling=GREEDY, samples=samples)
    assert got.stopped == ["context"] * samples
    assert got.tokens == room * samples
    assert got.texts == [plain_greedy(endless, tokenizer, PROMPT, room)] * samples
    enough = generate(endless, tokenizer, PROMPT, max_new_tokens=room, sampling=GREEDY)
    assert (enough.stopped, enough.texts) == (["length"], got.texts[:1])


def test_a_prompt_that_fills_the_context_gets_one_token(tokenizer):
    full = endless_model(tokenizer, context=1 + len(tokenizer.encode(PROMPT)))
    got = generate(full, tokenizer, PROMPT, max_new_tokens=9, sampling=GREEDY)
    assert (got.tokens, got.stopped) == (1, ["context"])


def test_the_begin_mark_is_no_repetition(article, tokenizer):
    """The end of a text has the id of its beginning: a penalty must not put it off."""
    model = copy.deepcopy(article)
    with torch.no_grad():
        model.language_model_out_linear_layer.bias[tokenizer.eos_id] = 1_000.0
    for samples in (1, 3):
        penalised = Sampling(temperature=0, repetition_penalty=1_000.0)
        got = generate(model, tokenizer, PROMPT, sampling=penalised, samples=samples)
        assert (got.stopped, got.texts) == (["eos"] * samples, [""] * samples)


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_penalised_tokens_are_those_of_the_prompt_and_the_text(qwen3, tokenizer, prompt):
    """Compare with a plain loop over full forwards that penalises token by token."""
    ids, new = tokenizer.encode(prompt), []
    with torch.no_grad():
        for _ in range(20):
            logits = qwen3(torch.tensor([[tokenizer.eos_id, *ids, *new]])).logits_BTV[0, -1]
            for token in {*ids, *new}:
                logits[token] = logits[token] / 1.7 if logits[token] > 0 else logits[token] * 1.7
            new.append(int(logits.argmax()))
            if new[-1] == tokenizer.eos_id:
                break
    got = generate(
        qwen3, tokenizer, prompt, max_new_tokens=20, sampling=Sampling(temperature=0, repetition_penalty=1.7)
    )
    assert got.texts == [tokenizer.decode(i for i in new if i != tokenizer.eos_id)]
    assert got.tokens == len(new)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_the_checkpoints_fault(qwen3, tokenizer, broken):
    """Not the settings': a run takes a ConfigError for a reason to begin anew."""
    model = copy.deepcopy(qwen3)
    with torch.no_grad():
        model.model.norm.weight[0] = broken
    with pytest.raises(CheckpointError, match="not finite"):
        generate(model, tokenizer, PROMPT)


def test_a_sample_does_not_depend_on_how_many_there_are(qwen3, tokenizer):
    four = generate(qwen3, tokenizer, PROMPT, max_new_tokens=20, samples=4, seed=10)
    for samples in (1, 2, 3):
        assert (
            generate(qwen3, tokenizer, PROMPT, max_new_tokens=20, samples=samples, seed=10).texts
            == four.texts[:samples]
        )
    assert len(set(four.texts)) > 1


def test_the_stream_is_the_text_and_never_broken_in_the_middle_of_a_character(qwen3, tokenizer):
    pieces = []
    hot = Sampling(temperature=3.0, top_p=1.0)
    got = generate(qwen3, tokenizer, PROMPT, max_new_tokens=50, sampling=hot, on_text=lambda i, t: pieces.append(t))
    assert "".join(pieces) == got.texts[0]
    assert all(pieces)


def test_characters_of_several_tokens_are_held_back_until_whole(qwen3, tokenizer, monkeypatch):
    """Drive the engine with a model that spells a rare character byte by byte."""
    spelled = [next(i for i in range(320) if tokenizer.token_bytes(i) == bytes([b])) for b in "𪚥龘".encode()]
    script = iter([*spelled, tokenizer.eos_id])

    def choose(self, logits, replies):
        return torch.tensor([next(script)])

    monkeypatch.setattr("danlu.infer.engine.Engine._choose", choose)
    pieces = []
    generate(qwen3, tokenizer, PROMPT, max_new_tokens=20, on_text=lambda i, t: pieces.append(t))
    assert pieces == ["𪚥", "龘"]


def test_generation_leaves_the_model_as_it_was(qwen3, tokenizer):
    qwen3.train()
    generate(qwen3, tokenizer, PROMPT, max_new_tokens=3)
    assert qwen3.training
    loss = qwen3(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[2, 3, 4]])).nll_BT.sum()
    loss.backward()
    assert math.isfinite(loss.item())
    qwen3.zero_grad()
    qwen3.eval()


def test_global_random_numbers_are_not_touched(qwen3, tokenizer):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    generate(qwen3, tokenizer, PROMPT, max_new_tokens=5)
    assert torch.equal(torch.rand(3), expected)


def test_a_prompt_longer_than_the_context_names_both_lengths(qwen3, tokenizer):
    with pytest.raises(DataError, match=r"\d+ tokens.*64"):
        generate(qwen3, tokenizer, "长江位于" * 100)


def test_an_empty_prompt_is_fine(qwen3, tokenizer):
    assert generate(qwen3, tokenizer, "", max_new_tokens=3).prompt == ""
    with pytest.raises(ConfigError):
        generate(qwen3, tokenizer, "", max_new_tokens=0)


def test_transformers_generates_the_same_greedy_text(qwen3, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_checkpoint(tmp_path / "ckpt", qwen3, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ckpt")
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(PROMPT)]])
    out = theirs.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
    expected = tokenizer.decode(i for i in out if i != tokenizer.eos_id)
    assert danlu.generate(qwen3, tokenizer, PROMPT, max_new_tokens=30, sampling=GREEDY).texts == [expected]


def test_many_prompts_get_what_each_gets_alone_in_their_order(qwen3, tokenizer, monkeypatch):
    """More than are answered at once, of different lengths; the requests are taken as they are needed."""
    monkeypatch.setattr("danlu.infer.generate._REQUESTS_AT_ONCE", 4)
    prompts = [[tokenizer.eos_id, *range(20, 22 + i % 7)] for i in range(15)]
    taken = []

    def requests():
        for i, ids in enumerate(prompts):
            taken.append(i)
            yield Request(tuple(ids), 3 + 2 * (i % 5), GREEDY, seed=i)

    got = []
    for answer in generate_many(qwen3, tokenizer, requests()):
        if not got:
            assert len(taken) < 9
        got.append(answer)
    for i, (ids, (text, stopped)) in enumerate(zip(prompts, got, strict=True)):
        alone = generate(qwen3, tokenizer, ids, max_new_tokens=3 + 2 * (i % 5), sampling=GREEDY, seed=i)
        assert (alone.texts, alone.stopped) == ([text], [stopped])
