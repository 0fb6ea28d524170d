"""What a run's own files tell of one of its checkpoints, and of the run that it started from. Nothing else is known."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu import log, storage
from danlu.checkpoint import ADAPTER_CONFIG
from danlu.errors import DataError
from danlu.evaluate.chat import ANSWERS
from danlu.train.run import RUN_TOML, SUMMARY

_LONGEST_CHAIN = 16


@dataclass(frozen=True, slots=True)
class Recorded:
    """Tables as the files hold them, empty where there is no file.

    `progress`: step, tokens, and the quality measured last before this checkpoint; `base`: what the run started from.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    base: Recorded | None = None

    @property
    def chain(self) -> list[Recorded]:
        """Return the runs that made it, the first one first."""
        return [*(self.base.chain if self.base else []), self]


def recorded(folder: Path, depth: int = 0) -> Recorded:
    """Read what lies in and around a checkpoint folder; a file that cannot be read is passed over, and said so."""
    folder = folder.resolve()
    if (folder / ADAPTER_CONFIG).is_file():
        folder = folder.parent
    run = folder.parent.parent
    state = _json(folder / "trainer" / "state.json")
    progress = state.get("progress", {}) | {key: state[key] for key in ("seconds",) if key in state}
    if folder.parent.name != "checkpoints" or not (run / RUN_TOML).is_file():
        return Recorded(folder.name, progress=progress)
    settings = _settings(run / RUN_TOML)
    init = settings.get("init")
    base = recorded(Path(init), depth + 1) if init and Path(init).is_dir() and depth < _LONGEST_CHAIN else None
    plan = _json(run / "plan.json")
    stretches = [s for version in plan.get("versions", []) for s in version.get("batches", {}).get("stretches", [])]
    if stretches:  # batches may have been halved
        settings = settings | {"batch_tokens": stretches[-1].get("batch_tokens")}
    return Recorded(
        run.name,
        settings,
        _json(run / "data.json"),
        plan.get("machine", {}),
        progress,
        _json(run / "baselines.json"),
        _json(run / ANSWERS),
        _json(run / SUMMARY),
        base,
    )


def _settings(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.say(f"passed over: {path}: is no valid TOML ({error})")
        return {}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return storage.read_json(path, DataError)
    except DataError as error:
        log.say(f"passed over: {error}")
        return {}
