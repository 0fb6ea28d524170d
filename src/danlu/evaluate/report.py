"""A run's report: one HTML file that needs no network, made from what the run folder holds.

Texts and tables are written here, escaped; the page's own script draws the charts from numbers put
into it. Whatever the folder does not hold yet is left out.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from danlu import log, storage
from danlu.errors import DataError
from danlu.evaluate.charts import Row, charts, finite, of_kind
from danlu.evaluate.chat import ANSWER_ROWS, ANSWERS
from danlu.pages.html import cards, facts, fill, script_json, short, table

_COUNTS = ("documents", "conversations", "tokens", "scored_tokens", "rows", "characters", "bytes")
_SHOWN_APART = ("files", "splits", "dropped", "mix")


def write_report(run: Path) -> Path:
    """Write `run/report.html` and return its path. Raises DataError where there is no such folder."""
    if not run.is_dir():
        raise DataError(f"{run}: there is no such run folder")
    rows = log.read_metrics(run) if (run / log.METRICS).is_file() else []
    parts = {
        "NAME": escape("/".join(run.resolve().parts[-2:])),
        "ABOUT": escape(_about(run, rows)),
        "HERO": _hero(run, rows),
        "CARDS": _cards(run, rows),
        "SAMPLES": _samples(rows) + _answers(run),
        "MADE": _data(run) + _machine(run, rows) + _settings(run),
        "MEASURED": _measured(run),
        "CHARTS": script_json(charts(rows, _baselines(run))),
    }
    storage.write_text(run / "report.html", fill("danlu.evaluate", "report.html", parts))
    return run / "report.html"


# The head: what it is, how good, how large, how long


def _about(run: Path, rows: Sequence[Row]) -> str:
    machine = _json(run / "plan.json").get("machine", {})
    words = [machine[key] for key in ("device", "precision") if key in machine]
    words += [f"{machine['threads']} threads"] if "threads" in machine else []
    skipped = len(of_kind(rows, "skipped"))
    words += [f"steps skipped: {skipped:,}"] if skipped else []
    words += [] if _json(run / "summary.json").get("finished") else ["not finished"]
    return " · ".join(map(str, words))


def _hero(run: Path, rows: Sequence[Row]) -> str:
    judged = [(row, bits) for row in of_kind(rows, "eval") if (bits := finite(row, "bits_per_char")) is not None]
    if not judged:
        return '<p class="note">Nothing is measured yet.</p>'
    best_row, best = min(judged, key=lambda pair: pair[1])
    baselines = _baselines(run)
    first = judged[0]
    bars = [("this model", best, "model"), *((name, bits, "base") for name, bits in baselines.items())]
    started = first[0].get("step") == 0 and len(judged) > 1 and first[1] < 2 * max(bits for _, bits, _ in bars)
    bars += [("before training", first[1], "start")] if started else []
    longest = max(bits for _, bits, _ in bars) or 1
    drawn = "".join(
        f'<div class="bar {kind}"><span>{escape(name)}</span><div>'
        f'<i style="width:{82 * bits / longest:.1f}%"></i><b>{bits:.2f}</b></div></div>'
        for name, bits, kind in sorted(bars, key=lambda bar: bar[1])
    )
    verdict = "<br>".join(
        f"{abs(1 - best / bits):.0%} {'fewer' if best < bits else 'more'} than {escape(name)}"
        for name, bits in baselines.items()
        if bits > 0
    )
    return (
        f'<div class="figure"><strong>{best:.3f}</strong><span>bits per character<br>'
        f"held-out text, step {best_row.get('step', 0):,}</span>"
        f'<p class="note">{verdict}</p></div><div class="bars">{drawn}</div>'
    )


def _cards(run: Path, rows: Sequence[Row]) -> str:
    train, judged = of_kind(rows, "train"), of_kind(rows, "eval")
    loss, per_byte = _last(judged, "loss_nats_per_token"), _last(judged, "bits_per_byte")
    tokens, seconds = _last(train, "tokens"), _last(train, "seconds")
    steps, parameters = _last(train, "step"), _parameters(run)
    speeds = [speed for row in train if (speed := finite(row, "tokens_per_second")) is not None]
    data = _json(run / "data.json")
    epoch = data.get("epoch_tokens", data.get("splits", {}).get("train", {}).get("tokens"))
    is_text = "conversations" not in data  # beside conversations text may be read
    epochs = f" · {tokens / epoch:.2f} epochs" if tokens is not None and epoch and is_text else ""
    figures = [
        (short(parameters), "parameters", parameters is not None),
        (short(tokens), f"tokens seen{epochs}", tokens is not None),
        (f"{(seconds or 0) / 60:.1f}", f"minutes · {steps or 0:,.0f} steps", seconds is not None),
        (f"{statistics.median(speeds or [0]):,.0f}", "tokens per second, median", bool(speeds)),
        (f"{loss or 0:.3f}", "nats per token, held-out", loss is not None),
        (f"{per_byte or 0:.3f}", "bits per byte, held-out", per_byte is not None),
    ]
    return cards((value, label) for value, label, known in figures if known)


def _parameters(run: Path) -> int | None:
    """Count the parameters that the summary names, or that the newest checkpoint holds."""
    named = _json(run / "summary.json").get("parameters")
    if named is not None:
        return named
    try:
        with safe_open(run / "latest" / "model.safetensors", "np") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


# What it wrote, and what it was made from


def _samples(rows: Sequence[Row]) -> str:
    """Make a table, a step a row and a prompt a column; the page's script shows one row at a time."""
    texts: dict[int, dict[str, str]] = {}
    for row in of_kind(rows, "sample"):
        texts.setdefault(row["step"], {})[str(row.get("prompt", ""))] = str(row.get("text", ""))
    if not texts:
        return '<p class="note">No samples were drawn.</p>'
    prompts = list(dict.fromkeys(prompt for by_prompt in texts.values() for prompt in by_prompt))
    quality = {row["step"]: bits for row in of_kind(rows, "eval") if (bits := finite(row, "bits_per_char"))}
    body = "".join(
        f"<tr><th>step {step:,}"
        + (f"<br><small>{quality[step]:.2f} bits/char</small>" if step in quality else "")
        + "</th>"
        + "".join(f"<td>{escape(by_prompt.get(prompt, ''))}</td>" for prompt in prompts)
        + "</tr>"
        for step, by_prompt in texts.items()
    )
    heads = "".join(f"<th>{escape(prompt)}</th>" for prompt in prompts)
    return (
        '<div id="player"></div><details id="all" open><summary>Side by side: every evaluation</summary>'
        f'<div class="wide"><table id="samples"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _answers(run: Path) -> str:
    """Make the tables of a fine-tuning run: what each model's answers are worth, and the answers side by side."""
    found = _json(run / ANSWERS)
    if not found:
        return ""
    names, shown = list(found["scores"]), found["shown"]
    rows = [[label, *(format(found["scores"][name][key], form) for name in names)] for label, key, form in ANSWER_ROWS]
    head = ["question", "reference", *names]
    said = table(head, [[row["question"], row["reference"], *(row["answers"][n] for n in names)] for row in shown])
    first = found["scores"][names[0]]
    note = f"{first['questions']:,} held-out questions, answers drawn as danlu generate does"
    return (
        f"<h2>Answers</h2><p class='note'>{escape(note)}</p>{table(['', *names], rows)}"
        f"<details open><summary>Side by side</summary>{said}</details>"
    )


def _data(run: Path) -> str:
    manifest = _json(run / "data.json")
    if not manifest:
        return ""
    entries = manifest.get("splits", {})
    counts = [key for key in _COUNTS if any(key in entry for entry in entries.values())]
    ratio = ["characters/token"] if "characters" in counts else []
    splits = table(
        ["split", *(key.replace("_", " ") for key in counts), *ratio],
        (
            [name, *(f"{entry.get(key, 0):,}" for key in counts), *(f"{_ratio(entry):.2f}" for _ in ratio)]
            for name, entry in entries.items()
        ),
    )
    reasons = [[reason, f"{count:,}"] for reason, count in manifest.get("dropped", {}).items()]
    dropped = table(["dropped because", "how many"], reasons) if reasons else ""
    known = facts({key: value for key, value in manifest.items() if key not in _SHOWN_APART})
    shown = f"{splits}{_mix(manifest.get('mix', []))}{dropped}{known}"
    return f"<details open><summary>Data: its manifest</summary>{shown}</details>"


def _mix(entries: Sequence[Row]) -> str:
    if not entries:
        return ""
    shown = ("name", "{}"), ("kept", "{:,}"), ("epochs", "{:.4g}"), ("share", "{:.1%}")
    rows = ([form.format(entry[key]) for key, form in shown] for entry in entries)
    return table(["source of the mix", "documents", "passes an epoch", "share of the tokens"], rows)


def _ratio(entry: Row) -> float:
    return entry.get("characters", 0) / max(1, entry.get("tokens", 0))


def _machine(run: Path, rows: Sequence[Row]) -> str:
    plan = _json(run / "plan.json")
    versions = [
        [f"{v.get('from_step', 0):,}", f"{v.get('total_steps', 0):,}", _batches(v), str(v.get("why", ""))]
        for v in plan.get("versions", [])
    ]
    skipped = [[f"{row.get('step', 0):,}", str(row.get("reason", ""))] for row in of_kind(rows, "skipped")]
    parts = facts(plan["machine"]) if "machine" in plan else ""
    parts += table(["plan from step", "steps in all", "tokens a step", "why"], versions) if versions else ""
    parts += table(["skipped step", "reason"], skipped) if skipped else ""
    return f"<details><summary>Machine and plan</summary>{parts}</details>" if parts else ""


def _batches(version: Row) -> str:
    """Name the sizes of a plan's batches, in the order in which they come."""
    stretches = version.get("batches", {}).get("stretches", [])
    return ", then ".join(dict.fromkeys(f"{s.get('batch_tokens', 0):,}" for s in stretches))


def _settings(run: Path) -> str:
    path = run / "run.toml"
    if not path.is_file():
        return ""
    text = escape(path.read_text(encoding="utf-8"))
    text = re.sub(r"^(\[.*\])$", r"<b>\1</b>", text, flags=re.MULTILINE)
    text = re.sub(r"^([\w.]+)( = )", r"<i>\1</i>\2", text, flags=re.MULTILINE)
    return f"<details><summary>Settings: run.toml</summary><pre>{text}</pre></details>"


def _measured(run: Path) -> str:
    abouts = [
        f"{escape(str(name))}: {escape(str(entry['about']))}."
        for name, entry in _json(run / "baselines.json").items()
        if "about" in entry
    ]
    return " ".join(abouts)


def _last(rows: Sequence[Row], key: str) -> float | None:
    return next((number for row in reversed(rows) if (number := finite(row, key)) is not None), None)


def _baselines(run: Path) -> dict[str, float]:
    entries = _json(run / "baselines.json").items()
    return {str(name): bits for name, entry in entries if (bits := finite(entry, "bits_per_char")) is not None}


def _json(path: Path) -> dict[str, Any]:
    return storage.read_json(path, DataError) if path.is_file() else {}
