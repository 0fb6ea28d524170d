"""A run's report: one HTML file."""

from __future__ import annotations

from pathlib import Path


def write_report(run: Path) -> Path:
    """Write `report.html` of a run folder."""
    path = run / "report.html"
    path.write_text("", encoding="utf-8")
    return path
