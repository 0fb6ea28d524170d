"""Optimisers: Muon for the matrices of the blocks, PyTorch's fused AdamW for everything else.

Shapes: N matrices of one shape, M rows, K columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from danlu.config import OptimConfig
from danlu.errors import CheckpointError
from danlu.model import Model

Named = Sequence[tuple[str, nn.Parameter]]
_SAFETY = 1.01
_MOST_AT_ONCE = 1 << 21
"""Elements of a group on a CPU, where larger ones only take memory."""
_WIDE = 1.5
"""Columns for each row from which it is sooner to work with x·xᵀ than with x."""
_STEPS_AT_ONCE = 3
_LARGE = 128
"""Rows from which a symmetric product is computed sooner by its lower blocks."""
_QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""Each step's odd polynomial a·x + b·x³ + c·x⁵: the best for what the steps before leave of [0.001, 1]."""


def orthogonalise(x_NMK: Tensor, steps: int = 5) -> Tensor:
    """Push every singular value towards 1 by up to five steps of the Polar Express iteration, in x's precision.

    Of values down to 0.01 of the norm, five steps leave 0.87 to 1.12, four 0.44 to 1.56, three 0.19 to 1.87.
    Source: Amsel et al. 2025, arXiv:2505.16932; for the use: Jordan et al. 2024, "Muon: an optimizer for hidden layers
    in neural networks".
    """
    shape, tall = x_NMK.shape, x_NMK.shape[-2] > x_NMK.shape[-1]
    x = x_NMK.flatten(0, -3)  # a parameter may be a stack of matrices itself
    x = x.mT if tall else x
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True).to(x.dtype) + 1e-7)).contiguous()
    quintics = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _QUINTICS[:steps]]
    if x.dtype == torch.float32 and _LARGE <= x.shape[-2] <= x.shape[-1] / _WIDE:
        for part in (quintics[:_STEPS_AT_ONCE], quintics[_STEPS_AT_ONCE:]):
            x = torch.bmm(_factor(_product(x, x.mT), part), x) if part else x
    else:
        for a, b, c in quintics:
            gram = _product(x, x.mT)
            x = torch.baddbmm(x, _symmetric(gram, gram, gram, b, c), x, beta=a)
    return (x.mT if tall else x).view(shape)


def _factor(gram_NMM: Tensor, quintics: Sequence[tuple[float, float, float]]) -> Tensor:
    """Return what the iteration comes to multiply x with, given x·xᵀ alone: every product is of the smaller side.

    All its matrices are polynomials of the first, so that they commute and every product is symmetric. Small
    eigenvalues drown in rounding, which grows with every step: after three one had better begin anew, and in half
    precision at once.
    Source: "Gram Newton-Schulz", Dao AI Lab 2026.
    """
    factor_NMM = None
    for step, (a, b, c) in enumerate(quintics, 1):
        polynomial = _symmetric(gram_NMM, gram_NMM, gram_NMM, b, c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        factor_NMM = polynomial if factor_NMM is None else _product(factor_NMM, polynomial)
        if step < len(quintics):
            gram_NMM = _product(_product(gram_NMM, polynomial), polynomial)
    assert factor_NMM is not None
    return factor_NMM


def _product(left_NMK: Tensor, right_NKM: Tensor) -> Tensor:
    """Compute a product that the caller knows to be symmetric."""
    return _symmetric(left_NMK.new_zeros(1, 1, 1), left_NMK, right_NKM, 0, 1)


def _symmetric(base: Tensor, left_NMK: Tensor, right_NKM: Tensor, beta: float, alpha: float) -> Tensor:
    """Compute beta·base + alpha·left·right, which the caller knows to be symmetric.

    In float32 on a CPU only its lower blocks are computed, then mirrored; in bfloat16 the copies would cost what the
    products save.
    """
    size = left_NMK.shape[-2]
    if left_NMK.device.type != "cpu" or left_NMK.dtype != torch.float32 or size < _LARGE:
        return torch.baddbmm(base, left_NMK, right_NKM, beta=beta, alpha=alpha)
    result, base = left_NMK.new_empty(len(left_NMK), size, size), base.expand(len(left_NMK), size, size)
    block = -(-size // 4)
    for start in range(0, size, block):
        stop = min(start + block, size)
        left, right = left_NMK[:, start:stop], right_NKM[..., :stop]
        rows = torch.baddbmm(base[:, start:stop, :stop], left, right, beta=beta, alpha=alpha)
        result[:, start:stop, :stop] = rows
        result[:, :start, start:stop] = rows[..., :start].mT
    return result


class Muon:
    """Momentum, Nesterov, then an orthogonalised update, batched over matrices of one shape.

    The update of an M×K matrix is scaled by sqrt(max(1, M / K)). `dtype` is the iteration's precision: bf16
    only where the machine is fast at it.
    """

    def __init__(self, matrices: Named, config: OptimConfig, dtype: torch.dtype):
        self.lr = self.rate = config.muon_lr
        self.momentum, self.weight_decay, self.steps = config.momentum, config.weight_decay, config.muon_steps
        self.dtype = dtype
        self.groups: list[Named] = []
        self.momenta: list[Tensor] = []
        by_shape = sorted(matrices, key=lambda pair: tuple(pair[1].shape))
        for _, group in groupby(by_shape, key=lambda pair: tuple(pair[1].shape)):
            named = list(group)
            first = named[0][1].detach()
            most = max(1, _MOST_AT_ONCE // first.numel()) if first.device.type == "cpu" else len(named)
            for start in range(0, len(named), most):
                self.groups.append(named[start : start + most])
                self.momenta.append(first.new_zeros(len(self.groups[-1]), *first.shape))

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient."""
        for named, momentum_NMK in zip(self.groups, self.momenta, strict=True):
            parameters = [p for _, p in named]
            grad_NMK = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters])
            momentum_NMK.lerp_(grad_NMK, 1 - self.momentum)
            update_NMK = orthogonalise(grad_NMK.lerp_(momentum_NMK, self.momentum).to(self.dtype), self.steps)
            scale = max(1.0, grad_NMK.shape[-2] / grad_NMK.shape[-1]) ** 0.5
            for parameter, update_MK in zip(parameters, update_NMK.unbind(), strict=True):
                if self.weight_decay:
                    parameter.mul_(1 - self.rate * self.weight_decay)
                parameter.add_(update_MK, alpha=-self.rate * scale)

    def tensors(self) -> dict[str, Tensor]:
        """Return the momenta by parameter name."""
        return {
            f"muon.momentum.{name}": momentum_NMK[i]
            for named, momentum_NMK in zip(self.groups, self.momenta, strict=True)
            for i, (name, _) in enumerate(named)
        }


class AdamW:
    """PyTorch's fused AdamW in its functional form; vectors are not decayed unless the settings say so.

    `torch.optim.AdamW` does the same, but to make one imports PyTorch's compiler: 56 MB and more than a second.
    """

    def __init__(self, named: Named, config: OptimConfig):
        self.lr = self.rate = config.lr
        self.config, self.named = config, named
        self.steps = [torch.zeros((), device=p.device) for _, p in named]
        self.averages, self.square_averages = ([torch.zeros_like(p) for _, p in named] for _ in range(2))

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for decays in (True, False):
            group = [
                (p, p.grad, *state)
                for (_, p), *state in zip(self.named, self.averages, self.square_averages, self.steps, strict=True)
                if p.grad is not None and (p.ndim > 1 or self.config.decay_all) == decays
            ]
            parameters, grads, averages, square_averages, steps = ([one[i] for one in group] for i in range(5))
            adamw(
                parameters,
                grads,
                averages,
                square_averages,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=self.config.betas[0],
                beta2=self.config.betas[1],
                lr=self.rate,
                weight_decay=self.config.weight_decay if decays else 0.0,
                eps=self.config.eps,
                maximize=False,
            )

    def tensors(self) -> dict[str, Tensor]:
        """Return counts of steps and both averages by parameter name."""
        kinds = {"step": self.steps, "exp_avg": self.averages, "exp_avg_sq": self.square_averages}
        return {
            f"adamw.{kind}.{name}": tensor
            for kind, tensors in kinds.items()
            for (name, _), tensor in zip(self.named, tensors, strict=True)
        }


class Optimizer:
    """The two optimisers as one: one rate factor, one step, one named set of state tensors."""

    def __init__(self, model: Model, config: OptimConfig, muon_dtype: torch.dtype = torch.float32):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices: Named = model.matrix_parameters() if config.name == "muon" else []
        matrices = [(name, p) for name, p in matrices if p.requires_grad]
        in_muon = {id(p) for _, p in matrices}
        self.parameters = [p for _, p in named]
        self.muon = Muon(matrices, config, muon_dtype)
        self.adamw = AdamW([(name, p) for name, p in named if id(p) not in in_muon], config)

    def set_rate(self, factor: float) -> None:
        """Set both learning rates to their peaks times `factor`."""
        for optimizer in (self.muon, self.adamw):
            optimizer.rate = optimizer.lr * factor

    def step(self) -> None:
        """Update all parameters."""
        self.muon.step()
        self.adamw.step()

    def zero_grad(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def reset(self) -> None:
        """Forget gradients and state, as before the first step."""
        self.zero_grad()
        for tensor in self.tensors().values():
            tensor.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Return every state tensor under a stable name, for the checkpoint."""
        return {**self.muon.tensors(), **self.adamw.tensors()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state back. Raises CheckpointError, naming a tensor, where the names do not match."""
        mine = self.tensors()
        if not any(key.startswith("adamw.") for key in tensors):  # saved before a first step, by a danlu that made no
            mine = self.muon.tensors()  # state of AdamW until then
        for missing in sorted(mine.keys() - tensors.keys()):
            raise CheckpointError(f"the optimiser state holds no {missing}: it belongs to another run")
        for stranger in sorted(tensors.keys() - mine.keys()):
            raise CheckpointError(f"the optimiser state holds {stranger}, which this model lacks")
        for key, tensor in mine.items():
            tensor.copy_(tensors[key])
