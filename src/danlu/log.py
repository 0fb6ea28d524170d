"""What a run says: rows of `metrics.jsonl`, progress on stderr, TensorBoard events where installed.

A row of `metrics.jsonl` has `kind` (train, eval, sample, skipped, plan) and `step`, the updates done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from danlu import storage
from danlu.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

METRICS = "metrics.jsonl"
Item = TypeVar("Item")


class MetricsLog:
    """Appends rows to a run's `metrics.jsonl`, and to TensorBoard events if that is installed."""

    def __init__(self, run: Path, done: int = 0):
        """Open the log of a run with `done` updates; TensorBoard hides the events after those."""
        self.path = run / METRICS
        self._file = self.path.open("a", encoding="utf-8")
        self._board = _tensorboard(run / "tensorboard", done)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one row; numbers also go to TensorBoard under `kind/name`."""
        with storage.clear_errors(self.path):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}, ensure_ascii=False) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Flush the rows to the disk."""
        with storage.clear_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close; what a full disk left unwritten is an OutputError again."""
        with storage.clear_errors(self.path):
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the rows of a run; a last line that a killed process left unfinished is passed over."""
    path = run / METRICS
    if not path.is_file():
        raise DataError(f"{path}: is missing, so {run} is no run folder")
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # a sample may hold U+2028
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: is no JSON") from None
    return rows


def cut_metrics(run: Path, step: int) -> None:
    """Drop the rows after `step`, so that a resumed run does not write them twice."""
    if (run / METRICS).is_file():
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        storage.write_text(run / METRICS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def _tensorboard(folder: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)


def console() -> Console:
    """Return the console for progress and remarks; it writes to stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one remark on stderr, plain (no markup is read in it)."""
    console().print(text, markup=False, soft_wrap=True)


def progress_bar(unit: str = "") -> Progress:
    """Make a rich Progress on stderr: bar, count, time passed, time left, and each task's `note`.

    With the unit "bytes" the count is in kB, MB or GB.
    """
    from rich import progress as rp

    return rp.Progress(
        rp.SpinnerColumn(),
        rp.TextColumn("{task.description}", markup=False),
        rp.BarColumn(bar_width=20),
        *([rp.DownloadColumn()] if unit == "bytes" else [rp.MofNCompleteColumn(), rp.TextColumn(unit)]),
        rp.TimeElapsedColumn(),
        rp.TextColumn("left"),
        rp.TimeRemainingColumn(),
        rp.TextColumn("{task.fields[note]}", markup=False),
        console=console(),
    )


@contextmanager
def progress(unit: str = "") -> Iterator[Progress]:
    """Yield a running `progress_bar`; add tasks to it."""
    with progress_bar(unit) as bar:
        yield bar


def track(items: Iterable[Item], description: str, total: int | None = None, unit: str = "") -> Iterator[Item]:
    """Yield the items, showing progress on stderr."""
    with progress(unit) as bar:
        task = bar.add_task(description, total=total, note="")
        for item in items:
            yield item
            bar.advance(task)
