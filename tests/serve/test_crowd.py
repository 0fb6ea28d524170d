"""Many clients at once, slow ones, and ones that go: nobody's answer changes, nothing is held up or left over."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest

from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling
from danlu.serve import app as app_module

LONG = {"prompt": "长江", "max_tokens": 3900, "temperature": 0, "stream": True}


@pytest.fixture(scope="module")
def long_server(serving, long_model, taught):
    with serving(long_model, taught, slots=2, answers=3) as found:
        yield found


def lines_of(server, body):
    """Open a stream by hand; return the socket once the first event has come."""
    host, port = server.url.removeprefix("http://").split(":")
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that little is on the way when nobody reads
    line.settimeout(30)
    line.connect((host, int(port)))
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    line.sendall(head.encode() + b"\r\n\r\n" + content)
    seen = b""
    while b"data:" not in seen:
        seen += line.recv(1000)
    assert seen.startswith(b"HTTP/1.1 200")
    return line


def metric(server, name):
    text = httpx.get(f"{server.url}/metrics").text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))


def test_64_streams_at_once_are_each_what_they_are_alone(server):
    prompts = [f"第{i}篇：" + "长江是" * (i % 7) for i in range(64)]

    async def one(client, i):
        text, usage = "", None
        stream = await client.completions.create(
            model="tiny",
            prompt=prompts[i],
            stream=True,
            temperature=0,
            max_tokens=5 + i % 40,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            text += chunk.choices[0].text if chunk.choices else ""
            usage = chunk.usage
            if i % 8 == 0:
                await asyncio.sleep(0.02)
        return text, usage

    async def everybody():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(64)))

    answers = asyncio.run(everybody())
    for i, (text, usage) in enumerate(answers):
        alone = generate(
            server.model, server.tokenizer, prompts[i], max_new_tokens=5 + i % 40, sampling=Sampling(temperature=0)
        )
        assert text == alone.texts[0]
        read = 1 + len(server.tokenizer.encode(prompts[i]))
        assert (usage.prompt_tokens, usage.completion_tokens) == (read, alone.tokens)
    assert server.idle()


def test_who_goes_in_the_middle_frees_the_place(long_server):
    for _ in range(4):  # more than there are places
        lines_of(long_server, LONG).close()
        assert long_server.idle(5)
    body = {**LONG, "stream": False}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{long_server.url}/v1/completions", json=body, timeout=0.3)
    assert long_server.idle(5)
    assert metric(long_server, "danlu_answers_running") == 0


def test_a_client_that_is_killed_frees_the_place(long_server):
    code = f"import httpx; httpx.post({long_server.url + '/v1/completions'!r}, json={LONG!r}, timeout=60)"
    client = subprocess.Popen([sys.executable, "-c", code])
    while not long_server.app.worker.running:
        time.sleep(0.01)
    client.kill()
    client.wait()
    assert long_server.idle(5)


def test_too_many_are_told_to_come_again(long_server):
    lines = [lines_of(long_server, LONG), lines_of(long_server, LONG)]
    waiting = threading.Thread(
        target=lambda: long_server.client.completions.create(model="tiny", prompt="长江", max_tokens=2)
    )
    waiting.start()
    while long_server.app.desk.under_way < 3:
        time.sleep(0.01)
    assert metric(long_server, "danlu_answers_waiting") == 1
    refusal = httpx.post(f"{long_server.url}/v1/completions", json={"prompt": "长江"})
    assert refusal.status_code == 429
    assert refusal.headers["retry-after"] == "1"
    assert refusal.json()["error"]["code"] == "rate_limit_exceeded"
    for line in lines:
        line.close()
    waiting.join(10)
    assert not waiting.is_alive()
    assert long_server.idle(5)
    never = httpx.post(f"{long_server.url}/v1/completions", json={"prompt": "长江", "n": 4})
    assert never.status_code == 400


@pytest.mark.slow
def test_a_slow_reader_holds_up_nobody_and_is_left(serving, long_model, taught, monkeypatch):
    """Its answers, far more than sockets hold, are joined until it reads; when it never does, its line is cut."""
    monkeypatch.setattr(app_module, "_PATIENCE_S", 1.0)
    with serving(long_model, taught) as server:
        line = lines_of(server, {**LONG, "logprobs": 20, "n": 3})
        started = time.monotonic()
        server.client.completions.create(model="tiny", prompt="长江", max_tokens=20)
        assert time.monotonic() - started < 5
        assert server.idle(60)
        line.settimeout(10)
        received = b""
        while piece := line.recv(1 << 20):
            received += piece
        assert b"[DONE]" not in received
        line.close()


@pytest.mark.slow
def test_a_slow_reader_gets_everything(long_server):
    body = {**LONG, "max_tokens": 600, "logprobs": 20}
    told, reads = [], 0
    with httpx.stream("POST", f"{long_server.url}/v1/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                told += json.loads(line[6:])["choices"][0]["logprobs"]["tokens"]
            reads += 1
            if reads == 5:
                time.sleep(2)
    assert line == "data: [DONE]" or not line
    assert len(told) == 600


def test_time_is_up(serving, long_model, taught):
    with serving(long_model, taught, seconds=0.5) as server:
        with pytest.raises(openai.APIStatusError) as late:
            server.client.completions.create(model="tiny", prompt="长江", max_tokens=3900, temperature=0)
        assert (late.value.status_code, late.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError, match="longer than"):
            list(server.client.completions.create(model="tiny", **LONG))
        assert server.idle()


def test_the_counts_are_right(serving, random_model, taught):
    with serving(random_model, taught) as server:
        done = [server.client.completions.create(model="tiny", prompt="长江", n=2, max_tokens=7) for _ in range(3)]
        httpx.post(f"{server.url}/v1/completions", content=b"{", headers={"content-type": "application/json"})
        httpx.get(f"{server.url}/nothing")
        text = httpx.get(f"{server.url}/metrics").text
        assert 'danlu_requests_total{route="/v1/completions",status="200"} 3\n' in text
        assert 'danlu_requests_total{route="/v1/completions",status="400"} 1\n' in text
        assert 'danlu_requests_total{route="other",status="404"} 1\n' in text
        assert metric(server, "danlu_prompt_tokens_total") == sum(d.usage.prompt_tokens for d in done)
        assert metric(server, "danlu_completion_tokens_total") == sum(d.usage.completion_tokens for d in done)
        assert metric(server, "danlu_first_token_seconds_count") == 3
        assert metric(server, "danlu_request_seconds_count") == 3
