"""A real server in a thread, on a free port, around a tiny model of random weights."""

import threading
import time
from contextlib import contextmanager

import openai
import pytest
import torch

from danlu.config import Qwen3Config
from danlu.infer.engine import Engine
from danlu.infer.worker import Worker
from danlu.model import build_model
from danlu.serve.app import App, Limits
from danlu.serve.served import Served
from danlu.serve.server import Server, address_of, bind

SAMPLING = {"temperature": 0.8, "top_p": 0.95}
KEY = "none"


class Running:
    """A server that runs: its address, its app, its engine's parts."""

    def __init__(self, app, model, url):
        self.app, self.model, self.url = app, model, url
        self.tokenizer = app.served.tokenizer
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60)
        self.aclient = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60)

    def idle(self, seconds=10.0):
        """Wait until nothing is under way; tell whether that came to be."""
        end = time.monotonic() + seconds
        busy = True
        while busy and time.monotonic() < end:
            worker = self.app.worker
            busy = bool(worker.running or worker.waiting or self.app.desk.under_way or self.app.gate.under_way)
            time.sleep(0.01)
        return not busy


@contextmanager
def running(model, tokenizer, *, slots=4, generation=SAMPLING, **limits):
    """Serve until the block ends."""
    worker = Worker(Engine(model, tokenizer, slots))
    served = Served("tiny", worker.engine, generation)
    app = App(worker, served, Limits(**limits))
    address = bind("127.0.0.1", 0)
    server = Server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address]})
    url = address_of(address)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Running(app, model, url)
    finally:
        server.stop()
        thread.join(30)
        worker.close(finish=False)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serving():
    return running


@pytest.fixture(scope="module")
def taught(tokenizer):
    """As fine-tuning leaves it: the end of a turn is eos."""
    return tokenizer.ending_with("<|im_end|>")


@pytest.fixture(scope="module")
def server(random_model, taught):
    with running(random_model, taught) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return server.client


@pytest.fixture(scope="module")
def long_model(tokenizer):
    """A model with a context of 4,000 tokens, so that an answer takes seconds."""
    config = Qwen3Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=48,
    )
    model = build_model(config, tokenizer.vocab_size, 4000, seed=1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model
