"""`danlu serve` under many clients, some of them abusive, and what it costs beside the engine alone. Linux only.

usage: python benchmarks/serve.py soak [--requests 10000] [--clients 32] [--abusive 0.05] [--json]
       python benchmarks/serve.py overhead [--preset small-25m] [--rounds 7] [--new-tokens 128] [--streams 1]

`soak`: no answer is lost, different from the engine's own, or wrongly counted; memory after every fifth of the
requests. `overhead`: tokens a second of streams over HTTP beside the same requests to the engine in this process,
in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from danlu.checkpoint import load_model, load_tokenizer, save_checkpoint
from danlu.config import Qwen3Config, TrainConfig
from danlu.configure import check, read_tables
from danlu.infer.engine import Engine
from danlu.infer.generate import generate
from danlu.infer.request import Request
from danlu.infer.sampling import Sampling
from danlu.model import build_model
from danlu.tokenizer import train_tokenizer

GREEDY = Sampling(temperature=0)
PROMPTS = 500
"""Different prompts: the tokenizers library remembers up to 10,000 words, some 3 kB each, which is no leak."""


def make_folder(folder: Path, preset: str | None) -> None:
    """Save a model of random weights; without a preset, one so small that the server is what is measured."""
    draw = random.Random(0)
    last = 0x4F00 if preset is None else 0x5E00
    words = ["".join(chr(draw.randrange(0x4E00, last)) for _ in range(2)) for _ in range(4000)]
    if preset is None:
        tokenizer = train_tokenizer(words, 600)
        shape = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48}
        model = build_model(Qwen3Config(hidden_size=32, num_hidden_layers=2, **shape), 600, 256)
    else:
        tokenizer = train_tokenizer(words, 6400)
        config = check(TrainConfig, read_tables(preset), preset)
        model = build_model(config.model, 6400, config.context)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # zero projections would make every layer do nothing
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(folder, model, tokenizer.ending_with("<|im_end|>"))


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `danlu serve`; it must end by itself, with status 0, when it is asked to."""
    argv = [sys.executable, "-m", "danlu", "serve", str(folder), "--port", "0", "--precision", "fp32", *flags]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    try:
        while not (found := re.search(r"at (http://\S+)", line := process.stderr.readline())):
            assert line, "the server ended"
        for _ in range(200):
            with suppress(httpx.HTTPError):
                httpx.get(f"{found[1]}/health")
                break
            time.sleep(0.05)
        yield found[1], process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, process.stderr.read()
        said = process.stderr.read()
        assert "Traceback" not in said, said
    finally:
        process.kill()


def resident_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])  # type: ignore[index]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its own and the system's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Soak:
    """What the clients ask, and what came of it."""

    def __init__(self, folder: Path, url: str, abusive: float):
        self.model, self.tokenizer = load_model(folder), load_tokenizer(folder)
        self.url, self.abusive = url, abusive
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.tokens = 0
        self._answers: list[tuple[int, str, int, str, Any]] = []

    def check(self) -> None:
        """Compare all answers with the engine's own; only now, or the clients would be the ones that are slow."""
        expected: dict[tuple[str, int], tuple[str, Any]] = {}
        for number, prompt, most, text, usage in self._answers:
            if (prompt, most) not in expected:
                done = generate(self.model, self.tokenizer, prompt, max_new_tokens=most, sampling=GREEDY)
                read, tokens = 1 + len(self.tokenizer.encode(prompt)), done.tokens
                counts = {"prompt_tokens": read, "completion_tokens": tokens, "total_tokens": read + tokens}
                expected[prompt, most] = (done.texts[0], counts)
            if (text, usage) != expected[prompt, most]:
                self.wrong.append(f"request {number}: {text!r} {usage}, not {expected[prompt, most]}")
            else:
                self.tokens += usage["completion_tokens"]

    async def one(self, client: httpx.AsyncClient, number: int) -> None:
        """Make one request of a kind that its number decides."""
        draw = random.Random(number)
        if draw.random() < self.abusive:
            kind = draw.choice([bad_json, huge, huge_chunked, gone_in_the_middle, gone_while_waiting, nonsense])
            self.done[kind.__name__] += 1
            problem = await kind(client, self.url)
        else:
            try:
                problem = await self._ask(client, draw, number)
            except httpx.HTTPError as error:
                problem = f"no answer: {error!r}"
        if problem:
            self.wrong.append(f"request {number}: {problem}")

    async def _ask(self, client: httpx.AsyncClient, draw: random.Random, number: int) -> str:
        """Ask, whole or streamed, and note the answer; return why there is none."""
        words = random.Random(draw.randrange(PROMPTS))
        prompt = "".join(chr(words.randrange(0x4E00, 0x4F00)) for _ in range(words.choice([2, 10, 40])))
        most, streamed = draw.choice([1, 8, 30]), draw.random() < 0.6
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": most, "temperature": 0, "stream": streamed}
        if streamed:
            text, usage = await self._streamed(client, {**body, "stream_options": {"include_usage": True}})
        else:
            answer = await client.post(f"{self.url}/v1/completions", json=body)
            if answer.status_code != 200:
                return f"status {answer.status_code}: {answer.text}"
            text, usage = answer.json()["choices"][0]["text"], answer.json()["usage"]
        self.done["streamed" if streamed else "whole"] += 1
        self._answers.append((number, prompt, most, text, usage))
        return ""

    async def _streamed(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, Any]:
        text, last = "", {}
        async with client.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    last = json.loads(line[6:])
                    text += last["choices"][0]["text"] if last.get("choices") else ""
        return (text, last.get("usage")) if line == "data: [DONE]" or not line else (text, f"cut: {last}")


async def bad_json(client: httpx.AsyncClient, url: str) -> str:
    headers = {"content-type": "application/json"}
    answer = await client.post(f"{url}/v1/completions", content=b'{"prompt": "\xff', headers=headers)
    return "" if answer.status_code == 400 and answer.json()["error"] else answer.text


async def huge(client: httpx.AsyncClient, url: str) -> str:
    answer = await client.post(f"{url}/v1/completions", json={"prompt": "x" * 3_000_000})
    return "" if answer.status_code == 413 and answer.json()["error"] else answer.text


async def huge_chunked(client: httpx.AsyncClient, url: str) -> str:
    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 65536

    answer = await client.post(f"{url}/v1/completions", content=pieces(), headers={"content-type": "application/json"})
    return "" if answer.status_code == 413 and answer.json()["error"] else answer.text


async def gone_in_the_middle(client: httpx.AsyncClient, url: str) -> str:
    body = {"prompt": "长江", "max_tokens": 200, "stream": True}
    async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
        async for _ in answer.aiter_lines():
            break
    return ""


async def gone_while_waiting(client: httpx.AsyncClient, url: str) -> str:
    with suppress(httpx.TimeoutException):
        await client.post(f"{url}/v1/completions", json={"prompt": "长江", "max_tokens": 200}, timeout=0.02)
    return ""


async def nonsense(client: httpx.AsyncClient, url: str) -> str:
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(random.randbytes(3000))
    with suppress(OSError):
        await writer.drain()
    writer.close()
    return ""


def soak(requests: int, clients: int, abusive: float) -> dict[str, Any]:
    """Make all requests; return what came of them."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        make_folder(folder, None)
        with serving(folder) as (url, process):
            work = Soak(folder, url, abusive)
            memory: dict[int, int] = {}
            started = time.monotonic()

            async def client(numbers: Iterator[int]) -> None:
                async with httpx.AsyncClient(timeout=120) as own:
                    for number in numbers:
                        if number and number % (requests // 5) == 0:
                            memory[number] = resident_kb(process.pid)
                        await work.one(own, number)

            async def everybody() -> None:
                numbers = iter(range(requests))
                await asyncio.gather(*(client(numbers) for _ in range(clients)))

            asyncio.run(everybody())
            seconds = time.monotonic() - started
            time.sleep(1)
            memory[requests] = resident_kb(process.pid)
            metrics = dict(line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics").text.splitlines())
        work.check()
    left = float(metrics["danlu_answers_running"]) + float(metrics["danlu_answers_waiting"])
    return {
        "requests": requests,
        "seconds": seconds,
        "kinds": dict(work.done),
        "tokens": work.tokens,
        "lost": requests - sum(work.done.values()),
        "wrong": work.wrong,
        "left_over": left,
        "resident_kb": memory,
    }


class Streams:
    """The same greedy streams, asked of the engine in this process or of a server; both return the tokens."""

    def __init__(self, folder: Path, new_tokens: int, streams: int):
        model, tokenizer = load_model(folder), load_tokenizer(folder)
        model.compiled = True  # as the server's is
        self.ids = (tokenizer.document_id, *tokenizer.encode("一丁七万"))
        self.new_tokens, self.streams = new_tokens, streams
        self._engine = Engine(model, tokenizer, 32).__enter__()  # as long as the process, like the server's

    def engine(self) -> int:
        request = Request(self.ids, self.new_tokens, GREEDY)
        replies = [self._engine.submit(request, lambda _: None) for _ in range(self.streams)]
        while self._engine.busy:
            self._engine.step()
        return sum(reply.tokens for reply in replies)

    def server(self, url: str) -> int:
        async def everybody() -> int:
            async with httpx.AsyncClient(timeout=600) as client:
                return sum(await asyncio.gather(*(self._one(client, url) for _ in range(self.streams))))

        return asyncio.run(everybody())

    async def _one(self, client: httpx.AsyncClient, url: str) -> int:
        body = {"prompt": list(self.ids), "max_tokens": self.new_tokens, "temperature": 0, "stream": True}
        usage = {}
        body["stream_options"] = {"include_usage": True}
        async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and '"usage":null' not in line:
                    usage = json.loads(line[6:])["usage"]
        return usage["completion_tokens"]


def overhead(preset: str, rounds: int, new_tokens: int, streams: int) -> None:
    """Measure both in turn, after a warming round: tokens a second, and CPU time a token, which load moves less."""
    speeds: dict[str, list[float]] = {"engine": [], "server": []}
    costs: dict[str, list[float]] = {"engine": [], "server": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        make_folder(folder, preset)
        work = Streams(folder, new_tokens, streams)
        with serving(folder) as (url, process):
            ways = {"engine": (work.engine, os.getpid()), "server": (partial(work.server, url), process.pid)}
            for number in range(rounds + 1):
                for name, (go, pid) in ways.items():
                    started, cost = time.perf_counter(), cpu_seconds(pid)
                    tokens = go()
                    assert tokens == streams * new_tokens, f"{name}: {tokens} tokens"
                    if number:
                        speeds[name].append(tokens / (time.perf_counter() - started))
                        costs[name].append((cpu_seconds(pid) - cost) / tokens * 1000)
    print(f"{preset}, fp32, {streams} streams of {new_tokens} tokens, {torch.get_num_threads()} threads")
    for name, found in speeds.items():
        spread = f"(min {min(found):.1f}, max {max(found):.1f})"
        cost = f"{statistics.median(costs[name]):.2f} ms of CPU a token"
        print(f"{name:<8}{statistics.median(found):8.1f} tokens/s {spread}, {cost}")
    ratios = [server / engine for server, engine in zip(speeds["server"], speeds["engine"], strict=True)]
    print(f"ratio {statistics.median(ratios):.3f}, median of pairs (min {min(ratios):.3f}, max {max(ratios):.3f})")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["soak", "overhead"])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--abusive", type=float, default=0.05)
    parser.add_argument("--preset", default="small-25m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.what == "overhead":
        overhead(args.preset, args.rounds, args.new_tokens, args.streams)
        return 0
    found = soak(args.requests, args.clients, args.abusive)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(f"{found['requests']:,} requests, {found['seconds']:.0f} s, {found['tokens']:,} tokens; {found['kinds']}")
        print(f"lost {found['lost']}, wrong {len(found['wrong'])}, left over {found['left_over']:g}")
        print(
            "resident: " + ", ".join(f"{kb / 1024:.1f} MiB at {n:,}" for n, kb in sorted(found["resident_kb"].items()))
        )
        print("\n".join(found["wrong"][:10]))
    return int(bool(found["lost"] or found["wrong"] or found["left_over"]))


if __name__ == "__main__":
    sys.exit(main())
