"""The numbers that the report's charts show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_POINTS = 600

Row = Mapping[str, Any]
"""A row of `metrics.jsonl`, or another JSON object."""


def charts(rows: Sequence[Row], baselines: Mapping[str, float]) -> list[dict[str, Any]]:
    """Describe every chart: title, unit, series of (step, tokens, seconds, value), horizontal lines."""
    train, judged = of_kind(rows, "train"), of_kind(rows, "eval")
    lines = [{"name": name, "y": bits} for name, bits in baselines.items()]
    bits = [_series("held-out", "eval", judged, "bits_per_char")]
    text = _series("pretraining text", "train", judged, "text_bits_per_char")
    return [
        _chart("Bits per character", "bits", bits + ([text] if text["points"] else []), lines),
        *_both("Loss", "nats per token", rows, "loss_nats_per_token"),
        *_both("Loss of pairs", "nats per pair", rows, "loss_nats_per_pair"),
        *_both("Pairs as preferred", "% of pairs", rows, "preferred", 100),
        *_both("Margin of rewards", "nats", rows, "margin"),
        *_both("Distance from reference or teacher", "KL, nats per token", rows, "kl_nats_per_token"),
        _chart("Learning rate", "AdamW's", [_series("rate", "plain", train, "learning_rate")], zero=True),
        _chart("Gradient norm", "before clipping", [_series("norm", "train", train, "grad_norm")], zero=True),
        _chart("Speed", "tokens/s", [_series("speed", "train", train, "tokens_per_second")], zero=True),
        _chart(
            "Use of the machine",
            "% of its measured matrix speed",
            [_series("share", "train", train, "gemm_share", 100)],
            zero=True,
        ),
    ]


def _chart(
    title: str, unit: str, series: Sequence[Row], lines: Sequence[Row] = (), zero: bool = False
) -> dict[str, Any]:
    return {"title": title, "unit": unit, "series": list(series), "lines": list(lines), "zero": zero}


def _both(title: str, unit: str, rows: Sequence[Row], key: str, factor: float = 1) -> list[dict[str, Any]]:
    """Draw training batches beside held-out text; nothing where a run has no such figure."""
    kinds = (("training batch", "train"), ("held-out", "eval"))
    series = [_series(name, kind, of_kind(rows, kind), key, factor) for name, kind in kinds]
    return [_chart(title, unit, series)] if any(s["points"] for s in series) else []


def _series(name: str, style: str, rows: Sequence[Row], key: str, factor: float = 1) -> dict[str, Any]:
    """Return (step, tokens, seconds, value) of rows with finite values; long runs are averaged in groups."""
    keys = ("step", "tokens", "seconds", key)
    found = [[finite(row, k) for k in keys] for row in rows]
    points = [[number for number in point if number is not None] for point in found if None not in point]
    group = math.ceil(len(points) / _MOST_POINTS) or 1
    groups = [points[start : start + group] for start in range(0, len(points), group)]
    thinned = [[*g[-1][:3], factor * statistics.fmean(p[3] for p in g)] for g in groups]
    return {"name": name, "style": style, "group": group, "points": thinned}


def of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    """Return the rows of one kind."""
    return [row for row in rows if row.get("kind") == kind]


def finite(row: Row, key: str) -> float | None:
    """Return a finite number, or None."""
    value = row.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None
