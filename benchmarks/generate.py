"""One stream of generation beside transformers.generate: same weights, same precision, greedy, same run.

usage: python benchmarks/generate.py [--precision fp32|bf16] [--rounds 5] [--new-tokens 128] [--preset small-25m]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling
from danlu.model import build_model
from danlu.tokenizer import train_tokenizer

Run = Callable[[], tuple[int, str]]
"""Returns the new tokens' number and text."""


def make_runs(preset: str, dtype: torch.dtype, new_tokens: int) -> dict[str, Run]:
    config = check(TrainConfig, read_tables(preset), preset)
    ours = build_model(config.model, 6400, config.context).eval()
    with torch.no_grad():  # zero projections would make every layer do nothing
        for parameter in ours.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.05)
    theirs: Any = Qwen3ForCausalLM(Qwen3Config(**ours.hf_config())).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.to(dtype)
    ours.compute_dtype = dtype
    draw = random.Random(0)
    words = ["".join(chr(draw.randrange(0x4E00, 0x5E00)) for _ in range(2)) for _ in range(4000)]
    tokenizer = train_tokenizer(words, 6400)  # the model's size, so that every entry it chooses has a text
    prompt = "珠穆朗玛峰是"
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(prompt)]])

    def danlu() -> tuple[int, str]:
        done = generate(ours, tokenizer, prompt, max_new_tokens=new_tokens, sampling=Sampling(temperature=0))
        return done.tokens, done.texts[0]

    def transformers() -> tuple[int, str]:
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
        return out.shape[1] - ids.shape[1], tokenizer.decode(out[0, ids.shape[1] :].tolist())

    return {"danlu": danlu, "transformers": transformers}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--preset", default="small-25m")
    args = parser.parse_args()
    torch.manual_seed(0)
    runs = make_runs(args.preset, torch.bfloat16 if args.precision == "bf16" else torch.float32, args.new_tokens)
    texts = {name: go()[1] for name, go in runs.items()}
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, go in runs.items():
            start = time.perf_counter()
            tokens, _ = go()
            speeds[name].append(tokens / (time.perf_counter() - start))
            assert tokens == args.new_tokens
    ratios = [a / b for a, b in zip(speeds["danlu"], speeds["transformers"], strict=True)]
    print(f"{args.preset}, {args.precision}, {args.new_tokens} new tokens, {torch.get_num_threads()} threads")
    for name, found in speeds.items():
        print(f"{name:<14}{statistics.median(found):8.1f} tokens/s (min {min(found):.1f}, max {max(found):.1f})")
    print(f"texts {'equal' if texts['danlu'] == texts['transformers'] else 'differ'}")
    print(f"ratio {statistics.median(ratios):.2f}x, median of pairs (min {min(ratios):.2f}, max {max(ratios):.2f})")


if __name__ == "__main__":
    main()
