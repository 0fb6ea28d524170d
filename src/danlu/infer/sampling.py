"""From logits to a token: pure functions. Shapes: R rows, V vocabulary, C candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.errors import ConfigError

_CANDIDATES = 1024
"""As many of the likeliest tokens are ordered first; all of them only where these do not reach top-p or top-k."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. Temperature 0 takes the likeliest; 0 or 1 turns the other settings off.

    `repetition_penalty` and `no_repeat_ngram` look at the prompt, too; `presence_penalty` and `frequency_penalty`, 0
    when off, at what was written.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        wrong = {
            "temperature": (self.temperature == 0 or 1e-3 <= self.temperature <= 1e3, "0, or between 0.001 and 1000"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (off) and 1"),
            "repetition_penalty": (0 < self.repetition_penalty <= 1e3, "more than 0 (1 is off) and at most 1000"),
            "no_repeat_ngram": (self.no_repeat_ngram >= 0, "0 (off) or more"),
            "presence_penalty": (abs(self.presence_penalty) <= 100, "between -100 and 100"),
            "frequency_penalty": (abs(self.frequency_penalty) <= 100, "between -100 and 100"),
        }
        for name, (fine, wanted) in wrong.items():
            if not fine:
                raise ConfigError(f"{name} {getattr(self, name):g}: must be {wanted}")

    @property
    def looks_back(self) -> bool:
        """Tell whether what stands there already changes what comes."""
        own = (self.repetition_penalty, self.no_repeat_ngram, self.presence_penalty, self.frequency_penalty)
        return own != (1, 0, 0, 0)


class History:
    """What stands in a prompt and its continuation already: which tokens, and what followed which.

    The begin mark is no part of it: it would put the end of the text off.
    """

    def __init__(self, prompt_ids: Sequence[int], vocab_size: int, sampling: Sampling):
        self.sampling = sampling
        self.seen_V = torch.zeros(vocab_size, dtype=torch.bool)
        self.written_V = torch.zeros(vocab_size)
        self._tail: tuple[int, ...] = ()
        self._followers: dict[tuple[int, ...], list[int]] = {}
        for token in prompt_ids:
            self._see(token)

    def add(self, token: int) -> None:
        """Note a token that was written."""
        self.written_V[token] += 1
        self._see(token)

    def _see(self, token: int) -> None:
        self.seen_V[token] = True
        if n := self.sampling.no_repeat_ngram:
            if len(self._tail) == n - 1:
                self._followers.setdefault(self._tail, []).append(token)
            self._tail = (*self._tail, token)[-(n - 1) :] if n > 1 else ()

    def change(self, logits_V: Tensor) -> Tensor:
        """Return the logits as the penalties want them.

        Repetition: Keskar et al. 2019, arXiv:1909.05858, section 4.1 (positive logits divided, negative multiplied).
        N-grams: Paulus et al. 2017, arXiv:1705.04304, section 2.5.
        """
        s = self.sampling
        if s.repetition_penalty != 1:
            changed_V = torch.where(logits_V > 0, logits_V / s.repetition_penalty, logits_V * s.repetition_penalty)
            logits_V = torch.where(self.seen_V, changed_V, logits_V)
        logits_V = logits_V - s.frequency_penalty * self.written_V - s.presence_penalty * (self.written_V > 0)
        repeated = self._followers.get(self._tail, [])
        if repeated and len(set(repeated)) < len(logits_V):
            logits_V[repeated] = -torch.inf
        return logits_V


def probabilities(logits_RV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Return each row's distribution to draw from: temperature, then top-k, top-p, min-p, in this order.

    Top-p: Holtzman et al. 2020, arXiv:1904.09751. Min-p: Nguyen et al. 2024, arXiv:2407.01082.
    """
    temperature_R, top_p_R, min_p_R = (
        torch.tensor([getattr(s, name) for s in samplings], device=logits_RV.device)
        for name in ("temperature", "top_p", "min_p")
    )
    top_k_R = torch.tensor([s.top_k or logits_RV.shape[-1] for s in samplings], device=logits_RV.device)
    greedy_R = temperature_R == 0
    scaled_RV = logits_RV / temperature_R.where(~greedy_R, 1.0)[:, None]
    p_RV = _without_tail(scaled_RV, top_k_R, top_p_R).softmax(-1)
    if (min_p_R > 0).any():
        p_RV = p_RV.where(p_RV >= min_p_R[:, None] * p_RV.amax(-1, keepdim=True), 0.0)
        p_RV = p_RV / p_RV.sum(-1, keepdim=True)
    if greedy_R.any():
        likeliest_RV = torch.zeros_like(p_RV).scatter_(-1, logits_RV.argmax(-1, keepdim=True), 1.0)
        p_RV = likeliest_RV.where(greedy_R[:, None], p_RV)
    return p_RV


def _without_tail(logits_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor) -> Tensor:
    """Keep a row's `top_k` likeliest tokens, and of these the fewest that reach `top_p`."""
    entries, top_k_R1, top_p_R1 = logits_RV.shape[-1], top_k_R[:, None], top_p_R[:, None]
    off_R1 = (top_k_R1 >= entries) & (top_p_R1 >= 1)
    if off_R1.all():
        return logits_RV
    candidates = entries if ((top_k_R > _CANDIDATES) & (top_k_R < entries)).any() else min(_CANDIDATES, entries)
    while True:
        ordered_RC, order_RC = logits_RV.topk(candidates, -1)
        within_RC = torch.arange(candidates, device=logits_RV.device) < top_k_R1
        ordered_RC = ordered_RC.where(within_RC, -torch.inf)
        all_RV = logits_RV if (top_k_R1 >= entries).any() else ordered_RC
        total_R1 = torch.where(top_k_R1 < entries, ordered_RC.logsumexp(-1, True), all_RV.logsumexp(-1, True))
        p_RC = (ordered_RC - total_R1).exp()
        reached_RC = p_RC.cumsum(-1)
        if candidates == entries or ((reached_RC[:, -1:] >= top_p_R1) | (top_k_R1 <= candidates) | off_R1).all():
            break
        candidates = entries
    kept_RC = (reached_RC - p_RC < top_p_R1) | (top_p_R1 >= 1)
    kept_RV = torch.full_like(logits_RV, -torch.inf).scatter_(-1, order_RC, ordered_RC.where(kept_RC, -torch.inf))
    return logits_RV.where(off_R1, kept_RV)


def draw(p_RV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one token a row, each from its own random stream, so that rows do not depend on each other."""
    uniform_R = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
    cumulative_RV = p_RV.double().cumsum(-1)
    wanted_R1 = (uniform_R.to(p_RV.device) * cumulative_RV[:, -1])[:, None]
    found_R = torch.searchsorted(cumulative_RV, wanted_R1, right=True).squeeze(1)
    return found_R.clamp_max(p_RV.shape[-1] - 1)
