"""Held-out answers: what the assistant's words cost the model, and which of two answers it prefers.

Shapes: B rows, T tokens, N scored tokens, V vocabulary, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from danlu import log
from danlu.data.batches import REFERENCE, Block
from danlu.data.shards import SPLITS
from danlu.data.turns import Turns
from danlu.evaluate.loss import Score, score_batches
from danlu.model import Model
from danlu.tokenizer import Tokenizer
from danlu.train.objectives import Preference, preferred
from danlu.types import IGNORED, Batch

_ROWS = 8


def held_out(turns: Turns, context: int, max_tokens: int) -> list[Block]:
    """Return validation rows, taken evenly, of at most about `max_tokens` positions."""
    rows = len(turns.split("validation").row_ends)
    wanted = min(rows, max(1, max_tokens // context))
    numbers = np.linspace(0, rows, wanted, endpoint=False).astype(int)
    return [turns.row("validation", int(number), context) for number in numbers]


def _batches(blocks: Sequence[Block]) -> Iterator[Batch]:
    for start in range(0, len(blocks), _ROWS):
        columns: list[Any] = list(zip(*blocks[start : start + _ROWS], strict=True))
        ids_BT, labels_BT, segments_BT, reference_BT = (
            None if column[0] is None else torch.from_numpy(np.stack(column)) for column in columns
        )
        assert ids_BT is not None
        assert labels_BT is not None
        yield Batch(ids_BT, labels_BT, segments_BT, {} if reference_BT is None else {REFERENCE: reference_BT})


class AnswerSet:
    """Rows of conversations, as packed, and what their losses are divided by."""

    def __init__(self, blocks: Sequence[Block], tokenizer: Tokenizer):
        self._blocks, self.context = blocks, len(blocks[0].ids_L)
        scored = np.concatenate([block.labels_L[block.labels_L != IGNORED] for block in blocks])
        special = set(tokenizer.special_ids.values())
        text = tokenizer.decode(int(i) for i in scored if int(i) not in special)
        self.characters, self.bytes = len(text), len(text.encode())
        self.answers = sum(int(block.segments_L.max()) for block in blocks if block.segments_L is not None)

    def score(self, model: Model) -> Score:
        """Score all of it; the marks that end turns count as tokens, not as characters."""
        nats, tokens = score_batches(model, _batches(self._blocks))
        return Score(nats, tokens, self.characters, self.bytes, self.context, self.answers)


class PairSet:
    """Rows of preferences, judged beside the reference that the run began with."""

    def __init__(self, blocks: Sequence[Block], tokenizer: Tokenizer, objective: Preference, reference: Model):
        self._blocks, self._objective, self._reference = blocks, objective, reference
        self._chosen = AnswerSet([_chosen(block) for block in blocks], tokenizer)

    @torch.inference_mode()
    def score(self, model: Model) -> dict[str, float]:
        """Return the loss of the chosen answers, and of the pairs: loss, margin, share preferred, KL to the reference.

        A pair is preferred where the chosen answer gained more on the reference than the rejected one; where both
        gained the same to rounding, as before the first step, it counts half. The KL is of whole distributions,
        policy ‖ reference, a scored token's mean over both answers.
        """
        was_training = model.training
        model.eval()
        device = model.output_weight.device
        self._reference.to(device).compute_dtype = model.compute_dtype
        sums = dict.fromkeys(("loss_nats_per_pair", "preferred", "margin"), 0.0)
        pairs = tokens = 0
        kl = 0.0
        for batch in map(self._objective.collate, _batches(self._blocks)):
            ids_BT, segments_BT = batch.ids_BT.to(device), _there(batch.segments_BT, device)
            scored_BT = (batch.labels_BT != IGNORED).to(device)
            logits_NV = [
                m(ids_BT, segments=segments_BT).logits_BTV[scored_BT].float() for m in (model, self._reference)
            ]
            own_NV, their_NV = (F.log_softmax(logits, -1) for logits in logits_NV)
            kl += float((own_NV.exp() * (own_NV - their_NV)).sum())
            nll_BT = torch.zeros(ids_BT.shape)
            labels_N = batch.labels_BT.to(device)[scored_BT]
            nll_BT[scored_BT.cpu()] = F.nll_loss(own_NV, labels_N, reduction="none").cpu()
            loss_P, margin_P = self._objective.pairs(nll_BT, batch)
            sums["loss_nats_per_pair"] += float(loss_P.sum())
            sums["preferred"] += float(preferred(margin_P).sum())
            sums["margin"] += float(margin_P.sum())
            pairs, tokens = pairs + len(loss_P), tokens + len(labels_N)
        model.train(was_training)
        means = {name: total / pairs for name, total in sums.items()}
        return {**self._chosen.score(model).as_dict(), **means, "kl_nats_per_token": kl / tokens, "pairs": pairs}


def _there(segments_BT: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    assert segments_BT is not None
    return segments_BT.to(device)


def _chosen(block: Block) -> Block:
    """Score a row's chosen answers alone: those of the odd segments."""
    assert block.segments_L is not None
    return block._replace(labels_L=np.where(block.segments_L % 2, block.labels_L, IGNORED))


@torch.inference_mode()
def record_reference(turns: Turns, model: Model, context: int) -> None:
    """Store beside the rows of preferences what each of their tokens costs the model as it is now."""
    was_training = model.training
    model.eval()
    device = model.output_weight.device
    for name in SPLITS:
        split = turns.split(name)
        costs, rows = np.zeros(len(split.ids), np.float32), range(len(split.row_ends))
        for number in log.track(rows, f"reference, {name}", len(rows), "rows"):
            batch = next(_batches([turns.row(name, number, context)]))
            ids_BT, labels_BT = batch.ids_BT.to(device), batch.labels_BT.to(device)
            segments_BT = _there(batch.segments_BT, device)
            nll_T = model(ids_BT, segments=segments_BT, labels=labels_BT).nll_BT[0].cpu().numpy()
            for member, part in turns.places(name, number):
                tokens = split.tokens(member)
                costs[tokens.start + 1 : tokens.stop] = nll_T[part]
        turns.write_reference(name, costs)
    model.train(was_training)
