"""`danlu eval` from the command line: its numbers, and one line for every mistake."""

import json
import math

import pytest
import torch

from danlu.checkpoint import load_model, load_tokenizer, save_checkpoint
from danlu.cli import main
from danlu.config import Qwen3Config
from danlu.data.mix import Mix
from danlu.data.prepare import Portion, prepare_mix
from danlu.data.shards import open_shards
from danlu.evaluate.baselines import measure
from danlu.evaluate.loss import ValidationSet, score_texts
from danlu.model import build_model
from danlu.types import Document

CONFIG = Qwen3Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16)


@pytest.fixture
def run(tmp_path, tokenizer, shards_folder):
    """A run folder with one checkpoint, made from the shards."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    model = build_model(CONFIG, tokenizer.vocab_size, 64, seed=1)
    with torch.no_grad():  # its output projections are zero at first, so that it would not look back
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    save_checkpoint(folder / "checkpoints" / "step-00000007", model, tokenizer)
    (folder / "latest").symlink_to("checkpoints/step-00000007")
    (folder / "run.toml").write_text(f"data = {json.dumps(str(shards_folder))}\n")
    return folder


@pytest.fixture
def jsonl(tmp_path, texts):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts[:20]))
    return path


def said(capsys, *argv):
    assert main(["eval", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys, *argv):
    assert main(["eval", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return lines[0]


def test_raw_text_scores_as_the_function_does(run, jsonl, texts, capsys):
    result = said(capsys, run, jsonl, "--no-baselines")
    expected = score_texts(load_model(run), load_tokenizer(run), texts[:20], 64)
    for key in ("bits_per_char", "bits_per_byte", "loss_nats_per_token"):
        assert result[key] == pytest.approx(getattr(expected, key), rel=1e-5)
    for key in ("tokens", "characters", "bytes", "documents", "window"):
        assert result[key] == getattr(expected, key)
    assert result["baselines"] == {}
    assert result["characters"] == sum(map(len, texts[:20]))


def test_text_is_scored_raw_not_cleaned(run, tmp_path, capsys):
    path = tmp_path / "raw.jsonl"
    path.write_text(json.dumps({"text": "<s>a\r\nb</s> "}) + "\n")
    assert said(capsys, run, path, "--no-baselines")["characters"] == len("<s>a\r\nb</s> ")


def test_a_shard_folder_means_its_validation_split(run, shards, shards_folder, tokenizer, texts, capsys):
    result = said(capsys, run, shards_folder)
    held_out = ValidationSet(shards, tokenizer)
    assert result["bits_per_char"] == pytest.approx(held_out.score(load_model(run), 64).bits_per_char, rel=1e-5)
    kept = {tokenizer.decode(d.tolist()) for d in shards.split("validation").documents()}
    expected = measure([t for t in texts if t not in kept], [t for t in texts if t in kept])
    assert result["baselines"] == expected  # the training text is the run's own shards'


def test_of_a_mix_each_sources_quality_is_told_apart(run, tokenizer, texts, tmp_path, capsys):
    mix = Mix.model_validate({"source": [{"path": "first"}, {"path": "second", "epochs": 2.0}]})
    portions = [
        Portion([Document(t, name, str(i)) for i, t in enumerate(part)], {"name": name})
        for name, part in (("first", texts[:250]), ("second", texts[250:]))
    ]
    prepare_mix(portions, mix, tokenizer, tmp_path / "mixed", 0.2)
    result = said(capsys, run, tmp_path / "mixed", "--no-baselines")
    held_out = [tokenizer.decode(d.tolist()) for d in open_shards(tmp_path / "mixed").split("validation").documents()]
    for name, part in (("first", texts[:250]), ("second", texts[250:])):
        score = score_texts(load_model(run), tokenizer, [t for t in held_out if t in part], 64)
        assert result["by_source"][name]["bits_per_char"] == pytest.approx(score.bits_per_char, rel=1e-5)
        assert result["by_source"][name]["documents"] == score.documents > 0
    assert result["documents"] == len(held_out)
    whole = score_texts(load_model(run), tokenizer, held_out, 64)
    assert result["bits_per_char"] == pytest.approx(whole.bits_per_char, rel=1e-5)


def test_the_training_text_of_the_baselines_can_be_named(run, jsonl, tmp_path, texts, capsys):
    path = tmp_path / "train.txt"
    path.write_text("\n".join(texts[20:]))
    result = said(capsys, run, jsonl, "--train-text", path)
    assert result["baselines"] == measure(["\n".join(texts[20:])], texts[:20])


def test_without_a_training_text_baselines_are_left_out_and_that_is_said(run, jsonl, tmp_path, capsys):
    (run / "checkpoints" / "step-00000007").rename(tmp_path / "alone")
    assert main(["eval", str(tmp_path / "alone"), str(jsonl), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["baselines"] == {}
    assert "--train-text" in captured.err


def test_the_window_can_be_shorter_and_is_stated(run, jsonl, capsys):
    whole, short = said(capsys, run, jsonl, "--no-baselines"), said(capsys, run, jsonl, "--window", 3, "--no-baselines")
    assert (whole["window"], short["window"]) == (64, 3)
    assert whole["tokens"] == short["tokens"]
    assert whole["bits_per_char"] != short["bits_per_char"]


def test_bfloat16_is_near_float32(run, jsonl, capsys):
    fp32 = said(capsys, run, jsonl, "--no-baselines")
    bf16 = said(capsys, run, jsonl, "--no-baselines", "--precision", "bf16")
    assert (fp32["precision"], bf16["precision"]) == ("fp32", "bf16")
    assert bf16["bits_per_char"] == pytest.approx(fp32["bits_per_char"], rel=0.01)


def test_the_table_lists_model_and_baselines_best_first(run, shards_folder, capsys):
    assert main(["eval", str(run), str(shards_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.rsplit(maxsplit=1) for line in lines[lines.index("bits per character (lower is better)") + 1 :]]
    assert {name.strip() for name, _ in rows} == {"model", "character bigrams", "xz -9e, primed"}
    assert [float(bits) for _, bits in rows] == sorted(float(bits) for _, bits in rows)


@pytest.mark.parametrize("window", [0, -4, 65])
def test_a_window_that_does_not_fit_names_both_numbers(run, jsonl, capsys, window):
    line = refused(capsys, run, jsonl, f"--window={window}")
    assert str(window) in line
    assert "64 tokens" in line


def test_a_wrong_number_is_refused(run, jsonl, capsys):
    assert "window" in refused(capsys, run, jsonl, "--window", "long")


def test_missing_arguments_are_named(run, capsys):
    assert "CKPT" in refused(capsys)
    assert "no text is named" in refused(capsys, run)


def test_a_missing_checkpoint_is_named(tmp_path, jsonl, capsys):
    assert str(tmp_path / "nothing") in refused(capsys, tmp_path / "nothing", jsonl)
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(capsys, tmp_path / "empty", jsonl)


def test_a_missing_source_is_named_before_anything_is_scored(run, jsonl, capsys):
    assert "gone.jsonl" in refused(capsys, run, jsonl, "gone.jsonl")


def test_a_missing_training_text_is_named(run, jsonl, capsys):
    assert "gone.jsonl" in refused(capsys, run, jsonl, "--train-text", "gone.jsonl")


def test_a_malformed_line_is_named_or_skipped(run, tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "一"}\n{"text": \n{"text": "二三"}\n')
    assert "line 2" in refused(capsys, run, path)
    result = said(capsys, run, path, "--skip-bad", "--no-baselines")
    assert (result["documents"], result["characters"], result["skipped"]) == (2, 3, 1)


def test_skipped_records_are_counted_of_the_text_and_of_the_training_text(run, tmp_path, capsys):
    text, training = tmp_path / "text.jsonl", tmp_path / "training.jsonl"
    text.write_text('{"text": "一"}\n{"text": \n{"text": "二三"}\n')
    training.write_text('{\n{"text": "山水"}\n{\n')
    assert main(["eval", str(run), str(text), "--skip-bad", "--train-text", str(training), "--json"]) == 0
    *human, last = capsys.readouterr().out.splitlines()
    assert (json.loads(last)["skipped"], json.loads(last)["train_text_skipped"]) == (1, 2)
    assert "unreadable and passed over: 1, and 2 of the training text" in human


def test_a_wrong_text_key_names_the_keys_there_are(run, tmp_path, capsys):
    path = tmp_path / "other.jsonl"
    path.write_text('{"content": "山"}\n')
    assert "--text-key" in refused(capsys, run, path)
    assert said(capsys, run, path, "--text-key", "content", "--no-baselines")["characters"] == 1


def test_empty_and_textless_sources_are_refused(run, tmp_path, capsys):
    path = tmp_path / "empty.jsonl"
    path.touch()
    assert "empty" in refused(capsys, run, path)
    path.write_text('{"text": ""}\n')
    assert "no text to score" in refused(capsys, run, path)


def test_a_checkpoint_without_a_tokenizer_says_so(tmp_path, jsonl, capsys):
    save_checkpoint(tmp_path / "mute", build_model(CONFIG, 300, 64))
    assert "tokenizer.json" in refused(capsys, tmp_path / "mute", jsonl)


def test_altered_weights_are_refused(run, jsonl, capsys):
    path = run / "latest" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "model.safetensors" in refused(capsys, run, jsonl)


def test_weights_that_are_not_finite_are_refused_not_printed(tmp_path, tokenizer, jsonl, capsys):
    model = build_model(CONFIG, tokenizer.vocab_size, 64)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    save_checkpoint(tmp_path / "nan", model, tokenizer)
    assert "nan" in refused(capsys, tmp_path / "nan", jsonl)
