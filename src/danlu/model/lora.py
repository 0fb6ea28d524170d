"""Low-rank adapters: a matrix that stays as it is, and beside it a product of two narrow ones that learns.

y = x·Wᵀ + (α/r)·(x·Aᵀ)·Bᵀ, where A is r × in and B, zero at the start, out × r. Every matrix inside the blocks gets
one; all else is frozen. Names and files are PEFT's.
Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.errors import CheckpointError, ConfigError
from danlu.model.kernels import linear

if TYPE_CHECKING:
    from danlu.model.layers import Model

NARROW = ("lora_A", "lora_B")
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter was made with: its rank, α, and the model it belongs to: its folder, its weights' sha256."""

    rank: int
    alpha: float
    base: str = ""
    base_sha256: str = ""

    @property
    def scale(self) -> float:
        """Return α/r."""
        return self.alpha / self.rank


class Projection(NamedTuple):
    """Weights of one matrix product in the compute type, and of the two narrow ones beside it, if it is adapted."""

    weight: Tensor
    down: Tensor | None = None
    up: Tensor | None = None


def project(x: Tensor, projection: Projection) -> Tensor:
    """Multiply the last dimension of x."""
    y = linear(x, projection.weight)
    if projection.down is None or projection.up is None:
        return y
    return y + F.linear(F.linear(x, projection.down), projection.up)


def narrow(linears: Sequence[nn.Linear], scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Join the narrow matrices of linears that read the same x: A's below one another, B's along a diagonal."""
    down = torch.cat([getattr(linear, NARROW[0]) for linear in linears])
    up = torch.block_diag(*(getattr(linear, NARROW[1]) for linear in linears)) * scale
    return down.to(dtype), up.to(dtype)


def attach(model: Model, adapter: Adapter, generator: torch.Generator) -> None:
    """Freeze a model and give each of its matrices an adapter that changes nothing yet.

    Raises ConfigError for a family whose matrices are no plain linear layers.
    """
    if model.model_type != "qwen3":
        raise ConfigError(f"adapter lora: goes with the qwen3 family, not with {model.model_type}. Use adapter none")
    model.requires_grad_(False)
    model.adapter = adapter
    for name, weight in model.matrix_parameters():
        linear = model.get_submodule(name.removesuffix(".weight"))
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)
        start = torch.empty(adapter.rank, columns).uniform_(-bound, bound, generator=generator)
        linear.register_parameter(NARROW[0], nn.Parameter(start.to(weight.device)))
        linear.register_parameter(NARROW[1], nn.Parameter(weight.new_zeros(rows, adapter.rank)))


def narrow_matrices(model: nn.Module) -> dict[str, Tensor]:
    """Return what an adapter learns, under PEFT's names."""
    return {
        f"{_PREFIX}{name}.weight": p.detach()
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in NARROW
    }


@torch.no_grad()
def take_narrow(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy an adapter's matrices into an adapted model. Raises CheckpointError where they are another model's."""
    own = narrow_matrices(model)
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape:
            raise CheckpointError(f"{where}: is an adapter for another model: {name.removeprefix(_PREFIX)!r} differs")
        own[name].copy_(tensors[name])


@torch.no_grad()
def plain_state(model: Model) -> dict[str, Tensor]:
    """Return a state dict in which adapters are merged into the matrices they stand beside."""
    state = model.state_dict()
    if model.adapter is None:
        return state
    names = [name.removesuffix(f".{NARROW[0]}") for name in state if name.endswith(f".{NARROW[0]}")]
    for name in names:
        low, high = (state.pop(f"{name}.{which}") for which in NARROW)
        state[f"{name}.weight"] = state[f"{name}.weight"] + model.adapter.scale * (high @ low)
    return state


def peft_config(model: Model) -> dict[str, Any]:
    """Return the contents of `adapter_config.json`."""
    assert model.adapter is not None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.adapter.base,
        "r": model.adapter.rank,
        "lora_alpha": model.adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.split(".")[-2] for name, _ in model.matrix_parameters()}),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def from_peft_config(config: Mapping[str, Any], where: str) -> Adapter:
    """Read `adapter_config.json`. Raises CheckpointError for what danlu's adapters cannot be."""
    refused = {
        "peft_type": config.get("peft_type") != "LORA",
        "bias": config.get("bias", "none") != "none",
        **{key: bool(config.get(key)) for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")},
        **{key: bool(config.get(key)) for key in ("modules_to_save", "fan_in_fan_out")},
    }
    wrong = ", ".join(key for key, is_wrong in refused.items() if is_wrong)
    rank, alpha, base = config.get("r"), config.get("lora_alpha"), config.get("base_model_name_or_path")
    if not wrong and isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float) and isinstance(base, str):
        return Adapter(rank, alpha, base)
    raise CheckpointError(f"{where}: is no adapter that danlu reads ({wrong or 'r, lora_alpha, base model'})")
