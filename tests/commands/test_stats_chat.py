"""`danlu stats` on conversations: seen from their shape, told on one page, rendered as a model reads them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from danlu.checkpoint import save_checkpoint
from danlu.cli import main
from danlu.commands import stats_chat
from danlu.config import Qwen3Config
from danlu.model import build_model

SAMPLE = Path(__file__).parents[1] / "data" / "sft_mini_head6.jsonl"
PREFERENCE = {"prompt": "长江有多长？", "chosen": "约6300公里。", "rejected": "不知道"}
PAIR = {"question": "黄河呢？", "answer": "约5464公里。"}


def written(path: Path, *records: dict) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def stats_json(capsys, *argv) -> dict:
    assert main(["stats", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


KEYS = [
    "conversations",
    "preferences",
    "refused",
    "first_refused",
    "turns",
    "question_chars",
    "answer_chars",
    "with_system",
    "duplicates",
    "question_duplicates",
    "common_openings",
    "skipped",
    "report",
]


def test_json_has_these_keys(capsys, tokenizer_folder):
    assert sorted(stats_json(capsys, SAMPLE)) == sorted(KEYS)
    result = stats_json(capsys, SAMPLE, "--tokenizer", tokenizer_folder)
    assert sorted(result) == sorted([*KEYS, "tokens"])
    assert list(result["tokens"]) == ["total", "mean", "percentiles", "scored"]
    result = stats_json(capsys, SAMPLE, "--tokenizer", tokenizer_folder, "--context", 64)
    assert list(result["tokens"]) == ["total", "mean", "percentiles", "scored", "context", "too_long"]


def test_the_builtin_conversations_are_told_on_one_page(capsys):
    assert main(["stats", "demo-chat"]) == 0
    said = capsys.readouterr().out
    for word in ("conversations        5,043", "answer characters", "47 (0.9%), white space aside", "清热解毒"):
        assert word in said


def test_parquet_is_read_too(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    turns = [[{"role": "user", "content": "黄河呢？"}, {"role": "assistant", "content": "约5464公里。"}]] * 2
    pq.write_table(pa.table({"messages": turns}), tmp_path / "a.parquet")
    assert stats_json(capsys, tmp_path / "a.parquet")["duplicates"]["count"] == 1


def test_the_context_is_the_checkpoints_own(tmp_path, capsys, tokenizer):
    model = build_model(
        Qwen3Config(hidden_size=32, num_hidden_layers=1, intermediate_size=32), tokenizer.vocab_size, 48
    )
    save_checkpoint(tmp_path / "c", model, tokenizer)
    tokens = stats_json(capsys, SAMPLE, "--tokenizer", tmp_path / "c")["tokens"]
    assert (tokens["context"], tokens["too_long"]["count"]) == (48, 6)
    assert stats_json(capsys, SAMPLE, "--tokenizer", tmp_path / "c", "--context", 10_000)["tokens"]["context"] == 10_000


def test_a_file_whose_records_hold_the_text_key_is_text(tmp_path, capsys):
    path = written(tmp_path / "a.jsonl", {**PAIR, "text": "黄河"})
    assert stats_json(capsys, path)["characters"] == 2
    alpaca = written(tmp_path / "b.jsonl", {"instruction": "翻译", "output": "河"})
    assert stats_json(capsys, alpaca, "--text-key", "output")["characters"] == 1


def test_broken_lines_are_an_error_or_skipped_as_ever(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    written(path, PAIR, {"messages": []})
    path.write_text(path.read_text() + "{\n")
    assert main(["stats", str(path)]) == 2
    assert "line 3: is no JSON" in capsys.readouterr().err
    result = stats_json(capsys, path, "--skip-bad")
    assert (result["conversations"], result["refused"]["no_answer"], result["skipped"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["chat.jsonl", "plain.txt"], r"chat.jsonl: holds conversations, and plain.txt does not"),
        (["chat.jsonl", "--show", "2"], "--tokenizer is missing"),
        (["chat.jsonl", "--context", "64"], "--tokenizer is missing"),
        (["chat.jsonl", "--show", "-1"], "give 1 or more"),
        (["chat.jsonl", "--tokenizer", "none"], "none: there is no such folder"),
        (["plain.txt", "--show", "2"], "are for conversations; plain.txt holds text"),
        (["plain.txt", "--tokenizer", "none"], "are for conversations"),
        (["neither.jsonl"], "has no 'text'"),
    ],
)
def test_a_mistake_is_one_line(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "chat.jsonl", PAIR)
    written(tmp_path / "neither.jsonl", {"title": "长江"})
    (tmp_path / "plain.txt").write_text("长江", encoding="utf-8")
    assert main(["stats", *argv]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    assert message in said[-1]


def test_shown_conversations_mark_what_is_scored(tmp_path, capsys, tokenizer_folder):
    system = {**PAIR, "system": "你是老师。", "history": [["你好", "你好！"]]}
    path = written(tmp_path / "a.jsonl", system, {"messages": []}, PREFERENCE, PAIR)
    assert main(["stats", path, "--tokenizer", str(tokenizer_folder), "--show", "2"]) == 0
    said = capsys.readouterr().out
    user, answer, end = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"
    expected = (
        f"── {path}, record 1\n"
        f"<|im_start|>system\n你是老师。{end}\n"
        f"{user}你好{end}\n{answer}⟦你好！{end}⟧\n"
        f"{user}黄河呢？{end}\n{answer}⟦约5464公里。{end}⟧\n\n"
        f"── {path}, record 3, chosen\n{user}长江有多长？{end}\n{answer}⟦约6300公里。{end}⟧\n\n"
        f"── {path}, record 3, rejected\n{user}长江有多长？{end}\n{answer}⟦不知道{end}⟧\n\n"
        "conversations        2\n"
    )
    assert said.startswith(expected)


def test_on_a_terminal_the_scored_words_are_green_and_nothing_moves_the_cursor(
    tmp_path, capsys, tokenizer_folder, monkeypatch
):
    def terminal(**options):
        return Console(force_terminal=True, color_system="standard", no_color=False, **options)

    monkeypatch.setattr(stats_chat, "Console", terminal)
    path = written(tmp_path / "a.jsonl", {"question": "\x1b[2J清屏[bold]", "answer": "好。"})
    assert main(["stats", path, "--tokenizer", str(tokenizer_folder), "--show", "1"]) == 0
    said = capsys.readouterr().out
    assert "\x1b[1;32m好。<|im_end|>\x1b[0m" in said
    assert "\\x1b[2J清屏[bold]" in said
    assert "\x1b[2J" not in said
    assert "⟦" not in said


def test_plain_statistics_of_conversations_import_no_torch(tmp_path):
    path = written(tmp_path / "a.jsonl", PAIR)
    code = f"import sys; from danlu.cli import main; main(['stats', {path!r}]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
