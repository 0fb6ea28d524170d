"""One whole training step (forward, backward, clip, update) of danlu beside its peers at 25M parameters, in turn.

Peers: transformers' Qwen3ForCausalLM (danlu's own shape) and GPT2LMHeadModel, PyTorch's nn.TransformerEncoderLayer,
and the article's model computed head by head. All update with fused AdamW, so that only the model differs;
`danlu, muon` is danlu as its preset trains. Models of other shapes are compared by model FLOPs (6 a matrix weight, and
attention's). The share of GEMM is taken of the step's own matrix products, done alone. At the end: each at its best
precision. Each runs in a process of its own.

usage: python benchmarks/peers.py [--precision fp32 bf16] [--rounds 5] [--rows 4] [--window 512] [--only NAME …]
           [--micro-batch-tokens 0] [--attention fused] [--blas auto]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from article import head_by_head
from torch import Tensor, nn

from danlu.config import DeviceConfig, TrainConfig
from danlu.configure import check, read_tables
from danlu.model import blas, build_model
from danlu.model.article import to_article_state
from danlu.train import devices
from danlu.train.objectives import NextToken
from danlu.train.optim import Optimizer
from danlu.train.step import accumulate, split
from danlu.types import Batch

VOCABULARY = 6400


@dataclass(frozen=True)
class Peer:
    """A step, and what it costs by the book."""

    step: Callable[[], object]
    flops_per_token: float


def flops(matrix_weights: int, layers: int, width: int, window: int) -> float:
    return 6.0 * matrix_weights + 6.0 * layers * width * window


def trained(backward: Callable[[], object], parameters: list[nn.Parameter]) -> Callable[[], object]:
    """Make a step: forward and backward, clip, fused AdamW."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def danlu(ids: Tensor, machine: devices.Machine, preset: str = "small-25m", muon: bool = False) -> Peer:
    micro_batch_tokens = machine.micro_batch_tokens or ids.numel()
    config = check(TrainConfig, read_tables(preset), preset)
    model = build_model(config.model, VOCABULARY, ids.shape[1]).to(ids.device)
    if not model.fusible:
        machine = machine.unfused()
    devices.prepare(machine, deterministic=False)
    model.compute_dtype, model.attention = machine.dtype, machine.attention
    model.eval()  # no dropout, as in the article computed head by head
    labels = ids.roll(-1, 1)

    batches = list(split(Batch(ids, labels), max(1, micro_batch_tokens // ids.shape[1]), ids.device))

    def backward() -> None:
        accumulate(model, NextToken(), batches, ids.numel())

    optim = config.optim if muon else config.optim.model_copy(update={"name": "adamw"})
    optimizer = Optimizer(model, optim, machine.dtype)

    def step() -> None:
        backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Peer(step, model.flops_per_token(ids.shape[1]))


def qwen3(ids: Tensor, machine: devices.Machine) -> Peer:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = check(TrainConfig, read_tables("small-25m"), "small-25m")
    ours = build_model(config.model, VOCABULARY, ids.shape[1])
    model = Qwen3ForCausalLM(Qwen3Config(**ours.hf_config())).train().to(ids.device)
    return Peer(hugging_face(model, ids, machine), ours.flops_per_token(ids.shape[1]))


def gpt2(ids: Tensor, machine: devices.Machine) -> Peer:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 512, "n_layer": 7, "n_head": 8, "n_positions": ids.shape[1]}
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **sizes, **off)).train()
    model = model.to(ids.device)
    return Peer(hugging_face(model, ids, machine), flops(7 * 12 * 512**2 + VOCABULARY * 512, 7, 512, ids.shape[1]))


def hugging_face(model: nn.Module, ids: Tensor, machine: devices.Machine) -> Callable[[], object]:
    def loss() -> Tensor:
        with autocast(machine):
            return model(input_ids=ids, labels=ids, use_cache=False).loss

    return trained(lambda: loss().backward(), list(model.parameters()))


def encoder_layers(ids: Tensor, machine: devices.Machine) -> Peer:
    """Six post-norm layers of 512, GELU, no dropout, untied output."""
    layer = nn.TransformerEncoderLayer(512, 8, 2048, 0.0, "gelu", batch_first=True)
    parts = nn.ModuleDict(
        {
            "embedding": nn.Embedding(VOCABULARY, 512),
            "layers": nn.TransformerEncoder(layer, 6, enable_nested_tensor=False),
            "head": nn.Linear(512, VOCABULARY, bias=False),
        }
    ).to(ids.device)
    mask, labels = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], ids.device), ids.roll(-1, 1)

    def loss() -> Tensor:
        with autocast(machine):
            hidden = parts["layers"](parts["embedding"](ids), mask=mask, is_causal=True)
            return F.cross_entropy(parts["head"](hidden).flatten(0, 1).float(), labels.flatten())

    cost = flops(6 * 12 * 512**2 + VOCABULARY * 512, 6, 512, ids.shape[1])
    return Peer(trained(lambda: loss().backward(), list(parts.parameters())), cost)


def article_by_head(ids: Tensor, machine: devices.Machine) -> Peer:
    config = check(TrainConfig, read_tables("article-v2"), "article-v2")
    model = build_model(config.model, VOCABULARY, ids.shape[1])
    state = {name: tensor.detach().clone() for name, tensor in to_article_state(model).items()}  # pyright: ignore
    parameters = [nn.Parameter(t) for name, t in state.items() if not name.endswith("mask")]
    state |= dict(zip((n for n in state if not n.endswith("mask")), parameters, strict=True))
    labels = ids.roll(-1, 1)
    sizes = (config.model.num_hidden_layers, config.model.num_attention_heads, ids.shape[1])

    def loss() -> Tensor:
        with autocast(machine):
            return F.cross_entropy(head_by_head(state, ids, *sizes).flatten(0, 1).float(), labels.flatten())

    return Peer(trained(lambda: loss().backward(), parameters), model.flops_per_token(ids.shape[1]))


def products(ids: Tensor, machine: devices.Machine) -> Peer:
    """Do the matrix products of danlu's step and nothing else, forward and backward; attention's are left out."""
    blas.use(machine.blas)
    config = check(TrainConfig, read_tables("small-25m"), "small-25m").model
    model = build_model(config, VOCABULARY, ids.shape[1])
    D, inner = config.hidden_size, config.intermediate_size
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    sizes = [(D, (heads + 2 * groups) * config.head_dim), (heads * config.head_dim, D), (D, 2 * inner), (inner, D)]

    def operands(width: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, slope = (torch.randn(shape) for shape in ((ids.numel(), width), (rows, width), (ids.numel(), rows)))
        return tuple(t.to(ids.device, machine.dtype) for t in (x, weight, slope))  # pyright: ignore[reportReturnType]

    made = [operands(*size) for size in [*sizes * config.num_hidden_layers, (D, VOCABULARY)]]

    def step() -> None:
        for x, weight, slope in made:
            blas.product(x, weight.mT)
            blas.product(slope, weight)
            blas.product(slope.mT, x)

    return Peer(step, 6.0 * model.matmul_weights())


def autocast(machine: devices.Machine) -> torch.autocast:
    return torch.autocast(machine.device, torch.bfloat16, enabled=machine.precision == "bf16")


_PRODUCTS = "its products alone"
PEERS: dict[str, Callable[[Tensor, devices.Machine], Peer]] = {
    "danlu": danlu,
    _PRODUCTS: products,
    "danlu, muon": lambda ids, machine: danlu(ids, machine, muon=True),
    "danlu, article": lambda ids, machine: danlu(ids, machine, "article-v2"),
    "transformers Qwen3": qwen3,
    "transformers GPT-2": gpt2,
    "TransformerEncoderLayer": encoder_layers,
    "article, head by head": article_by_head,
}


class Worker:
    """A peer in a process of its own: what one does to its process (danlu keeps freed memory) is no other's gain."""

    def __init__(self, name: str, machine: devices.Machine, args: argparse.Namespace):
        command = [sys.executable, __file__, "--worker", name, "--machine", json.dumps(asdict(machine))]
        command += ["--rows", str(args.rows), "--window", str(args.window)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.flops_per_token = self._ask()

    def _ask(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("go", file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def seconds(self) -> float:
        """Have it make a step."""
        return self._ask()

    def stop(self) -> int:
        """End it; return its peak of resident memory in MB, what Python and torch take included."""
        return int(self._process.communicate()[0])


def work(name: str, ids: Tensor, machine: devices.Machine) -> None:
    torch.set_num_threads(machine.threads)
    peer = PEERS[name](ids, machine)
    for number, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        peer.step()
        print(time.perf_counter() - start if number else peer.flops_per_token, flush=True)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's pages at the fork
    print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)


def compare(machine: devices.Machine, args: argparse.Namespace) -> dict[str, float]:
    """Print one precision's table; return every peer's median model FLOP/s."""
    tokens = args.rows * args.window
    workers = {name: Worker(name, machine, args) for name in args.only or PEERS}
    taken: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(args.rounds):
        for name, worker in workers.items():
            taken[name].append(worker.seconds())
    speeds = {name: tokens * workers[name].flops_per_token / statistics.median(t) for name, t in taken.items()}
    gemm = speeds.get(_PRODUCTS, machine.gemm_flops)
    how = f"{machine.precision}, attention {machine.attention}, products by {machine.blas}"
    print(f"\n{how}, GEMM {gemm / 1e9:,.0f} GFLOP/s\n")
    print("| model | tokens/s (min, max) | GFLOP/s | share of GEMM | danlu per model FLOP | peak memory |")
    print("|---" * 6 + "|")
    for name, seconds in taken.items():
        ours, theirs = workers["danlu"].flops_per_token, workers[name].flops_per_token
        ratios = [ours / a * b / theirs for a, b in zip(taken["danlu"], seconds, strict=True)]
        rates = [tokens / s for s in (statistics.median(seconds), max(seconds), min(seconds))]
        print(
            f"| {name} | {rates[0]:,.0f} ({rates[1]:,.0f}, {rates[2]:,.0f}) | {speeds[name] / 1e9:,.0f} "
            f"| {speeds[name] / gemm:.0%} | {statistics.median(ratios):.2f}× "
            f"| {workers[name].stop():,} MB |",
            flush=True,
        )
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--micro-batch-tokens", type=int, default=0, help="danlu's; 0: the whole batch at once")
    parser.add_argument("--attention", default="fused", help="danlu's kernel: sdpa, blocked or fused")
    parser.add_argument("--blas", default="auto", help="danlu's with fused in fp32: torch, numpy, or auto, the faster")
    parser.add_argument("--only", nargs="*", choices=list(PEERS))
    parser.add_argument("--worker", choices=list(PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--machine", help=argparse.SUPPRESS)
    args = parser.parse_args()
    ids = torch.randint(VOCABULARY, (args.rows, args.window), generator=torch.Generator().manual_seed(0))
    if args.worker:
        work(args.worker, ids, devices.Machine(**json.loads(args.machine)))
        return
    wanted = [DeviceConfig(name="cpu", precision=p, attention=args.attention, blas=args.blas) for p in args.precision]
    machines = [devices.probe(device, args.window) for device in wanted]
    pairs = zip(machines, wanted, strict=True)
    machines = [devices.fused(m, device) if m.attention == "fused" else m for m, device in pairs]
    machines = [replace(machine, micro_batch_tokens=args.micro_batch_tokens) for machine in machines]
    print(f"{args.rows} x {args.window}, {machines[0].threads} threads, {args.rounds} rounds in turn")
    found = [compare(machine, args) for machine in machines]
    best = {name: max(speeds[name] for speeds in found) for name in found[0] if name != _PRODUCTS}
    print("\neach at its best precision: danlu's model FLOP/s over theirs")
    for name, speed in best.items():
        print(f"  {name:<26}{best['danlu'] / speed:6.2f}×")


if __name__ == "__main__":
    main()
