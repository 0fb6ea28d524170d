"""Any Hugging Face causal language model, scored as danlu's own are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu import checkpoint, storage
from danlu.errors import CheckpointError, TokenizerError
from danlu.model import FAMILIES, Model
from danlu.tokenizer import TOKENIZER_JSON, Tokenizer
from danlu.types import IGNORED, ModelOut


class Foreign(nn.Module):
    """A transformers model behind the part of `Model` that scoring uses."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.context: int = getattr(model.config, "max_position_embeddings", None) or 1024
        self.compute_dtype = torch.float32

    @property
    def output_weight(self) -> Tensor:
        """Return the output layer's weight."""
        return self.model.get_output_embeddings().weight

    def forward(self, ids_BT: Tensor, labels: Tensor) -> ModelOut:
        """Return nll_BT in nats."""
        with torch.autocast(ids_BT.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            logits_BTV = self.model(input_ids=ids_BT).logits
        nll = F.cross_entropy(logits_BTV.float().mT, labels, reduction="none", ignore_index=IGNORED)
        return ModelOut(nll_BT=nll)


def load_any(folder: Path) -> tuple[Model | Foreign, Tokenizer]:
    """Load model and tokenizer: danlu's families by danlu, every other by transformers.

    The tokenizer's eos (its bos, if it has no eos) is what a document begins with. Raises CheckpointError where
    transformers is needed and missing, or cannot open the folder.
    """
    folder = checkpoint.resolve(folder)
    model_type = storage.read_json(folder / checkpoint.CONFIG, CheckpointError).get("model_type")
    if model_type in FAMILIES:
        return checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise CheckpointError(f"{folder}: {model_type!r} needs transformers: pip install transformers") from None
    if not (folder / TOKENIZER_JSON).is_file():
        raise TokenizerError(f"{folder}: holds no {TOKENIZER_JSON}. Save its tokenizer there as a fast one")
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder}: transformers cannot open it ({str(error).splitlines()[0]})") from None
    return Foreign(model), Tokenizer.load(folder)
