"""The article's own .pt: its state dict's names, tensors alone. The one file that danlu writes as a pickle."""

from __future__ import annotations

from pathlib import Path

import torch

from danlu import storage
from danlu.errors import CheckpointError
from danlu.model import Model
from danlu.model.article import Article, to_article_state


def export_article(out: Path, model: Model, folder: Path) -> None:
    """Write the file, which `torch.load(…, weights_only=True)` and the article's code read.

    Raises CheckpointError for another family, OutputError where the file exists or cannot be written.
    """
    if not isinstance(model, Article):
        raise CheckpointError(
            f"{folder}: is of the family {model.model_type}, which the article's code does not compute. "
            "Use --format hf or gguf"
        )
    with storage.new_file(out) as scratch, scratch.open("wb") as file:
        torch.save({name: tensor.detach().cpu() for name, tensor in to_article_state(model).items()}, file)
