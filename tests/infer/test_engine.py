"""Generation: equal to the plain loop over full forwards, streamed without broken characters."""

import json
import math

import pytest
import torch

import danlu
from danlu.checkpoint import save_checkpoint
from danlu.cli import main
from danlu.config import ArticleConfig, Qwen3Config
from danlu.errors import ConfigError, DataError
from danlu.infer.engine import generate
from danlu.infer.sampling import Sampling
from danlu.model import build_model

GREEDY = Sampling(temperature=0)
PROMPT = "珠穆朗玛峰是"


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
    return random_model(
        Qwen3Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=48,
        ),
        tokenizer,
    )


@pytest.fixture(scope="module")
def article(tokenizer):
    return random_model(ArticleConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4), tokenizer, 48).eval()


@pytest.fixture(scope="module")
def folder(qwen3, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("generate") / "ckpt"
    save_checkpoint(path, qwen3, tokenizer)
    return path


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
    got = generate(article, tokenizer, PROMPT, max_new_tokens=90, sampling=GREEDY)
    assert got.texts == [plain_greedy(article, tokenizer, PROMPT, 90)]
    assert got.tokens > 60 or got.stopped == ["eos"]


def test_qwen3_stops_where_its_context_ends_and_says_so(qwen3, tokenizer):
    got = generate(qwen3, tokenizer, PROMPT, max_new_tokens=500, sampling=Sampling(temperature=2.0, top_p=1.0), seed=3)
    assert got.stopped[0] in ("context", "eos")
    assert got.tokens <= qwen3.context


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

    def choose(self, logits):
        return torch.tensor([next(script)])

    monkeypatch.setattr("danlu.infer.engine._Decoding._choose", choose)
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


def test_a_prompt_longer_than_the_context_names_both_lengths(qwen3, tokenizer, folder, capsys):
    with pytest.raises(DataError, match=r"\d+ tokens.*64"):
        generate(qwen3, tokenizer, "长江位于" * 100)
    assert main(["generate", str(folder), "长江位于" * 100]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_an_empty_prompt_is_fine(qwen3, tokenizer):
    assert generate(qwen3, tokenizer, "", max_new_tokens=3).prompt == ""
    with pytest.raises(ConfigError):
        generate(qwen3, tokenizer, "", max_new_tokens=0)


def test_transformers_generates_the_same_greedy_text(folder, qwen3, tokenizer):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(PROMPT)]])
    out = theirs.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
    expected = tokenizer.decode(i for i in out if i != tokenizer.eos_id)
    assert danlu.generate(qwen3, tokenizer, PROMPT, max_new_tokens=30, sampling=GREEDY).texts == [expected]


def test_the_command_streams_or_prints_json(folder, capsys):
    assert main(["generate", str(folder), "--max-new-tokens", "8", "--temperature", "0"]) == 0
    streamed = capsys.readouterr().out
    assert main(["generate", str(folder), "--max-new-tokens", "8", "--temperature", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["prompt"] == PROMPT
    assert streamed.startswith(PROMPT + result["texts"][0])
    assert {"prompt", "texts", "tokens", "seconds", "tokens_per_second"} <= result.keys()


@pytest.mark.parametrize("flags", [["--top-p", "0"], ["--temperature", "-1"], ["--samples", "0"], ["--nonsense", "1"]])
def test_wrong_flags_are_one_line(folder, flags, capsys):
    assert main(["generate", str(folder), *flags]) == 2
    assert capsys.readouterr().err.startswith("error: ")
