"""Per-token cross-entropy from hidden states, never holding the logits of all tokens at once.

Shapes: N tokens (B×T flattened), C tokens of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model import blas
from danlu.types import IGNORED

_CHUNK, _CHUNK_ON_ACCELERATOR = 1024, 16_384


class _ChunkedNll(torch.autograd.Function):
    """nll_N = logsumexp(hidden·Wᵀ + b) − its label's logit, chunk by chunk.

    On a CPU the forward computes the gradient too, if one may be asked for (`learns`), as if every scored token's
    upstream gradient were one; the backward scales it if that gradient is uniform (a sum or a mean), and computes it
    anew if it is not. On an accelerator looking would cost a synchronisation, so the backward always computes anew.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        learns: bool,
        compiled: bool,
    ) -> Tensor:
        eager = learns and hidden_ND.device.type == "cpu" and any(ctx.needs_input_grad[:3])
        wanted = ctx.needs_input_grad[1:3]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N)
        nll_N = torch.zeros(hidden_ND.shape[0], dtype=torch.float32, device=hidden_ND.device)
        grads = _Gradients(hidden_ND, weight_VD, bias_V, wanted, compiled) if eager else None
        for chunk in _chunks(hidden_ND):
            if compiled and grads is not None:
                nll_N[chunk] = _fused_chunk_nll(hidden_ND[chunk], weight_VD, bias_V, labels_N[chunk], grads, chunk)
            else:
                nll_N[chunk] = _chunk_nll(hidden_ND[chunk], weight_VD, bias_V, labels_N[chunk], grads, chunk, None)
        ctx.grads = grads
        return nll_N

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        upstream_N = upstream[0]
        hidden_ND, weight_VD, bias_V, labels_N = ctx.saved_tensors
        grads: _Gradients | None = ctx.grads
        ctx.grads = None
        if grads is not None:
            scored = upstream_N[labels_N != IGNORED]
            if scored.numel() == 0 or bool((scored == scored[0]).all()):
                grads.scale(scored[0] if scored.numel() else upstream_N.sum() * 0)
                return (*grads.result(), None, None, None)
        grads = _Gradients(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad[1:3])
        for chunk in _chunks(hidden_ND):
            _chunk_nll(hidden_ND[chunk], weight_VD, bias_V, labels_N[chunk], grads, chunk, upstream_N[chunk])
        return (*grads.result(), None, None, None)


class _Gradients:
    """Gradients of hidden and, where `wanted`, of weight and bias; the weight's is summed in float32."""

    def __init__(
        self,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        wanted: tuple[bool, bool],
        compiled: bool = False,
    ):
        self._product = blas.product if compiled else blas.pytorchs_product
        self._add_product = blas.add_product if compiled else blas.pytorchs_add_product
        self.hidden_ND = torch.zeros_like(hidden_ND)
        self.weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wanted[0] else None
        self.bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and wanted[1] else None
        self._types = (weight_VD.dtype, None if bias_V is None else bias_V.dtype)

    def add(self, chunk: slice, slope_CV: Tensor, hidden_CD: Tensor, weight_VD: Tensor) -> None:
        """Add a chunk's share; `slope_CV` is the loss's derivative by the logits."""
        self._product(slope_CV, weight_VD, self.hidden_ND[chunk])
        if self.weight_VD is not None and self.weight_VD.dtype == slope_CV.dtype:
            self._add_product(self.weight_VD, slope_CV.mT, hidden_CD)
        elif self.weight_VD is not None:
            self.weight_VD += self._product(slope_CV.mT, hidden_CD)
        if self.bias_V is not None:
            self.bias_V += slope_CV.sum(0, dtype=torch.float32)

    def scale(self, factor: Tensor) -> None:
        """Multiply all by a scalar."""
        self.hidden_ND *= factor.to(self.hidden_ND.dtype)
        for grad in (self.weight_VD, self.bias_V):
            if grad is not None:
                grad *= factor

    def result(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the three in their inputs' types, None where not wanted."""
        pairs = zip((self.weight_VD, self.bias_V), self._types, strict=True)
        weight, bias = (None if grad is None or dtype is None else grad.to(dtype) for grad, dtype in pairs)
        return self.hidden_ND, weight, bias


def _chunks(hidden_ND: Tensor) -> list[slice]:
    n, size = hidden_ND.shape[0], _CHUNK if hidden_ND.device.type == "cpu" else _CHUNK_ON_ACCELERATOR
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _chunk_nll(
    hidden_CD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_C: Tensor,
    grads: _Gradients | None,
    chunk: slice,
    upstream_C: Tensor | None,
) -> Tensor:
    scored_C = labels_C != IGNORED
    target_C1 = labels_C.clamp_min(0)[:, None]
    logits_CV = F.linear(hidden_CD, weight_VD, bias_V).float()
    target_logit_C = logits_CV.gather(1, target_C1).squeeze(1)
    largest_C = logits_CV.amax(1)
    slope_CV = torch.softmax(logits_CV, 1)
    del logits_CV  # the largest tensors of a step: one at a time
    lse_C = largest_C - slope_CV.amax(1).log()  # the largest probability is at least 1/V: no underflow
    if grads is not None:
        slope_CV.scatter_add_(1, target_C1, slope_CV.new_full(target_C1.shape, -1.0))
        if upstream_C is not None:
            slope_CV.mul_((upstream_C * scored_C)[:, None])
        elif not bool(scored_C.all()):
            slope_CV.mul_(scored_C[:, None])
        grads.add(chunk, slope_CV.to(hidden_CD.dtype), hidden_CD, weight_VD)
    return torch.where(scored_C, lse_C - target_logit_C, 0.0)


def _fused_chunk_nll(
    hidden_CD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_C: Tensor,
    grads: _Gradients,
    chunk: slice,
) -> Tensor:
    """Compute what `_chunk_nll` does for an upstream gradient of one, the logits becoming their slope in one pass."""
    from danlu.model import fused

    logits_CV = blas.product(hidden_CD, weight_VD.mT)
    if bias_V is not None:
        logits_CV += bias_V
    nll_C = fused.nll(logits_CV, labels_C)
    grads.add(chunk, logits_CV, hidden_CD, weight_VD)
    return nll_C


def chunked_nll(
    hidden_BTD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_BT: Tensor, compiled: bool = False
) -> Tensor:
    """Return nll_BT, float32 nats a token, 0 where the label is -100; hidden and weight in one compute type.

    `compiled`: in training on a CPU, by compiled code where that applies (see `danlu.model.fused`).
    """
    learns = torch.is_grad_enabled()  # a Function's forward cannot see it: in there it is always off
    nll: Any = _ChunkedNll.apply
    if torch.compiler.is_compiling():  # a loop that frees as it goes: nothing for a compiler to fuse
        nll = torch.compiler.disable(nll)
    nll_N = nll(hidden_BTD.flatten(0, 1), weight_VD, bias_V, labels_BT.flatten(), learns, compiled)
    return nll_N.view_as(labels_BT)  # pyright: ignore[reportAttributeAccessIssue]
