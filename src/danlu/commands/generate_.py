"""`danlu generate`: continue a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from danlu.commands import finish, required
from danlu.configure import parse_flags
from danlu.errors import DataError

if TYPE_CHECKING:
    from danlu.infer.engine import Generated, OnText


@dataclass(frozen=True)
class Options:
    """Continue a prompt with a checkpoint of danlu or transformers, or a run folder's best."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder or run folder"""
    prompt: Positional[str] = "珠穆朗玛峰是"
    """text to continue"""
    max_new_tokens: int = 100
    """longest continuation"""
    temperature: float = 0.8
    """0: always the likeliest token"""
    top_k: int = 0
    """draw from the k likeliest only; 0: off"""
    top_p: float = 0.95
    """draw from the smallest set with this probability; 1: off"""
    min_p: float = 0.0
    """draw from tokens at least this share as likely as the likeliest; 0: off"""
    repetition_penalty: float = 1.0
    """makes seen tokens less likely; 1: off"""
    seed: int = 0
    """of the random draws"""
    samples: int = 1
    """continuations"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute; auto: cuda, else mps, else cpu"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """compute type"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, generate, print; one sample is streamed as it comes."""
    options = parse_flags(Options, argv, "danlu generate")
    folder = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    _require_utf8(options.prompt)
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
    speed = f"[{done.tokens:,} tokens, {done.tokens_per_second:,.0f} tokens/s, stopped by {', '.join(done.stopped)}]"
    return finish(result, f"{shown}\n{speed}", options.json)


def _require_utf8(prompt: str) -> None:
    """Raise DataError for bytes of another encoding, which Python hands on as lone surrogates."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        byte = ord(prompt[error.start]) & 0xFF
        raise DataError(
            f"PROMPT, character {error.start + 1}: byte {byte:#04x} is no UTF-8. Set the terminal to UTF-8, "
            "or convert the text (iconv -f GBK -t UTF-8)"
        ) from None


class _Stream:
    """Prints pieces of one text; the prompt comes with the first, so that an error before it leaves stdout empty."""

    def __init__(self, prompt: str):
        self._unsaid = prompt

    def __call__(self, _: int, text: str) -> None:
        print(self._unsaid + text, end="", flush=True)
        self._unsaid = ""


def _generate(folder: Path, options: Options, on_text: OnText | None) -> Generated:
    """Load, and generate on the device that was asked for."""
    import torch

    from danlu.checkpoint import load_model, load_tokenizer
    from danlu.infer.engine import generate
    from danlu.infer.sampling import Sampling
    from danlu.train.devices import Machine, prepare

    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty)
    machine = Machine(options.device, options.precision, torch.get_num_threads(), gemm_flops=0.0)
    device = prepare(machine, deterministic=False)
    model, tokenizer = load_model(folder, device=device.type), load_tokenizer(folder)
    model.compute_dtype = machine.dtype
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
