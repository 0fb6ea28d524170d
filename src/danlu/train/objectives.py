"""Objectives: what a batch's loss is. One class each; the trainer, the step and the run folder are shared.

An objective answers three questions: which extra tensors a batch needs (`collate`), by how much its loss is divided
over the whole global batch (`count`), and its summed loss in nats (`loss`).

Shapes: B rows, T tokens, S segments of a row, P = S/2 pairs, N scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.config import DistillConfig, DpoConfig
from danlu.data.batches import REFERENCE
from danlu.types import IGNORED, Batch

_ROUNDING = 1e-3
"""Nats of reward: what batches of other shapes make of the same answer."""
Metrics = Mapping[str, Tensor]
"""Scalars, summed as the loss is."""


class Objective(Protocol):
    """What the trainer asks of an objective. Sums, not means: accumulating ragged batches is exact.

    `loss_name` is the key that the mean loss is logged under; `best_by` the evaluation's figure that is lowest for
    the best weights.
    """

    loss_name: ClassVar[str]
    best_by: ClassVar[str]

    def collate(self, batch: Batch) -> Batch:
        """Add the tensors this objective needs (`Batch.extras`), on the CPU, before the batch travels."""
        ...

    def count(self, batch: Batch) -> int:
        """Count what the summed loss is divided by, known before the tensors travel."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the summed loss in nats (a scalar with its graph) and further sums to log."""
        ...


class NextToken:
    """Cross-entropy of the next token, in nats: pretraining; of the assistant's words: supervised fine-tuning."""

    loss_name: ClassVar[str] = "loss_nats_per_token"
    best_by: ClassVar[str] = "bits_per_char"

    def collate(self, batch: Batch) -> Batch:
        """Return the batch as it is."""
        return batch

    def count(self, batch: Batch) -> int:
        """Count the scored tokens."""
        return batch.scored

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Sum the per-token losses of one forward."""
        out = model(batch.ids_BT, segments=batch.segments_BT, labels=batch.labels_BT)
        total = out.nll_BT.sum()
        return (total if out.aux is None else total + out.aux), {}


@dataclass(frozen=True)
class Distillation(NextToken):
    """A teacher's whole distribution beside the text itself: T²·KL(teacher ‖ student), both softened by T.

    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
    """

    teacher: nn.Module
    config: DistillConfig

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Sum (1 − h)·T²·KL + h·cross-entropy over the scored tokens, h being `hard_share`."""
        scored_BT, T, hard = batch.labels_BT != IGNORED, self.config.temperature, self.config.hard_share
        student_NV = self._logits(model, batch, scored_BT)
        with torch.no_grad():
            teacher_NV = self._logits(self.teacher.to(batch.ids_BT.device), batch, scored_BT)[:, : student_NV.shape[1]]
        soft_NV = F.log_softmax(student_NV[:, : teacher_NV.shape[1]] / T, -1)
        kl = F.kl_div(soft_NV, F.log_softmax(teacher_NV / T, -1), reduction="sum", log_target=True)
        text = F.cross_entropy(student_NV, batch.labels_BT[scored_BT], reduction="sum")
        return (1 - hard) * T**2 * kl + hard * text, {"kl_nats_per_token": kl.detach()}

    @staticmethod
    def _logits(model: nn.Module, batch: Batch, scored_BT: Tensor) -> Tensor:
        return model(batch.ids_BT, segments=batch.segments_BT).logits_BTV[scored_BT].float()


@dataclass(frozen=True)
class Preference:
    """Of two answers to one question, the chosen one likelier than the rejected: DPO and its kin.

    A row's segments are pairs: 1 is chosen and 2 rejected, 3 and 4 the next pair. What the labels cost the reference,
    the model as it was at the start, is stored with the rows.
    """

    config: DpoConfig
    loss_name: ClassVar[str] = "loss_nats_per_pair"
    best_by: ClassVar[str] = "loss_nats_per_pair"

    def collate(self, batch: Batch) -> Batch:
        """Count the scored tokens of each segment."""
        assert batch.segments_BT is not None
        scored_BT = (batch.labels_BT != IGNORED).long()
        segments = int(batch.segments_BT.max())
        tokens_BS = segment_sums(scored_BT, batch.segments_BT, segments + segments % 2)
        return replace(batch, extras={**batch.extras, "tokens_BS": tokens_BS})

    def count(self, batch: Batch) -> int:
        """Count the pairs."""
        return int((batch.extras["tokens_BS"][:, ::2] > 0).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Sum the pairs' losses; the margin is that of the rewards, each β times what was gained on the reference."""
        nll_BT = model(batch.ids_BT, segments=batch.segments_BT, labels=batch.labels_BT).nll_BT
        loss_P, margin_P = self.pairs(nll_BT, batch)
        return loss_P.sum(), {"preferred": preferred(margin_P).sum(), "margin": margin_P.detach().sum()}

    def pairs(self, nll_BT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each pair's loss in nats and its margin of rewards."""
        assert batch.segments_BT is not None
        tokens_BS = batch.extras["tokens_BS"]
        sizes = batch.segments_BT, tokens_BS.shape[1]
        policy_BS, reference_BS = -segment_sums(nll_BT, *sizes), -segment_sums(batch.extras[REFERENCE], *sizes)
        if self.config.kind in ("ipo", "simpo"):
            policy_BS, reference_BS = policy_BS / tokens_BS.clamp_min(1), reference_BS / tokens_BS.clamp_min(1)
        there_BP = tokens_BS[:, ::2] > 0
        chosen_P, rejected_P, chosen_reference_P, rejected_reference_P = (
            sums_BS[:, side::2][there_BP] for sums_BS in (policy_BS, reference_BS) for side in (0, 1)
        )
        gained_P = (chosen_P - chosen_reference_P) - (rejected_P - rejected_reference_P)
        loss_P = preference_loss(self.config, chosen_P - rejected_P, gained_P)
        return loss_P, self.config.beta * gained_P


def preferred(margin_P: Tensor) -> Tensor:
    """Return 1 for each pair whose chosen answer is ahead, ½ where neither is: the two differ by rounding alone."""
    return (margin_P > _ROUNDING).float() + 0.5 * (margin_P.abs() <= _ROUNDING)


def segment_sums(values_BT: Tensor, segments_BT: Tensor, segments: int) -> Tensor:
    """Sum a row's values within each of its segments 1 … S; segment 0 is none. Returns BS."""
    sums = values_BT.new_zeros(len(values_BT), segments + 1)
    return sums.scatter_add(1, segments_BT, values_BT)[:, 1:]


def preference_loss(config: DpoConfig, ahead_P: Tensor, gained_P: Tensor) -> Tensor:
    """Return each pair's loss, of log-probabilities chosen − rejected, and of what that gained on the reference.

    dpo: −log σ(β·gained). Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    ipo: (gained − 1/2β)², a token's mean. Azar et al. 2023, arXiv:2310.12036, equation 17.
    simpo: −log σ(β·ahead − γ), a token's mean, no reference. Meng et al. 2024, arXiv:2405.14734, equation 6.
    """
    match config.kind:
        case "dpo":
            return -F.logsigmoid(config.beta * gained_P)
        case "ipo":
            return (gained_P - 1 / (2 * config.beta)).square()
        case "simpo":
            return -F.logsigmoid(config.beta * ahead_P - config.gamma)
