"""From logits to a token: pure functions. Shapes: R rows, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. Temperature 0 takes the likeliest; 0 or 1 turns the other settings off."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        wrong = {
            "temperature": (self.temperature == 0 or 1e-3 <= self.temperature <= 1e3, "0, or between 0.001 and 1000"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (off) and 1"),
            "repetition_penalty": (0 < self.repetition_penalty <= 1e3, "more than 0 (1 is off) and at most 1000"),
        }
        for name, (fine, wanted) in wrong.items():
            if not fine:
                raise ConfigError(f"{name} {getattr(self, name):g}: must be {wanted}")


def penalise(logits_RV: Tensor, seen_RV: Tensor, penalty: float) -> Tensor:
    """Divide the positive logits of seen tokens by `penalty`, multiply the negative ones.

    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    """
    changed = torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty)
    return torch.where(seen_RV, changed, logits_RV)


def probabilities(logits_RV: Tensor, sampling: Sampling) -> Tensor:
    """Return the distribution a token is drawn from: temperature, then top-k, top-p, min-p, in this order.

    Top-p: Holtzman et al. 2020, arXiv:1904.09751. Min-p: Nguyen et al. 2024, arXiv:2407.01082.
    """
    if sampling.temperature == 0:
        return torch.zeros_like(logits_RV).scatter_(-1, logits_RV.argmax(-1, keepdim=True), 1.0)
    logits_RV = logits_RV / sampling.temperature
    if 0 < sampling.top_k < logits_RV.shape[-1]:
        least = logits_RV.topk(sampling.top_k, -1).values[..., -1:]
        logits_RV = logits_RV.masked_fill(logits_RV < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits_RV.sort(-1, descending=True)
        p = ordered.softmax(-1)
        beyond = p.cumsum(-1) - p >= sampling.top_p
        logits_RV = logits_RV.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    p = logits_RV.softmax(-1)
    if sampling.min_p > 0:
        p = torch.where(p >= sampling.min_p * p.amax(-1, keepdim=True), p, 0.0)
        p = p / p.sum(-1, keepdim=True)
    return p


def draw(p_RV: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Draw one token a row, each from its own random stream, so that rows do not depend on each other."""
    uniform_R = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
    cumulative_RV = p_RV.double().cumsum(-1)
    wanted_R1 = (uniform_R.to(p_RV.device) * cumulative_RV[:, -1])[:, None]
    found_R = torch.searchsorted(cumulative_RV, wanted_R1, right=True).squeeze(1)
    return found_R.clamp_max(p_RV.shape[-1] - 1)
