"""danlu (丹炉): small Chinese GPT language models, from raw text to a model, on the machine you have.

The public names are imported when first used, so that `danlu --help` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from danlu.errors import DanluError

if TYPE_CHECKING:
    from danlu.checkpoint import load_model, load_tokenizer
    from danlu.commands.train_ import train
    from danlu.config import TrainConfig
    from danlu.infer.generate import generate

__version__ = "0.1.0"
__all__ = ["DanluError", "TrainConfig", "generate", "load_model", "load_tokenizer", "train"]

_HOMES = {
    "TrainConfig": "danlu.config",
    "load_model": "danlu.checkpoint",
    "load_tokenizer": "danlu.checkpoint",
    "train": "danlu.commands.train_",
    "generate": "danlu.infer.generate",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'danlu' has no attribute {name!r}")
