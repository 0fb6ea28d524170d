"""`danlu import`: the article's `.pt` state dict becomes a checkpoint folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from danlu.commands import finish, required
from danlu.configure import parse_flags
from danlu.errors import CheckpointError


@dataclass(frozen=True)
class Options:
    """Turn the article's .pt into a folder that danlu and (with danlu.hf) transformers open."""

    file: Positional[Path | None] = None
    """the .pt file"""
    tokenizer: Path | None = None
    """tokenizer folder to put into the checkpoint; without one, verbs that need text say so"""
    heads: int | None = None
    """attention heads, where you want them checked"""
    out: Path | None = None
    """checkpoint folder to make"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, read, write."""
    from danlu.checkpoint import save_checkpoint
    from danlu.model.article import from_article_state
    from danlu.tokenizer import Tokenizer

    options = parse_flags(Options, argv, "danlu import")
    file = required(options.file, "FILE.pt", "name the article's state dict")
    out = required(options.out, "--out", "name the checkpoint folder to make")
    tokenizer = Tokenizer.load(options.tokenizer) if options.tokenizer else None
    model = from_article_state(read_state(file), str(file), options.heads)
    save_checkpoint(out, model, tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    result = {"parameters": parameters, "checkpoint": str(out), "model_type": model.model_type}
    return finish(result, f"{parameters:,} parameters ({model.model_type})  ->  {out}", options.json)


def read_state(file: Path) -> dict[str, Any]:
    """Read tensors by name from a .pt. Raises CheckpointError where it is none, or would run code."""
    import pickle
    import warnings

    import torch

    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on damaged bytes
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{file}: is no .pt of tensors alone (it may hold code), so it is not read") from None
    except Exception as error:  # damaged bytes raise errors of a dozen types
        what = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{file}: is no .pt file that torch reads ({what})") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{file}: is no state dict (tensors by name)")
    return state
