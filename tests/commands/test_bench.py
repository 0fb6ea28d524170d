"""`danlu bench`: the figures it promises, on tiny models, and one line for what makes no sense."""

import json

import pytest

from danlu.checkpoint import save_checkpoint
from danlu.cli import main
from danlu.config import Qwen3Config
from danlu.model import build_model


def printed(capsys, *argv) -> dict:
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text("[model]\nhidden_size = 32\nnum_hidden_layers = 1\nintermediate_size = 32\n")
    return path


def test_training_is_timed(tiny, capsys):
    flags = ["--batch", 2, "--context", 16, "--steps", 3, "--precision", "fp32", "--vocab-size", 300]
    result = printed(capsys, "bench", "train", "--preset", tiny, *flags)
    speed = result["tokens_per_second"]
    assert 0 < speed["min"] <= speed["median"] <= speed["max"]
    assert result["precision"] == "fp32"
    assert 0 < result["gemm_share"] < 1
    assert result["peak_memory_mb"] > 50


def test_generation_is_timed_at_any_number_of_streams(tokenizer, tmp_path, capsys):
    model = build_model(Qwen3Config(hidden_size=32, num_hidden_layers=1), tokenizer.vocab_size, 64)
    save_checkpoint(tmp_path / "c", model, tokenizer)
    flags = ["--streams", 3, "--prompt-tokens", 8, "--new-tokens", 6, "--precision", "fp32"]
    result = printed(capsys, "bench", "generate", tmp_path / "c", *flags)
    assert result["tokens_per_second"]["min"] > 0
    assert result["streams"] == 3


def test_preparing_is_timed_and_leaves_nothing(tokenizer_folder, texts, tmp_path, capsys):
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    result = printed(capsys, "bench", "prepare", source, "--tokenizer", tokenizer_folder)
    assert result["megabytes_per_second"] == pytest.approx(source.stat().st_size / 1e6 / result["seconds"])
    assert result["tokens_per_second"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["text.jsonl"]


@pytest.mark.parametrize(
    "argv",
    [
        ["nothing"],
        ["train", "--preset", "nanno"],
        ["train", "--batch", "0"],
        ["train", "--vocab-size", "0"],
        ["generate"],
        ["prepare", "demo"],
        ["prepare"],
    ],
)
def test_what_makes_no_sense_is_one_line(argv, capsys):
    assert main(["bench", *argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
