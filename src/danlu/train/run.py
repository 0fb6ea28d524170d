"""The run folder: its checkpoints, the links `latest` and `best`, and which of them to go on from."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu import log, storage
from danlu.checkpoint import TrainerState, newest_good, save_checkpoint
from danlu.config import TrainConfig
from danlu.configure import check, to_toml
from danlu.errors import CheckpointError, ConfigError, OutputError
from danlu.model import Model
from danlu.tokenizer import Tokenizer

RUN_TOML = "run.toml"
SUMMARY = "summary.json"
_MAY_DIFFER = {"out", "data", "keep_checkpoints"}
"""Keys that a resumed run may change: folders may have moved (a checkpoint knows its shards by their address)."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run, and the order in which a checkpoint replaces an older one."""

    path: Path
    keep: int

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the path of the checkpoint of `step`."""
        return self.checkpoints / f"step-{step:08d}"

    def newest(self) -> Path | None:
        """Return the newest checkpoint that verifies, or None where there is none.

        Raises CheckpointError where there are some and none verifies: starting over must be asked for.
        """
        found = newest_good(self.checkpoints)
        if found is None and self.begun:
            raise CheckpointError(f"{self.checkpoints}: no checkpoint in it verifies. To start over, remove them")
        return found

    @property
    def begun(self) -> bool:
        """Tell whether any checkpoint was written."""
        return any(self.checkpoints.glob("step-*"))

    def linked(self, name: str) -> Path | None:
        """Return what `latest` or `best` points to, or None."""
        link = self.path / name
        return link.resolve() if link.is_symlink() and link.exists() else None

    def save(self, step: int, model: Model, tokenizer: Tokenizer | None, state: TrainerState, is_best: bool) -> Path:
        """Write the checkpoint whole, then the links, then delete old ones. Returns its path."""
        folder = self.checkpoint(step)
        if folder.exists():  # it did not verify when the run was resumed from an older one
            shutil.rmtree(folder)
        save_checkpoint(folder, model, tokenizer, state)
        with storage.clear_errors(self.path):
            self._link("latest", folder)
            if is_best:
                self._link("best", folder)
        self._prune(step)
        return folder

    def _link(self, name: str, folder: Path) -> None:
        scratch = self.path / f".scratch-{os.getpid()}-{name}"
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(folder.relative_to(self.path))
        scratch.rename(self.path / name)
        storage.fsync(self.path)

    def _prune(self, step: int) -> None:
        """Delete checkpoints before the newest `keep`; the best one stays.

        Those of later steps than this one's did not verify when the run was resumed: they go first.
        """
        best, here = self.linked("best"), self.checkpoint(step)
        kept = [folder for folder in sorted(self.checkpoints.glob("step-*")) if folder <= here]
        for folder in self.checkpoints.glob("step-*"):
            if folder > here or (folder not in kept[-self.keep :] and folder.resolve() != best):
                shutil.rmtree(folder, ignore_errors=True)


def open_run(config: TrainConfig, resume: bool) -> dict[str, Any] | None:
    """Make the run folder, or find it again; return the summary of a run that is finished already.

    Raises OutputError where the folder exists and `resume` is false, ConfigError where `config` differs from
    what the run was started with.
    """
    folder, settings = config.out, config.out / RUN_TOML
    with storage.clear_errors(folder):
        if not resume and settings.is_file():
            raise OutputError(f"{folder}: is a run already. Go on with it by --resume, or name another --out")
        if not resume:
            storage.require_absent(folder)
        folder.mkdir(parents=True, exist_ok=True)
        storage.sweep(folder)
        (folder / "checkpoints").mkdir(exist_ok=True)
        if settings.is_file():
            _require_same(config, settings)
        else:
            storage.write_text(settings, to_toml(config))
    summary = folder / SUMMARY
    if not summary.is_file():
        return None
    log.say(f"{folder}: is finished already. To train its model on, start a new run from it")
    return storage.read_json(summary, CheckpointError)


def _require_same(config: TrainConfig, settings: Path) -> None:
    recorded = check(TrainConfig, tomllib.loads(settings.read_text(encoding="utf-8")), str(settings))
    now, then = config.model_dump(mode="json"), recorded.model_dump(mode="json")
    for key, ours, theirs in _differences(now, then):
        if key.split(".")[0] not in _MAY_DIFFER:
            raise ConfigError(
                f"{settings}: this run was started with {key} = {theirs!r}, now it is {ours!r}. "
                f"Go on with what was recorded: danlu train {config.out} --resume"
            )


def _differences(now: dict[str, Any], then: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each key, its tables' names before it, whose values differ."""
    for key in sorted(now.keys() | then.keys()):
        ours, theirs = now.get(key), then.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(ours, theirs, f"{path}{key}.")  # pyright: ignore[reportUnknownArgumentType]
        elif ours != theirs:
            yield f"{path}{key}", ours, theirs
