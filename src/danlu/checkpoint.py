"""A checkpoint is a Hugging Face model directory, written whole or not at all, and verified when it is read.

`config.json`, `model.safetensors` (float32 masters), the tokenizer's files, `generation_config.json`; a learned
adapter, merged into these weights, lies by itself in `adapter/`, a PEFT directory; what resuming needs in `trainer/`;
`manifest.json` (sizes, sha256) comes last. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from danlu import log, storage
from danlu.errors import CheckpointError, OutputError, TokenizerError
from danlu.model import Model, lora, model_from_hf
from danlu.model.config_json import hf_size
from danlu.tokenizer import TOKENIZER_CONFIG, TOKENIZER_JSON, Tokenizer

CONFIG, WEIGHTS, GENERATION = "config.json", "model.safetensors", "generation_config.json"
ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
_BASE = "base.json"
_INDEX = "model.safetensors.index.json"
_TRAINER = "trainer/"
_STATE, _TENSORS = f"{_TRAINER}state.json", f"{_TRAINER}state.safetensors"


@dataclass(frozen=True)
class TrainerState:
    """What resuming needs besides the weights: plain values, and tensors by name."""

    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_checkpoint(
    folder: Path, model: Model, tokenizer: Tokenizer | None = None, trainer: TrainerState | None = None
) -> None:
    """Write a checkpoint folder. Raises OutputError where it exists, cannot be written, or the disk is full."""
    with storage.new_folder(folder) as scratch:
        write_model(scratch, model, tokenizer)
        if model.adapter is not None:
            _write_adapter(scratch / ADAPTER, model, tokenizer)
        if trainer is not None:
            (scratch / _STATE).parent.mkdir()
            _write_json(scratch / _STATE, trainer.values)
            _write_tensors(scratch / _TENSORS, trainer.tensors)


def write_model(
    folder: Path, model: Model, tokenizer: Tokenizer | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write into an existing folder what other programs read of a checkpoint, its weights as `dtype`."""
    ids: dict[str, Any] = {}
    if tokenizer is not None:
        ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": None, "pad_token_id": tokenizer.document_id}
    ends = {"eos_token_id": tokenizer.end_ids} if tokenizer is not None and len(tokenizer.end_ids) > 1 else {}
    type_name = str(dtype).removeprefix("torch.")
    _write_json(folder / CONFIG, model.hf_config() | {"dtype": type_name, "torch_dtype": type_name} | ids)
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
    _write_json(folder / GENERATION, {"_from_model_config": False, **sampling, **ids, **ends})
    _write_tensors(folder / WEIGHTS, {name: weight.to(dtype) for name, weight in lora.plain_state(model).items()})
    if tokenizer is not None:
        tokenizer.write_files(folder)


def _write_adapter(folder: Path, model: Model, tokenizer: Tokenizer | None) -> None:
    """Write what PEFT reads, and beside it which weights it belongs to."""
    assert model.adapter is not None
    folder.mkdir()
    _write_json(folder / ADAPTER_CONFIG, lora.peft_config(model))
    _write_json(folder / _BASE, {"model": model.adapter.base, "sha256": model.adapter.base_sha256})
    _write_tensors(folder / ADAPTER_WEIGHTS, lora.narrow_matrices(model))
    if tokenizer is not None:
        tokenizer.write_files(folder)


def load_model(folder: Path, *, device: str = "cpu") -> Model:
    """Load a model of either family from a folder that danlu or transformers wrote, as float32.

    An adapter's folder gives the model it belongs to, with the adapter merged. Every name and shape must match.
    Raises CheckpointError naming the file or tensor that is missing, altered or
    foreign.
    """
    folder = resolve(Path(folder))
    if (folder / ADAPTER_CONFIG).is_file():
        return _load_adapted(folder).to(device).eval()
    _verify(folder, lambda name: name != GENERATION and not name.startswith(_TRAINER))
    _warn_if_edited(folder / GENERATION)
    model = model_from_hf(_config(folder), str(folder / CONFIG))
    load_weights(folder, model)
    return model.to(device).eval()


def _load_adapted(folder: Path) -> Model:
    where = str(folder / ADAPTER_CONFIG)
    adapter = lora.from_peft_config(storage.read_json(folder / ADAPTER_CONFIG, CheckpointError), where)
    base = Path(adapter.base)
    if not base.is_dir():
        raise CheckpointError(f"{where}: its model {adapter.base} is not here. Put its folder back, or name it there")
    model = load_model(base)
    known = storage.read_json(folder / _BASE, CheckpointError) if (folder / _BASE).is_file() else {}
    if known.get("sha256", "") not in ("", weights_sha256(base)):
        raise CheckpointError(f"{folder}: is an adapter for another model than {adapter.base} holds now")
    lora.attach(model, adapter, torch.Generator())
    lora.take_narrow(model, _load_file(folder / ADAPTER_WEIGHTS), str(folder / ADAPTER_WEIGHTS))
    merged = model_from_hf(_config(resolve(base)), str(base))
    merged.load_state_dict(lora.plain_state(model))
    return merged


def weights_sha256(folder: Path) -> str:
    """Hash a checkpoint's weights, as one file; empty where they are in several."""
    path = resolve(folder) / WEIGHTS
    return storage.sha256_of(path) if path.is_file() else ""


def load_weights(folder: Path, model: Model) -> None:
    """Copy a folder's weights into `model`, every name accounted for; of an adapted model, the adapter's alone."""
    if model.adapter is not None:
        path = folder / ADAPTER / ADAPTER_WEIGHTS
        lora.take_narrow(model, _load_file(path), str(path))
        return
    _fill(model, _read_weights(folder), str(folder / WEIGHTS))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a checkpoint, of a run's best one, or of a folder that holds nothing else.

    Raises TokenizerError where there is none, or it has more entries than the model beside it.
    """
    folder = _with_tokenizer(folder)
    _verify(folder, lambda name: name in (CONFIG, TOKENIZER_JSON, TOKENIZER_CONFIG))
    if not (folder / TOKENIZER_JSON).is_file():
        raise TokenizerError(
            f"{folder}: holds no {TOKENIZER_JSON}, so it can neither read nor write text. "
            "Import it again with --tokenizer DIR, or copy the tokenizer's files into it"
        )
    tokenizer = Tokenizer.load(folder)
    config = _config(folder) if (folder / CONFIG).is_file() else {}
    entries = hf_size(config, "vocab_size", str(folder / CONFIG)) if "vocab_size" in config else tokenizer.vocab_size
    if tokenizer.vocab_size > entries:
        raise TokenizerError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size:,} entries, but its model only {entries:,}. "
            "Put the tokenizer it was trained with beside it"
        )
    return tokenizer


def context_of(folder: Path) -> int | None:
    """Return the context of a checkpoint's model, or None where a folder holds nothing but a tokenizer."""
    folder = _with_tokenizer(folder)
    if not (folder / CONFIG).is_file():
        return None
    return hf_size(_config(folder), "max_position_embeddings", str(folder / CONFIG))


def generation_settings(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint's `generation_config.json` says of drawing; nothing where it has none."""
    path = resolve(Path(folder)) / GENERATION
    return storage.read_json(path, CheckpointError) if path.is_file() else {}


def _with_tokenizer(folder: Path) -> Path:
    """Return a folder that holds nothing but a tokenizer, or else the checkpoint that a path means."""
    folder = Path(folder)
    return resolve(folder) if _holds(folder, CONFIG) or not _holds(folder, TOKENIZER_JSON) else folder


def load_trainer(folder: Path) -> TrainerState:
    """Load what resuming needs. Raises CheckpointError where the folder has none or it was altered."""
    _verify(folder, lambda name: name.startswith(_TRAINER))
    if not (folder / _STATE).is_file():
        raise CheckpointError(f"{folder}: holds no {_STATE}, so no run can be resumed from it. Use it as --init")
    return TrainerState(storage.read_json(folder / _STATE, CheckpointError), _load_file(folder / _TENSORS))


def newest_good(checkpoints: Path) -> Path | None:
    """Return the newest `step-…` folder that verifies; say on stderr which were passed over, and why."""
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            storage.verify(folder, CheckpointError, skip=lambda name: name == GENERATION)
        except CheckpointError as error:
            log.say(f"passed over: {error}")
            continue
        return folder
    return None


def resolve(path: Path) -> Path:
    """Return the checkpoint that a path means: itself, or a run folder's best, or its latest.

    Raises CheckpointError where there is none.
    """
    for folder in (path, path / "best", path / "latest", path / "run" / "best", path / "run" / "latest"):
        if _holds(folder, CONFIG) or _holds(folder, ADAPTER_CONFIG):
            return folder.resolve() if folder.is_symlink() else folder
    if (path / "run.toml").is_file():
        raise CheckpointError(f"{path}: is a run without a checkpoint yet. Go on with danlu train {path} --resume")
    what = f"holds no {CONFIG}" if path.exists() else "there is no such folder"
    raise CheckpointError(f"{path}: {what}. Name a checkpoint folder or a run folder")


def _holds(folder: Path, name: str) -> bool:
    """Tell whether a folder has a file, or had it when its manifest was written."""
    if (folder / name).is_file() or not (folder / storage.MANIFEST).is_file():
        return (folder / name).is_file()
    files = storage.read_json(folder / storage.MANIFEST, CheckpointError).get("files")
    return isinstance(files, dict) and name in files


def _verify(folder: Path, wanted: Callable[[str], bool]) -> None:
    """Check the wanted files of a folder that has a manifest; in a run, an error offers the newest good sibling."""
    if not (folder / storage.MANIFEST).is_file():
        return
    try:
        storage.verify(folder, CheckpointError, skip=lambda name: not wanted(name))
    except CheckpointError as error:
        siblings = folder.absolute().parent
        good = newest_good(siblings) if siblings.name == "checkpoints" else None
        raise CheckpointError(f"{error}" + (f". The newest good checkpoint is {good}" if good else "")) from None


def _warn_if_edited(path: Path) -> None:
    """Say so where a file is not what its manifest lists: sampling settings are the user's to change."""
    if (path.parent / storage.MANIFEST).is_file():
        try:
            storage.verify(path.parent, CheckpointError, skip=lambda name: name != path.name)
        except CheckpointError as error:
            log.say(f"note: {error}")


def _config(folder: Path) -> dict[str, Any]:
    return storage.read_json(folder / CONFIG, CheckpointError)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        return _load_file(folder / WEIGHTS)
    if (folder / _INDEX).is_file():
        shard_of = storage.read_json(folder / _INDEX, CheckpointError).get("weight_map")
        if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
            raise CheckpointError(f"{folder / _INDEX}: holds no 'weight_map' of file names")
        return {k: v for name in sorted(set(shard_of.values())) for k, v in _load_file(folder / name).items()}
    hint = ""
    if any(folder.glob("pytorch_model*.bin")):
        hint = " (pytorch_model.bin is pickled and not read: save it with transformers as safetensors first)"
    raise CheckpointError(f"{folder}: holds no {WEIGHTS}{hint}")


def _load_file(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


@torch.no_grad()
def _fill(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    own = model.state_dict()
    weights = {name.removeprefix("danlu."): tensor for name, tensor in weights.items()}
    if "lm_head.weight" in weights and "lm_head.weight" not in own:
        weights.pop("lm_head.weight")  # tied: some writers store the one matrix twice
    for name in own.keys() | weights.keys():
        if name not in weights or name not in own:
            raise CheckpointError(f"{where}: {name!r} is {'missing' if name not in weights else 'of another model'}")
        if weights[name].shape != own[name].shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            raise CheckpointError(f"{where}: {name!r} has shape {shapes} as {CONFIG} says")
        if not weights[name].is_floating_point():
            raise CheckpointError(f"{where}: {name!r} holds {weights[name].dtype}: quantised weights are not read")
        own[name].copy_(weights[name])


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise OutputError(f"{path}: cannot be written ({error})") from None
