"""A Hugging Face model directory without what resuming needs, in float32 or bfloat16, with a model card."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from danlu import storage
from danlu.checkpoint import GENERATION, write_model
from danlu.model import Model
from danlu.tokenizer import Tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export_folder(out: Path, source: Path, model: Model, tokenizer: Tokenizer, dtype: str, card: str) -> None:
    """Make the folder; the sampling settings of `source` come along. Raises OutputError, and CheckpointError
    for weights that are not finite.
    """
    with storage.new_folder(out) as scratch:
        write_model(scratch, model, tokenizer, DTYPES[dtype])
        if (source / GENERATION).is_file():
            shutil.copyfile(source / GENERATION, scratch / GENERATION)
        (scratch / "README.md").write_text(card, encoding="utf-8")
