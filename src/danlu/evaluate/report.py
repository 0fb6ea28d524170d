"""A run's report: one HTML file that needs no network, made from what the run folder holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from danlu import log, storage
from danlu.errors import DataError

_MOST_POINTS = 1500

Row = Mapping[str, Any]


def write_report(run: Path) -> Path:
    """Write `run/report.html` and return its path; whatever the folder does not hold yet is left out."""
    rows = log.read_metrics(run)
    template = (resources.files("danlu.evaluate") / "report.html").read_text(encoding="utf-8")
    text = (
        json.dumps(_contents(run, rows), ensure_ascii=False)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
    )
    storage.write_text(run / "report.html", template.replace("__DATA__", text))
    return run / "report.html"


def _contents(run: Path, rows: Sequence[Row]) -> dict[str, Any]:
    train, judged = _of(rows, "train"), _of(rows, "eval")
    baselines = [
        {"name": name, "y": entry["bits_per_char"]} for name, entry in _json(run / "baselines.json").items()
    ]
    machine = _json(run / "plan.json").get("machine", {})
    about = [f"{machine['device']}, {machine['precision']}, {machine['threads']} threads"] if machine else []
    about += [f"{len(_of(rows, 'skipped'))} steps skipped"] if _of(rows, "skipped") else []
    return {
        "name": "/".join(run.resolve().parts[-2:]),
        "about": " · ".join(about),
        "cards": _cards(run, train, judged, baselines),
        "quality": [
            _chart(
                "Bits per character",
                "lower is better",
                [("validation", "s0", judged, "bits_per_char")],
                baselines,
            ),
            _chart(
                "Loss",
                "nats per token",
                [
                    ("training", "s1", train, "loss_nats_per_token"),
                    ("validation", "s0", judged, "loss_nats_per_token"),
                ],
            ),
        ],
        "course": [
            _chart(
                "Learning rate", "of AdamW", [("rate", "s1", train, "learning_rate")], zero=True, smooth=False
            ),
            _chart("Gradient norm", "before clipping", [("norm", "s1", train, "grad_norm")], zero=True),
            _chart("Speed", "tokens per second", [("speed", "s1", train, "tokens_per_second")], zero=True),
            _chart(
                "Share of the machine's matrix speed", "", [("share", "s1", train, "gemm_share")], zero=True
            ),
        ],
        "samples": [{k: row[k] for k in ("step", "prompt", "text")} for row in _of(rows, "sample")],
        "made": _made(run, rows),
    }


def _cards(
    run: Path, train: Sequence[Row], judged: Sequence[Row], baselines: Sequence[Row]
) -> list[dict[str, str]]:
    cards = []
    if judged:
        cards.append(
            (f"{min(row['bits_per_char'] for row in judged):.3f}", "bits per character, validation text")
        )
    cards += [(f"{line['y']:.3f}", f"bits per character: {line['name']}") for line in baselines]
    parameters = _json(run / "model.json").get("parameters")
    cards += [(f"{parameters:,}", "parameters")] if parameters else []
    if train:
        speeds = sorted(row["tokens_per_second"] for row in train)
        cards += [
            (f"{train[-1]['tokens'] / 1e6:.2f}M", "tokens seen"),
            (f"{train[-1]['seconds'] / 60:.1f} min", f"of training, {train[-1]['step']:,} steps"),
            (f"{speeds[len(speeds) // 2]:,.0f}", "tokens per second, median"),
        ]
    return [{"value": value, "label": label} for value, label in cards]


def _chart(
    title: str,
    unit: str,
    series: Sequence[tuple[str, str, Sequence[Row], str]],
    lines: Sequence[Row] = (),
    zero: bool = False,
    smooth: bool = True,
) -> dict[str, Any]:
    """Describe a chart over tokens; a training series is noisy, so the page smooths it."""
    return {
        "title": title,
        "unit": unit,
        "x": "tokens",
        "zero": zero,
        "lines": list(lines),
        "series": [
            {"name": name, "style": style, "noisy": smooth and style == "s1", "points": _points(rows, key)}
            for name, style, rows, key in series
        ],
    }


def _points(rows: Sequence[Row], key: str) -> list[list[float]]:
    """Return (tokens, value) pairs, finite ones only, thinned to what a screen shows."""
    found = [[row["tokens"], row[key]] for row in rows if math.isfinite(row.get(key, math.nan))]
    every = max(1, len(found) // _MOST_POINTS)
    return found[::every] + (found[-1:] if (len(found) - 1) % every else [])


def _made(run: Path, rows: Sequence[Row]) -> list[dict[str, str]]:
    parts = []
    if (run / "run.toml").is_file():
        parts.append(("configuration (run.toml)", (run / "run.toml").read_text(encoding="utf-8")))
    data = _json(run / "data.json")
    if data:
        shown = {key: value for key, value in data.items() if key != "files"}
        parts.append(("data (the shards' manifest)", json.dumps(shown, ensure_ascii=False, indent=2)))
    if (run / "plan.json").is_file():
        revisions = [
            f"step {row['step']:,}: {row['total_steps']:,} steps, {row['why']}" for row in _of(rows, "plan")
        ]
        plan = json.dumps(_json(run / "plan.json").get("machine", {}), indent=2)
        parts.append(("machine and revisions of the plan", "\n".join([plan, *revisions])))
    return [{"title": title, "text": text} for title, text in parts]


def _of(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _json(path: Path) -> dict[str, Any]:
    return storage.read_json(path, DataError) if path.is_file() else {}
