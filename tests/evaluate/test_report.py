"""The report: one whole page, whatever the run folder holds."""

import json
import math
import random
import re
import shutil
import subprocess

import numpy as np
import pytest
from safetensors.numpy import save_file
from whole_page import Page

from danlu.errors import DataError
from danlu.evaluate.report import write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'__CHARTS__ \u2028 http://x.y"


class Report(Page):
    @property
    def charts(self):
        found = [i for i, (tag, attrs) in enumerate(self.elements) if attrs.get("type") == "application/json"]
        assert len(found) == 1
        blobs = [data for tag, data in self.words if tag == "script" and data.lstrip().startswith("[")]
        return {chart["title"]: chart for chart in json.loads("".join(blobs))}


def rows(steps=200, every=40):
    rng = random.Random(0)
    for step in range(steps + 1):
        bits = 5.6 + 7 * math.exp(-step / 30)
        at = {"step": step, "tokens": step * 4096, "seconds": step * 0.2}
        if step:
            yield {
                "kind": "train",
                **at,
                "loss_nats_per_token": bits * 0.97 + rng.gauss(0, 0.1),
                "learning_rate": 3e-3 * min(1, step / 40),
                "grad_norm": 1 + rng.random(),
                "tokens_per_second": 5900.0,
                "gemm_share": 0.4,
            }
        if step % every == 0:
            loss = {"loss_nats_per_token": bits * 0.97, "bits_per_char": bits, "bits_per_byte": bits / 2.9}
            yield {"kind": "eval", **at, **loss}
            for prompt in ("珠穆朗玛峰是", "这本书"):
                yield {"kind": "sample", "step": step, "prompt": prompt, "text": f"第{step}步的文字。"}


def write(run, lines, **files):
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))
    for name, value in files.items():
        (run / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False))
    return run


@pytest.fixture
def run(tmp_path):
    split = {"documents": 1000, "tokens": 2_000_000, "characters": 2_800_000, "bytes": 8_100_000}
    folder = write(
        tmp_path / "run",
        [
            *rows(),
            {"kind": "skipped", "step": 77, "reason": "loss is nan"},
            {"kind": "plan", "step": 50, "total_steps": 200, "why": "late"},
        ],
        baselines={
            "xz -9e, primed": {"bits_per_char": 7.09, "about": "primed"},
            "character bigrams": {"bits_per_char": 6.7},
        },
        plan={
            "machine": {"device": "cpu", "precision": "fp32", "threads": 2, "gemm_flops": 1.2e11},
            "versions": [{"from_step": 0, "total_steps": 210, "why": "a dry run", "batches": {}}],
        },
        data={"vocab_size": 6400, "splits": {"train": split, "validation": split}, "dropped": {"duplicate": 12}},
        summary={"parameters": 6_096_640, "finished": True},
    )
    (folder / "run.toml").write_text('seed = 0\n\n[model]\nmodel_type = "qwen3"\n')
    return folder


def page(run):
    return Report(write_report(run).read_text(encoding="utf-8"))


def test_the_page_shows_what_the_run_holds(run):
    shown = page(run).text
    for words in (
        "5.609",
        "6.10M",
        "7.09",
        "character bigrams",
        "5,900",
        "loss is nan",
        "a dry run",
        "第200步的文字。",
    ):
        assert words in shown
    for words in (
        "model_type",
        "qwen3",
        "duplicate",
        "2,800,000",
        "6,400",
        "珠穆朗玛峰是",
        "0.41 epochs",
        "steps skipped: 1",
    ):
        assert words in shown
    assert re.search(r"16%\s+fewer than character bigrams", shown)


def test_charts_hold_the_rows_numbers(run):
    charts, lines = page(run).charts, list(rows())
    judged = [[r["step"], r["tokens"], r["seconds"], r["bits_per_char"]] for r in lines if r["kind"] == "eval"]
    assert charts["Bits per character"]["series"][0]["points"] == judged
    assert [line["y"] for line in charts["Bits per character"]["lines"]] == [7.09, 6.7]
    assert len(charts["Loss"]["series"][0]["points"]) == 200
    assert charts["Use of the machine"]["series"][0]["points"][0][3] == pytest.approx(40)
    assert {"Learning rate", "Gradient norm", "Speed"} < charts.keys()


def test_the_page_asks_for_nothing_from_elsewhere(run):
    text = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"https?://|\bsrc\s*=|@import|url\(|<link|<iframe", text)
    assert "default-src 'none'" in text


def test_hostile_texts_stay_texts(run):
    clean = page(run)
    lines = [*rows(80), {"kind": "sample", "step": 80, "prompt": HOSTILE, "text": HOSTILE}]
    lines.append({"kind": "skipped", "step": 3, "reason": HOSTILE})
    write(run, lines, baselines={HOSTILE: {"bits_per_char": 7.0, "about": HOSTILE}}, data={HOSTILE: HOSTILE})
    (run / "run.toml").write_text(f"[{HOSTILE}]\nx = {json.dumps(HOSTILE)}\n")
    hostile = page(run)
    assert hostile.count("script") == clean.count("script") == 2
    assert hostile.count("img") == 0
    assert not any(name.startswith("on") for _, attrs in hostile.elements for name in attrs)
    assert hostile.text.count("alert(1)") >= 7
    assert hostile.text.count("__CHARTS__") >= 7  # a text is not taken for a place of the template
    assert hostile.charts["Bits per character"]["lines"][0]["name"] == HOSTILE


@pytest.mark.parametrize(
    "missing", ["metrics.jsonl", "run.toml", "plan.json", "data.json", "baselines.json", "summary.json"]
)
def test_a_missing_piece_is_left_out(run, missing):
    (run / missing).unlink()
    assert page(run).count("h1") == 1


def test_an_empty_run_folder_makes_a_page(tmp_path):
    assert "Nothing is measured yet" in page(tmp_path).text


def test_a_missing_run_folder_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "gone")


@pytest.mark.parametrize("kind", ["train", "eval", "sample", "skipped"])
def test_a_single_row_makes_a_page(tmp_path, kind):
    first = next(row for row in [*rows(), {"kind": "skipped", "step": 1, "reason": "x"}] if row["kind"] == kind)
    assert page(write(tmp_path / "run", [first])).count("h1") == 1


def test_values_that_are_not_finite_are_left_out(tmp_path):
    lines = list(rows(80))
    for row, bad in zip(lines[5::7], [math.nan, math.inf, -math.inf, None, "x", True] * 9, strict=False):
        for key in row.keys() & {"loss_nats_per_token", "bits_per_char", "grad_norm", "tokens", "tokens_per_second"}:
            row[key] = bad
    run = write(tmp_path / "run", lines, baselines={"xz": {"bits_per_char": math.nan}, "bigrams": {}})
    charts = page(run).charts
    values = [v for c in charts.values() for s in c["series"] for p in s["points"] for v in p]
    assert all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    assert 0 < len(charts["Loss"]["series"][0]["points"]) < 80
    assert charts["Bits per character"]["lines"] == []


def test_a_long_run_is_averaged_in_groups_that_keep_the_mean_and_the_end(tmp_path):
    lines = [row for row in rows(3000) if row["kind"] == "train"]
    series = page(write(tmp_path / "run", lines)).charts["Gradient norm"]["series"][0]
    assert series["group"] == 5
    assert len(series["points"]) == 600
    assert series["points"][-1][0] == 3000
    mean = sum(row["grad_norm"] for row in lines) / 3000
    assert sum(p[3] for p in series["points"]) / 600 == pytest.approx(mean)


def test_parameters_are_counted_in_the_checkpoint_where_no_summary_names_them(run):
    (run / "summary.json").unlink()
    (run / "latest").mkdir()
    weights = {"a": np.zeros((700, 1000), np.float32), "b": np.zeros(50, np.float32)}
    save_file(weights, run / "latest" / "model.safetensors")
    assert "700,050" in page(run).text


def test_writing_again_gives_the_same_bytes(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


@pytest.mark.browser
def test_chromium_draws_every_chart_and_plays_the_samples(run, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]
    url = write_report(run).resolve().as_uri()
    dom = subprocess.run([chromium, *flags, "--dump-dom", url], capture_output=True, text=True, check=True, timeout=60)
    assert dom.stdout.count("<figure") == 6
    assert dom.stdout.count("<path") >= 7
    assert "NaN" not in dom.stdout.split("<script")[0]
    assert "▶ play" in dom.stdout
