"""`danlu generate`: continue a prompt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from danlu.commands import DrawOptions, finish, require_utf8, required
from danlu.configure import parse_flags

if TYPE_CHECKING:
    from danlu.infer.generate import Generated, OnText


_WORTH_LOADING = 200
"""Fewer tokens are written sooner without compiled code, which takes a second to load."""


@dataclass(frozen=True)
class Options(DrawOptions):
    """Continue a prompt with a checkpoint of danlu or transformers, or a run folder's best."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder or run folder"""
    prompt: Positional[str] = "珠穆朗玛峰是"
    """text to continue"""
    max_new_tokens: int = 100
    """longest continuation"""
    samples: int = 1
    """continuations"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, generate, print; one sample is streamed as it comes."""
    options = parse_flags(Options, argv, "danlu generate")
    folder = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    require_utf8(options.prompt, "PROMPT")
    streamed = options.samples == 1 and not options.json
    stream = _Stream(options.prompt)
    done = _generate(folder, options, stream if streamed else None)
    result = {
        "prompt": done.prompt,
        "texts": done.texts,
        "stopped": done.stopped,
        "tokens": done.tokens,
        "seconds": done.seconds,
        "tokens_per_second": done.tokens_per_second,
    }
    if streamed:
        stream(0, "")
    shown = "" if streamed else "\n---\n".join(done.prompt + text for text in done.texts)
    speed = f"[{done.tokens:,} tokens, {done.tokens_per_second:,.0f} tokens/s, stopped by {_counted(done.stopped)}]"
    return finish(result, f"{shown}\n{speed}", options.json)


def _counted(stopped: list[str]) -> str:
    counts = Counter(stopped)
    return ", ".join(reason if len(stopped) == 1 else f"{reason} {count:,}×" for reason, count in counts.items())


class _Stream:
    """Prints pieces of one text; the prompt comes with the first, so that an error before it leaves stdout empty."""

    def __init__(self, prompt: str):
        self._unsaid = prompt

    def __call__(self, _: int, text: str) -> None:
        print(self._unsaid + text, end="", flush=True)
        self._unsaid = ""


def _generate(folder: Path, options: Options, on_text: OnText | None) -> Generated:
    """Load, and generate."""
    from danlu.infer.generate import generate

    sampling = options.sampling()
    model, tokenizer = options.load(folder)
    model.compiled = options.max_new_tokens >= _WORTH_LOADING
    return generate(
        model,
        tokenizer,
        options.prompt,
        max_new_tokens=options.max_new_tokens,
        sampling=sampling,
        seed=options.seed,
        samples=options.samples,
        on_text=on_text,
    )
