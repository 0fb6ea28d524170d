"""Generation beside transformers' `generate` with its cache: same weights, same precision, greedy, alternating rounds.

One stream; many together beside the same in turn and beside transformers' batch; the wait for the first token of a
prompt while many are being answered. With `--gguf FILE` (danlu export CKPT --format gguf) and llama-cpp-python
installed, llama.cpp's speed beside danlu's at the same checkpoint.

usage: python benchmarks/generate.py [--precision fp32|bf16] [--rounds 5] [--new-tokens 128] [--streams 32]
                                     [--preset small-25m | --checkpoint CKPT [--gguf FILE]]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.checkpoint import load_model
from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.infer.engine import Engine
from danlu.infer.request import Piece, Request
from danlu.infer.sampling import Sampling
from danlu.model import Model, build_model
from danlu.tokenizer import Tokenizer, train_tokenizer

_PROMPT = 16
_LONG_PROMPT = 400
GREEDY = Sampling(temperature=0)


def random_model(preset: str) -> Model:
    """Make a model whose every layer does something: at first the output projections are zero."""
    config = check(TrainConfig, read_tables(preset), preset)
    model = build_model(config.model, 6400, config.context).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.05)
    return model


def some_tokenizer(entries: int) -> Tokenizer:
    draw = random.Random(0)
    words = ["".join(chr(draw.randrange(0x4E00, 0x5E00)) for _ in range(2)) for _ in range(4000)]
    return train_tokenizer(words, entries)


def answer(model: Model, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    """Continue all prompts together, greedily and past every end mark."""
    found: list[list[int]] = [[] for _ in prompts]

    def taker(i: int) -> Callable[[Piece], None]:
        return lambda piece: found[i].extend(token.id for token in piece.tokens)

    with Engine(model, tokenizer, len(prompts), len(prompts[0]) + new_tokens) as engine:
        for i, prompt in enumerate(prompts):
            engine.submit(Request(tuple(prompt), new_tokens, GREEDY, end_ids=()), taker(i))
        while engine.busy:
            engine.step()
    return found


def in_transformers(theirs: Any, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    ids = torch.tensor(prompts)
    with torch.inference_mode():
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[:, ids.shape[1] :].tolist()


def in_llama(gguf: Path, new_tokens: int) -> Callable[[Sequence[int]], list[int]]:
    """Return llama.cpp's greedy continuation of one prompt; its logits are looked at as ours are."""
    from llama_cpp import Llama

    llama = Llama(str(gguf), n_ctx=512, n_threads=torch.get_num_threads(), verbose=False)

    def run(prompt: Sequence[int]) -> list[int]:
        llama.reset()
        tokens: list[int] = []
        for token in llama.generate(list(prompt), temp=0.0, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == new_tokens:
                break
        return tokens

    return run


def first_token(model: Model, tokenizer: Tokenizer, streams: int, draw: random.Random) -> list[float]:
    """Return the seconds to the first token of long prompts that come one by one while `streams` are answered."""
    came: list[float] = []
    with Engine(model, tokenizer, streams + 1) as engine:

        def prompt(tokens: int) -> tuple[int, ...]:
            return tuple(draw.randrange(3, engine.entries) for _ in range(tokens))

        for _ in range(streams):
            engine.submit(Request(prompt(_PROMPT), model.context - _PROMPT, GREEDY, end_ids=()), lambda _: None)
        while engine.waiting:
            engine.step()
        for _ in range(5):
            engine.submit(Request(prompt(_LONG_PROMPT), 1, GREEDY), lambda _: came.append(time.perf_counter()))
            started = time.perf_counter()
            while engine.waiting or len(came) % 2 == 0:
                engine.step()
            came.append(started)
            for _ in range(3):
                engine.step()
        assert engine.running == streams
    return [end - start for end, start in zip(came[::2], came[1::2], strict=True)]


def measure(runs: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Return tokens a second of every run, round after round."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            tokens = run()
            if round_:
                speeds[name].append(tokens / (time.perf_counter() - start))
    return speeds


def say(name: str, found: list[float]) -> None:
    print(f"{name:<34}{statistics.median(found):9.1f} tokens/s (min {min(found):.1f}, max {max(found):.1f})")


def compare(speeds: dict[str, list[float]], one: str, other: str) -> None:
    ratios = [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
    print(f"{one} / {other}: {statistics.median(ratios):.2f}x (min {min(ratios):.2f}, max {max(ratios):.2f})")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--preset", default="small-25m")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--gguf", type=Path)
    return parser.parse_args()


def models(args: argparse.Namespace) -> tuple[Model, Any]:
    """Return danlu's model and transformers', of the same weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    model = load_model(args.checkpoint) if args.checkpoint else random_model(args.preset)
    model.compute_dtype, model.compiled = torch.bfloat16 if args.precision == "bf16" else torch.float32, True
    theirs: Any = Qwen3ForCausalLM(Qwen3Config(**model.hf_config())).eval()
    theirs.load_state_dict(model.state_dict(), strict=False)
    return model, theirs.to(model.compute_dtype)


def equal_share(ours: list[list[int]], others: list[list[int]]) -> float:
    """Return the share of tokens before the first difference."""
    pairs = zip(ours, others, strict=True)
    same = [next((i for i, (a, b) in enumerate(zip(*p, strict=True)) if a != b), len(p[0])) for p in pairs]
    return sum(same) / sum(map(len, ours))


def main() -> None:
    args = parse()
    model, theirs = models(args)
    tokenizer = some_tokenizer(model.vocab_size)
    draw = random.Random(1)
    prompts = [[draw.randrange(3, model.vocab_size) for _ in range(_PROMPT)] for _ in range(args.streams)]
    n = args.new_tokens

    def count(found: list[list[int]]) -> int:
        assert all(len(ids) == n for ids in found)
        return sum(map(len, found))

    one, many = "one", f"{args.streams} together"
    runs: dict[str, Callable[[], int]] = {
        f"danlu, {one}": lambda: count(answer(model, tokenizer, prompts[:1], n)),
        f"transformers, {one}": lambda: count(in_transformers(theirs, prompts[:1], n)),
        f"danlu, {many}": lambda: count(answer(model, tokenizer, prompts, n)),
        f"transformers, {many}": lambda: count(in_transformers(theirs, prompts, n)),
    }
    if args.gguf:
        llama = in_llama(args.gguf, n)
        runs["llama.cpp, one"] = lambda: count([llama(prompts[0])])
    what = args.checkpoint or args.preset
    print(f"{what}, {args.precision}, prompts of {_PROMPT}, {n} new tokens, {torch.get_num_threads()} threads")
    same = equal_share(answer(model, tokenizer, prompts, n), in_transformers(theirs, prompts, n))
    print(f"greedy tokens equal to transformers' until the first difference: {same:.1%}")
    speeds = measure(runs, args.rounds)
    for name, found in speeds.items():
        say(name, found)
    compare(speeds, f"danlu, {one}", f"transformers, {one}")
    compare(speeds, f"danlu, {many}", f"danlu, {one}")
    compare(speeds, f"danlu, {many}", f"transformers, {many}")
    if args.gguf:
        compare(speeds, f"danlu, {one}", "llama.cpp, one")
    if model.context > _LONG_PROMPT:
        waits = first_token(model, tokenizer, args.streams, draw)
        print(
            f"first token of a prompt of {_LONG_PROMPT}, {args.streams} streams running: "
            f"{statistics.median(waits):.2f} s (max {max(waits):.2f})"
        )


if __name__ == "__main__":
    main()
