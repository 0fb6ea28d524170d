"""The engine's thread: asked from many threads, nobody is forgotten."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from danlu.errors import DanluError, DataError
from danlu.infer.engine import Engine
from danlu.infer.generate import generate
from danlu.infer.request import Request
from danlu.infer.sampling import Sampling
from danlu.infer.worker import Worker

GREEDY = Sampling(temperature=0)


@pytest.fixture
def worker(random_model, tokenizer):
    made = Worker(Engine(random_model, tokenizer, slots=4))
    yield made
    made.close(finish=False)


def ask(worker, request, cancel_after=None):
    """Wait for an answer; return its text and why it ended."""
    done, pieces = threading.Event(), []
    number = None

    def take(piece):
        pieces.append(piece)
        if piece.stopped:
            done.set()
        elif cancel_after is not None and len(pieces) == cancel_after:
            worker.cancel(number)

    number = worker.submit(request, take)
    assert done.wait(60)
    return "".join(p.text for p in pieces), pieces[-1].stopped


def requests(tokenizer, count):
    return [Request((tokenizer.eos_id, 20 + i), 5 + i, GREEDY, end_ids=()) for i in range(count)]


def test_many_threads_get_what_each_gets_alone(worker, random_model, tokenizer):
    wanted = requests(tokenizer, 24)
    with ThreadPoolExecutor(24) as pool:
        got = list(pool.map(lambda r: ask(worker, r), wanted))
    assert [stopped for _, stopped in got] == ["length"] * 24
    endless = tokenizer.ending_with("<|im_end|>")
    endless.end_ids = []
    for request, (text, _) in zip(wanted, got, strict=True):
        alone = generate(random_model, endless, request.ids, max_new_tokens=request.max_new_tokens, sampling=GREEDY)
        assert text == alone.texts[0]
    assert (worker.running, worker.waiting) == (0, 0)


def test_a_cancelled_answer_says_so_and_others_go_on(worker, tokenizer):
    long = Request((tokenizer.eos_id, 50), 100, GREEDY, end_ids=())
    with ThreadPoolExecutor(8) as pool:
        cut = [pool.submit(ask, worker, long, 3) for _ in range(4)]
        whole = [pool.submit(ask, worker, request) for request in requests(tokenizer, 4)]
    assert [f.result()[1] for f in cut] == ["cancelled"] * 4
    assert [f.result()[1] for f in whole] == ["length"] * 4


def test_a_prompt_that_does_not_fit_is_refused_at_once(worker, tokenizer):
    with pytest.raises(DataError, match="200 tokens"):
        worker.submit(Request((5,) * 200), lambda piece: None)
    assert worker.waiting == 0


@pytest.mark.parametrize(("finish", "ends"), [(True, {"length"}), (False, {"cancelled"})])
def test_closing_finishes_or_cancels_and_refuses_the_rest(random_model, tokenizer, finish, ends):
    worker = Worker(Engine(random_model, tokenizer, slots=2))
    stopped = []
    for _ in range(6):
        request = Request((tokenizer.eos_id, 50), 100, GREEDY, end_ids=())
        worker.submit(request, lambda piece: stopped.append(piece.stopped) if piece.stopped else None)
    worker.close(finish)
    assert len(stopped) == 6
    assert set(stopped) == ends
    with pytest.raises(DanluError, match="closed"):
        worker.submit(Request((5,)), lambda piece: None)


def test_after_a_failed_step_the_next_request_is_answered(worker, random_model, tokenizer, monkeypatch):
    request = requests(tokenizer, 1)[0]
    expected = ask(worker, request)
    whole = type(random_model).forward

    def fails(*args, **kwargs):
        monkeypatch.setattr(type(random_model), "forward", whole)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(random_model), "forward", fails)
    assert ask(worker, request) == ("", "error")
    assert ask(worker, request) == expected
    assert not torch.is_inference_mode_enabled()
