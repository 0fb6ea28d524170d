"""`danlu bench`: what this machine does in a second, in training, generating and preparing."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from danlu import storage
from danlu.commands import SourceOptions, finish, required
from danlu.config import TrainConfig
from danlu.configure import check, parse_flags, read_tables
from danlu.errors import ConfigError

_WARM_UP = 2
_ROUNDS = 3
USAGE = """usage: danlu bench train [--preset nano] [--batch 4] [--context 512] [--steps 10] [--precision auto]
                         [--attention auto] [--blas auto] [--json]
       danlu bench generate CKPT [--streams 1] [--prompt-tokens 16] [--new-tokens 128] [--precision auto] [--json]
       danlu bench prepare SRC… --tokenizer DIR [--json]

See danlu bench train --help"""


@dataclass(frozen=True)
class Train:
    """Time whole steps (forward, backward, clip, update) on random tokens."""

    preset: str = "nano"
    """preset or TOML file"""
    batch: int = 4
    """rows of a step"""
    context: int = 512
    """tokens of a row"""
    steps: int = 10
    """steps timed, after two to warm up"""
    vocab_size: int = 6400
    """entries"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: a short timed matrix product decides"""
    attention: Literal["auto", "sdpa", "blocked", "fused"] = "auto"
    """CPU kernel; auto: fused where the extra [fast] is installed, which runs of hours try"""
    blas: Literal["auto", "torch", "numpy"] = "auto"
    """whose matrix products fused takes in fp32; auto: the faster"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute"""
    compile: bool = False
    """torch.compile the model"""
    json: bool = False
    """print one JSON object as the last line"""


@dataclass(frozen=True)
class Generate:
    """Time whole continuations of one prompt, three rounds."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder or run folder"""
    streams: int = 1
    """samples drawn side by side"""
    prompt_tokens: int = 16
    """tokens of the prompt, its begin mark included"""
    new_tokens: int = 128
    """tokens of each continuation"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: a short timed matrix product decides"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute"""
    json: bool = False
    """print one JSON object as the last line"""


@dataclass(frozen=True)
class Prepare(SourceOptions):
    """Time `danlu prepare` as it is, into a folder that is thrown away."""

    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, `demo`, `demo-chat`, sets on a hub (danlu fetch --help) or names of `danlu corpora`"""
    tokenizer: Path | None = None
    """tokenizer folder"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, measure, print."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    kinds: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
        "train": (Train, bench_train),
        "generate": (Generate, bench_generate),
        "prepare": (Prepare, bench_prepare),
    }
    if argv[0] not in kinds:
        raise ConfigError(f"danlu bench: {argv[0]!r} is nothing it does. Known: {', '.join(kinds)}")
    options_class, measure = kinds[argv[0]]
    options = parse_flags(options_class, argv[1:], f"danlu bench {argv[0]}")
    result = measure(options)
    return finish(result, _text(result), options.json)


def bench_train(options: Train) -> dict[str, Any]:
    """Make steps as the trainer does. Raises ConfigError for sizes that make no sense."""
    import torch

    from danlu.config import DeviceConfig
    from danlu.model import build_model
    from danlu.train import devices
    from danlu.train.objectives import NextToken
    from danlu.train.optim import Optimizer
    from danlu.train.step import split, train_step
    from danlu.types import Batch

    _require_positive(batch=options.batch, context=options.context, steps=options.steps, vocab_size=options.vocab_size)
    config = check(TrainConfig, read_tables(options.preset), options.preset)
    wanted = DeviceConfig(
        name=options.device, precision=options.precision, attention=options.attention, blas=options.blas
    )
    machine = devices.probe(wanted, options.context)
    model = build_model(config.model, options.vocab_size, options.context)
    free = options.attention == "auto" and machine.device == "cpu" and not options.compile
    if not model.fusible:
        machine = machine.unfused()
    elif machine.attention == "fused" or (free and devices.can_fuse()):
        machine = devices.fused(machine, wanted)
    devices.require_blas(machine, wanted)
    device = devices.prepare(machine, deterministic=False)
    model.to(device)
    model.compute_dtype, model.attention = machine.dtype, machine.attention
    compute = torch.compile(model, dynamic=False) if options.compile else model
    optimizer = Optimizer(model, config.optim, machine.dtype)
    shape = (options.batch, options.context)
    ids, labels = (torch.randint(options.vocab_size, shape, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    batch, seconds = Batch(ids, labels), []
    for _ in range(_WARM_UP + options.steps):
        start = time.perf_counter()
        parts = split(batch, options.batch, device)
        train_step(compute, optimizer, NextToken(), parts, batch.ids_BT.numel(), config.optim.clip)  # pyright: ignore
        seconds.append(time.perf_counter() - start)
    seconds = seconds[_WARM_UP:]
    tokens, flops = batch.ids_BT.numel(), model.flops_per_token(options.context)
    return {
        "tokens_per_second": _spread([tokens / s for s in seconds]),
        "precision": machine.precision,
        "device": machine.device,
        "attention": machine.attention,
        "blas": machine.blas,
        "gemm_share": flops * tokens / statistics.median(seconds) / machine.gemm_flops,
        "gemm_flops": machine.gemm_flops,
        "peak_memory_mb": _peak_memory_mb(machine.device),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def bench_generate(options: Generate) -> dict[str, Any]:
    """Continue a prompt of the wanted length; a stream that ends by itself counts what it wrote until then."""
    from danlu.checkpoint import load_model, load_tokenizer
    from danlu.config import DeviceConfig
    from danlu.infer.generate import generate
    from danlu.train import devices

    _require_positive(streams=options.streams, prompt_tokens=options.prompt_tokens, new_tokens=options.new_tokens)
    folder = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    if options.prompt_tokens + options.new_tokens > model.context:
        wanted = options.prompt_tokens + options.new_tokens
        raise ConfigError(f"{wanted:,} tokens do not fit into the model's context of {model.context:,}: ask for fewer")
    machine = devices.probe(DeviceConfig(name=options.device, precision=options.precision), model.context)
    model.to(devices.prepare(machine, deterministic=False))
    model.compute_dtype, model.compiled = machine.dtype, True
    one = tokenizer.decode([next(i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).isalnum())])
    prompt = _of_tokens(one, options.prompt_tokens - 1, tokenizer.encode)
    speeds: list[float] = []
    for round_ in range(_ROUNDS + 1):
        done = generate(
            model,
            tokenizer,
            prompt,
            max_new_tokens=options.new_tokens,
            samples=options.streams,
            seed=round_,
        )
        speeds.append(done.tokens_per_second)
    return {
        "tokens_per_second": _spread(speeds[1:]),
        "precision": machine.precision,
        "device": machine.device,
        "streams": options.streams,
        "peak_memory_mb": _peak_memory_mb(machine.device),
    }


def bench_prepare(options: Prepare) -> dict[str, Any]:
    """Prepare the sources once."""
    from danlu.commands import prepare_

    folder = required(options.tokenizer, "--tokenizer", "name its folder, or make one: danlu tokenizer train SRC")
    sources = options.corpus(options.sources)
    with tempfile.TemporaryDirectory() as scratch, storage.clear_errors(Path(scratch)):
        known = {name: getattr(options, name) for name in ("sources", "text_key", "txt_unit", "skip_bad")}
        started = time.perf_counter()
        manifest, _ = prepare_.prepare_sources(prepare_.Options(**known), folder, Path(scratch) / "shards")
        seconds = time.perf_counter() - started
    tokens = sum(entry["tokens"] for entry in manifest["splits"].values())
    return {
        "megabytes_per_second": sources.bytes_total / 1e6 / seconds,
        "tokens_per_second": tokens / seconds,
        "tokens": tokens,
        "seconds": seconds,
    }


def _of_tokens(piece: str, tokens: int, encode: Callable[[str], Sequence[int]]) -> str:
    """Return a text of about so many tokens."""
    text = ""
    while len(encode(text + piece + "。")) <= tokens:
        text += piece + "。"
    return text


def _require_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {count}: give 1 or more")


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _peak_memory_mb(device: str) -> float:
    """Return the accelerator's peak of allocated memory, or this process's peak of resident memory, in MB."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would count what the parent had when it forked
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _text(result: dict[str, Any]) -> str:
    lines: list[str] = []
    for name, value in result.items():
        shown = value
        if isinstance(value, dict):
            shown = f"{value['median']:,.1f} (min {value['min']:,.1f}, max {value['max']:,.1f})"
        elif isinstance(value, float):
            shown = f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
        lines.append(f"{name:<22}{shown}")
    return "\n".join(lines)
