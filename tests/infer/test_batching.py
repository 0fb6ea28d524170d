"""Continuous batching: what a request gets does not depend on who else is answered, nor on what was read before."""

import itertools
import random

import pytest
import torch

from danlu.config import ArticleConfig, Qwen3Config
from danlu.errors import CheckpointError, ConfigError, DataError
from danlu.infer.engine import Engine
from danlu.infer.request import Request
from danlu.infer.sampling import Sampling
from danlu.model import build_model

GREEDY = Sampling(temperature=0)
QWEN3 = Qwen3Config(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=48
)
ARTICLE = ArticleConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)


@pytest.fixture(scope="module", params=["qwen3", "article"])
def model(request, tokenizer):
    made = build_model(QWEN3 if request.param == "qwen3" else ARTICLE, tokenizer.vocab_size, 64)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return made.eval()


def some_requests(tokenizer, count, context=64):
    """Requests of every kind: lengths, settings, seeds; some share a beginning.

    A draw that falls within rounding of the edge between two tokens may fall on either side; here none does.
    """
    rng = random.Random(2)
    common = tuple(rng.randrange(3, 320) for _ in range(40))
    kinds = [
        GREEDY,
        Sampling(),
        Sampling(top_k=5),
        Sampling(min_p=0.1, no_repeat_ngram=2),
        Sampling(presence_penalty=2),
    ]
    found = []
    for i in range(count):
        own = tuple(rng.randrange(3, 320) for _ in range(rng.randrange(0, context - 45)))
        ids = (tokenizer.eos_id, *common[: rng.choice([0, 0, 5, 40])], *own)
        sampling = rng.choice(kinds)
        found.append(Request(ids, rng.randrange(1, 30), sampling, seed=i, likeliest=2, end_ids=()))
    return found


class Answer:
    """Collects pieces."""

    def __init__(self):
        self.pieces = []

    def __call__(self, piece):
        assert not self.stopped
        self.pieces.append(piece)

    @property
    def text(self):
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self):
        return [token for piece in self.pieces for token in piece.tokens]

    @property
    def ids(self):
        return [token.id for token in self.tokens]

    @property
    def stopped(self):
        return self.pieces[-1].stopped if self.pieces else ""


def answer(model, tokenizer, *requests, slots=1, every=0, **settings):
    """Answer requests, a new one every so many steps."""
    answers = [Answer() for _ in requests]
    with Engine(model, tokenizer, slots, **settings) as engine:
        coming = iter(zip(requests, answers, strict=True))
        step = 0
        while not all(a.stopped for a in answers):
            for request, taker in itertools.islice(coming, None if every == 0 else int(step % every == 0)):
                engine.submit(request, taker)
            engine.step()
            step += 1
        assert not engine.busy
    return answers


@pytest.mark.parametrize(("slots", "every", "at_once"), [(31, 0, 512), (7, 0, 512), (7, 3, 8), (3, 1, 8), (1, 0, 5)])
def test_a_request_gets_the_same_alone_and_among_thirty_others(model, tokenizer, monkeypatch, slots, every, at_once):
    """Rows, reading in pieces, common beginnings, and places that change: nothing shows."""
    requests = some_requests(tokenizer, 31)
    alone = [answer(model, tokenizer, request)[0] for request in requests]
    monkeypatch.setattr("danlu.infer.engine._READ_AT_ONCE", at_once)
    monkeypatch.setattr("danlu.infer.engine._WORTH_COPYING", 2)
    together = answer(model, tokenizer, *requests, slots=slots, every=every)
    for one, other in zip(alone, together, strict=True):
        assert (one.ids, one.text, one.stopped) == (other.ids, other.text, other.stopped)
        expected, got = ([t.logprob for t in a.tokens] for a in (one, other))
        torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert len({tuple(a.ids) for a in alone}) > 25


def test_what_is_reported_of_tokens_equals_a_full_forward(model, tokenizer):
    """Of the prompt's and of the new ones, before any penalty and at temperature 1."""
    ids = (tokenizer.eos_id, *range(20, 45))
    request = Request(ids, 9, Sampling(repetition_penalty=1.5), likeliest=3, score_prompt=True, end_ids=())
    (got,) = answer(model, tokenizer, request)
    read = [*ids, *got.ids]
    with torch.no_grad():
        logprobs = model(torch.tensor([read])).logits_BTV[0].log_softmax(-1)
    reported = [*got.pieces[0].prompt, *got.tokens]
    assert [token.id for token in reported] == read
    assert reported[0].logprob is None
    for token, row in zip(reported[1:], logprobs, strict=False):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        best, likeliest = row.topk(3)
        assert [i for i, _ in token.likeliest] == likeliest.tolist()
        assert [p for _, p in token.likeliest] == pytest.approx(best.tolist(), abs=1e-4)


def test_a_prompt_can_be_scored_without_writing(model, tokenizer, monkeypatch):
    ids = (tokenizer.eos_id, *range(20, 80))
    requests = [Request(ids[:n], 0, score_prompt=True) for n in (1, 2, 61)]
    whole = answer(model, tokenizer, *requests)
    monkeypatch.setattr("danlu.infer.engine._READ_AT_ONCE", 7)
    pieces = answer(model, tokenizer, *requests)
    for one, other, request in zip(whole, pieces, requests, strict=True):
        (said,), (said_too,) = one.pieces, other.pieces
        assert (said.text, said.tokens, said.stopped) == ("", (), "length")
        assert [t.id for t in said.prompt] == list(request.ids)
        pairs = zip(said.prompt[1:], said_too.prompt[1:], strict=True)
        assert all(a.logprob == pytest.approx(b.logprob, abs=1e-4) for a, b in pairs)


def test_a_cancelled_request_frees_its_row_for_the_next(model, tokenizer):
    requests = some_requests(tokenizer, 8)
    alone = [answer(model, tokenizer, request)[0] for request in requests]
    answers = [Answer() for _ in requests]
    with Engine(model, tokenizer, slots=2) as engine:
        replies = [engine.submit(r, a) for r, a in zip(requests, answers, strict=True)]
        engine.step()
        for i in (0, 2, 7):  # one that writes, two that wait
            engine.cancel(replies[i])
            engine.cancel(replies[i])
        while engine.busy:
            engine.step()
        assert (engine.running, engine.waiting) == (0, 0)
    for i, (one, other) in enumerate(zip(answers, alone, strict=True)):
        assert one.stopped == ("cancelled" if i in (0, 2, 7) else other.stopped)
        assert one.ids == (other.ids if one.stopped != "cancelled" else other.ids[: len(one.ids)])


@pytest.mark.parametrize("samples", [1, 3])
def test_text_ends_before_a_stop_string_wherever_tokens_lie(model, tokenizer, samples):
    """For every stretch of a text as a stop string: the text is what is before it, and no character of it got out."""
    free = answer(model, tokenizer, Request((tokenizer.eos_id, 30, 31), 25, seed=5, end_ids=()))[0]
    for start, length in itertools.product(range(0, len(free.text), 3), (1, 2, 5)):
        stop = free.text[start : start + length]
        wanted = [Request((tokenizer.eos_id, 30, 31), 25, seed=5, stop=("\x00no", stop), end_ids=())] * samples
        for got in answer(model, tokenizer, *wanted, slots=samples):
            assert got.text == free.text[: free.text.index(stop)]
            assert got.stopped == "stop"
            assert got.ids == free.ids[: len(got.ids)]


def test_held_text_is_given_where_no_stop_string_follows(model, tokenizer):
    free = answer(model, tokenizer, Request((tokenizer.eos_id, 30, 31), 25, seed=5, end_ids=()))[0]
    stops = tuple(free.text[i : i + 3] + "\x00" for i in range(len(free.text)))
    got = answer(model, tokenizer, Request((tokenizer.eos_id, 30, 31), 25, seed=5, stop=stops, end_ids=()))[0]
    assert (got.text, got.stopped) == (free.text, "length")
    assert all(piece.text or piece.tokens for piece in got.pieces)


def test_only_the_article_goes_on_beyond_a_limited_length(model, tokenizer):
    requests = [Request((tokenizer.eos_id, *range(20, 26)), 30, GREEDY, end_ids=(), seed=i) for i in range(3)]
    got = answer(model, tokenizer, *requests, slots=2, length=16)
    article = model.model_type == "danlu_article"
    assert [(a.stopped, len(a.ids)) for a in got] == [("length", 30) if article else ("context", 10)] * 3


def test_broken_weights_end_every_answer_with_an_error_and_none_is_left(tokenizer):
    broken = build_model(QWEN3, tokenizer.vocab_size, 64)
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    answers = [Answer() for _ in range(3)]
    with Engine(broken, tokenizer, slots=2) as engine:
        for taker in answers:
            engine.submit(Request((tokenizer.eos_id,)), taker)
        with pytest.raises(CheckpointError, match="not finite"):
            engine.step()
        engine.abandon("broken")
        assert not engine.busy
    assert [(a.stopped, a.pieces[-1].error) for a in answers] == [("error", "broken")] * 3


def test_wrong_requests_are_refused(model, tokenizer):
    with Engine(model, tokenizer) as engine:
        with pytest.raises(DataError, match=r"65 tokens.*64"):
            engine.submit(Request((5,) * 65), Answer())
        assert not engine.busy
    for wrong in ({"max_new_tokens": 0}, {"stop": ("",)}, {"likeliest": -1}):
        with pytest.raises(ConfigError):
            Request((5,), **wrong)
    with pytest.raises(DataError):
        Request(())
    with pytest.raises(ConfigError):
        Engine(model, tokenizer, slots=0)
