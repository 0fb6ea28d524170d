"""Any Hugging Face causal language model, scored as danlu's own are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu import checkpoint, log, storage
from danlu.errors import CheckpointError, TokenizerError
from danlu.evaluate.loss import Encoder
from danlu.model import FAMILIES
from danlu.model.layers import document_mask, positions_in_segments
from danlu.types import IGNORED, ModelOut

_LOGITS_AT_ONCE = 1 << 27
_LONGEST_DEFAULT_WINDOW = 4096


@dataclass(frozen=True)
class Candidate:
    """A model to judge, its tokenizer, the most tokens it can look back on, and its usual window."""

    model: nn.Module
    tokenizer: Encoder
    context: int
    default_window: int


class ForeignModel(nn.Module):
    """A transformers model behind the one call that scoring makes."""

    def __init__(self, inner: Any):
        super().__init__()
        self.inner = inner
        self.compute_dtype = torch.float32

    def forward(self, ids_BT: Tensor, labels: Tensor | None = None, segments: Tensor | None = None) -> ModelOut:
        """Return nll_BT in nats, rows a few at a time, for their logits are large; without labels, the logits."""
        if labels is None:
            return ModelOut(logits_BTV=self._logits(ids_BT, segments))
        rows = max(1, _LOGITS_AT_ONCE // (ids_BT.shape[1] * self.inner.config.vocab_size))
        parts = zip(ids_BT.split(rows), labels.split(rows), strict=True)
        return ModelOut(nll_BT=torch.cat([self._nll(ids, wanted) for ids, wanted in parts]))

    def _nll(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        logits_BTV = self._logits(ids_BT, None)
        return F.cross_entropy(logits_BTV.float().mT, labels_BT, reduction="none", ignore_index=IGNORED)

    def _logits(self, ids_BT: Tensor, segments_BT: Tensor | None) -> Tensor:
        apart: dict[str, Tensor] = {}
        if segments_BT is not None:
            seen = document_mask(segments_BT)
            lowest = torch.finfo(torch.float32).min
            apart["attention_mask"] = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, lowest)
            apart["position_ids"] = positions_in_segments(segments_BT)
        lower = self.compute_dtype != torch.float32
        with torch.autocast(ids_BT.device.type, self.compute_dtype, enabled=lower):
            return self.inner(input_ids=ids_BT, use_cache=False, **apart).logits


class ForeignTokenizer:
    """A transformers tokenizer; a document begins with its bos, or its eos if it has none."""

    def __init__(self, inner: Any, where: Path):
        self._inner, self._where, self._warned = inner, where, False
        begin = inner.eos_token_id if inner.bos_token_id is None else inner.bos_token_id
        if begin is None:
            raise TokenizerError(f"{where}: its tokenizer has neither a bos nor an eos token to begin a document with")
        self.document_id: int = begin
        if not all(self.encode_batch(["文", "text"])):
            raise TokenizerError(f"{where}: its tokenizer makes no tokens of text. Are its files missing?")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, no marks added."""
        plain = {"add_special_tokens": False, "split_special_tokens": True}  # a literal "</s>" is text
        ids = self._inner(list(texts), **plain, verbose=False)["input_ids"]
        unknown = self._inner.unk_token_id
        if unknown not in (None, self.document_id) and not self._warned and any(unknown in row for row in ids):
            self._warned = True
            log.say(f"note: the tokenizer of {self._where} does not know every character; bits come out too low")
        return ids


def load_any(path: Path) -> Candidate:
    """Load a model to judge: danlu's families by danlu, every other by transformers, from local files only.

    The default window is the model's context; of a foreign one at most 4,096 tokens, for the logits' sake.
    Raises CheckpointError where transformers is needed and missing, or cannot open the folder; TokenizerError
    where the tokenizer is missing or does not fit the model.
    """
    folder = checkpoint.resolve(path)
    model_type = storage.read_json(folder / checkpoint.CONFIG, CheckpointError).get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        return _load_foreign(folder, str(model_type))
    model = checkpoint.load_model(folder)
    return Candidate(model, checkpoint.load_tokenizer(folder), model.context, model.context)


def _load_foreign(folder: Path, model_type: str) -> Candidate:
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise CheckpointError(
            f"{folder}: a {model_type!r} model needs transformers, which is missing: pip install transformers"
        ) from None
    try:
        inner = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{folder}: transformers cannot open this model ({_first_line(error)})") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise TokenizerError(f"{folder}: transformers cannot open its tokenizer ({_first_line(error)})") from None
    entries = inner.config.vocab_size
    if len(tokenizer) > entries:
        raise TokenizerError(f"{folder}: its tokenizer has {len(tokenizer):,} entries, but its model only {entries:,}")
    context = getattr(inner.config, "max_position_embeddings", None) or sys.maxsize
    window = min(context, _LONGEST_DEFAULT_WINDOW)
    return Candidate(ForeignModel(inner), ForeignTokenizer(tokenizer, folder), context, window)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
