"""`danlu generate` from the command line: text, or one line that says why not and nothing on stdout."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import danlu
from danlu import checkpoint
from danlu.checkpoint import load_model, load_tokenizer, save_checkpoint
from danlu.cli import main
from danlu.config import ArticleConfig, Qwen3Config
from danlu.errors import CheckpointError
from danlu.infer.sampling import Sampling
from danlu.model import build_model

PROMPT = "长江位于"
CONFIG = Qwen3Config(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, intermediate_size=48
)


def random_weights(model):
    """Make all weights random: as they are at first, many are zero or one."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("generate") / "ckpt"
    save_checkpoint(path, random_weights(build_model(CONFIG, tokenizer.vocab_size, 64)), tokenizer)
    return path


def said(capsys, *argv):
    assert main(["generate", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys, *argv):
    assert main(["generate", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_object_holds_what_the_function_returns(folder, capsys):
    flags = ["--max-new-tokens", 12, "--samples", 2, "--seed", 3, "--temperature", 1.5, "--top-k", 40]
    result = said(capsys, folder, PROMPT, *flags)
    expected = danlu.generate(
        load_model(folder),
        load_tokenizer(folder),
        PROMPT,
        max_new_tokens=12,
        samples=2,
        seed=3,
        sampling=Sampling(temperature=1.5, top_k=40),
    )
    assert result["prompt"] == PROMPT
    assert result["texts"] == expected.texts
    assert len(set(result["texts"])) == 2
    assert (result["tokens"], result["stopped"]) == (expected.tokens, expected.stopped)
    assert result["tokens_per_second"] == pytest.approx(result["tokens"] / result["seconds"])


def test_one_sample_is_streamed_after_its_prompt(folder, capsys):
    flags = ["--max-new-tokens", 8, "--temperature", 0]
    text = said(capsys, folder, PROMPT, *flags)["texts"][0]
    assert text
    assert main(["generate", str(folder), PROMPT, *map(str, flags)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{PROMPT}{text}\n[8 tokens, ")
    assert shown.count(PROMPT) == 1


def test_several_samples_are_all_shown(folder, capsys):
    flags = ["--max-new-tokens", 8, "--samples", 2]
    texts = said(capsys, folder, PROMPT, *flags)["texts"]
    assert main(["generate", str(folder), PROMPT, *map(str, flags)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\n---\n".join(PROMPT + text for text in texts) + "\n[")
    assert out.endswith("stopped by length 2×]\n")


def test_a_prompt_that_is_answered_by_the_end_is_shown_all_the_same(tokenizer, tmp_path, capsys):
    model = build_model(ArticleConfig(hidden_size=32, num_attention_heads=4), tokenizer.vocab_size, 32)
    with torch.no_grad():
        model.language_model_out_linear_layer.bias[tokenizer.eos_id] = 1_000.0
    save_checkpoint(tmp_path / "c", model, tokenizer)
    assert main(["generate", str(tmp_path / "c"), PROMPT]) == 0
    assert capsys.readouterr().out.startswith(f"{PROMPT}\n[1 tokens, ")


def test_a_run_folder_means_its_best_checkpoint(folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "checkpoints" / "step-00000002")
    (run / "run.toml").write_text("")
    (run / "best").symlink_to("checkpoints/step-00000002")
    flags = [PROMPT, "--max-new-tokens", 8]
    assert said(capsys, run, *flags)["texts"] == said(capsys, folder, *flags)["texts"]


# What it refuses


def test_bytes_that_are_no_utf8_are_one_line(folder):
    """As a terminal set to GBK sends them."""
    done = subprocess.run(
        [sys.executable, "-m", "danlu", "generate", str(folder), PROMPT.encode("gbk")],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    said = done.stderr.decode()
    assert said.startswith("error: PROMPT, character 1: byte 0xb3 is no UTF-8. ")
    assert said.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("flags", [[], ["--json"], ["--samples", "2"]])
def test_an_output_that_is_full_is_one_line(folder, flags):
    argv = [sys.executable, "-m", "danlu", "generate", str(folder), PROMPT, "--max-new-tokens", "2", *flags]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "no space left" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flags", [[], ["--json"], ["--samples", "2"]])
def test_a_lone_surrogate_anywhere_is_one_line(folder, flags, capsys):
    assert "character 3" in refused(capsys, folder, "长江\udcce\udcbb", *flags)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_prompt_longer_than_the_context_is_one_line(folder, flags, capsys):
    assert "context" in refused(capsys, folder, PROMPT * 100, *flags)


def test_weights_that_are_not_finite_are_one_line(tokenizer, tmp_path, capsys):
    model = build_model(CONFIG, tokenizer.vocab_size, 64)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    save_checkpoint(tmp_path / "c", model, tokenizer)
    assert "not finite" in refused(capsys, tmp_path / "c")


@pytest.mark.parametrize(
    "flags",
    [
        ["--top-p", "0"],
        ["--temperature", "-1"],
        ["--samples", "0"],
        ["--max-new-tokens", "0"],
        ["--device", "tpu"],
        ["--threads", "-1"],
        ["--nonsense", "1"],
    ],
)
def test_wrong_flags_are_one_line(folder, flags, capsys):
    assert flags[0].lstrip("-").replace("-", "_") in refused(capsys, folder, PROMPT, *flags).replace("-", "_")


def started_run(folder, tmp_path):
    (tmp_path / "run.toml").write_text("")
    return tmp_path


def without(name):
    def make(folder, tmp_path):
        shutil.copytree(folder, tmp_path / "c", ignore=shutil.ignore_patterns(name))
        return tmp_path / "c"

    return make


def half_written(folder, tmp_path):
    """As a killed process leaves its scratch folder: the weights cut off, no tokenizer yet, no manifest."""
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5_000])
    return tmp_path


def without_tokenizer(folder, tmp_path):
    save_checkpoint(tmp_path / "c", load_model(folder))
    return tmp_path / "c"


def of_another_tokenizer(folder, tmp_path):
    save_checkpoint(tmp_path / "c", build_model(CONFIG, 100, 64), load_tokenizer(folder))
    return tmp_path / "c"


def tokenizer_alone(folder, tmp_path):
    load_tokenizer(folder).save(tmp_path / "t")
    return tmp_path / "t"


def a_file(folder, tmp_path):
    return folder / "config.json"


def nothing(folder, tmp_path):
    return tmp_path / "nothing"


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (started_run, "run without a checkpoint yet"),
        (without("model.safetensors"), "model.safetensors: is missing"),
        (without("tokenizer.json"), "tokenizer.json: is missing"),
        (without("config.json"), "config.json: is missing"),
        (half_written, "model.safetensors"),
        (without_tokenizer, "holds no tokenizer.json"),
        (of_another_tokenizer, "its tokenizer has 320 entries, but its model only 100"),
        (tokenizer_alone, "holds no config.json"),
        (a_file, "holds no config.json"),
        (nothing, "there is no such folder"),
    ],
)
def test_a_folder_that_is_no_whole_checkpoint_is_one_line(make, word, folder, tmp_path, capsys):
    assert word in refused(capsys, make(folder, tmp_path), PROMPT)


# Where it computes


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_here_is_one_line(folder, capsys):
    assert "device cuda" in refused(capsys, folder, PROMPT, "--device", "cuda")


@pytest.mark.parametrize(
    ("flags", "here", "expected"),
    [
        ([], {"cuda", "mps"}, "cuda"),
        ([], {"mps"}, "mps"),
        ([], set(), "cpu"),
        (["--device", "cpu"], {"cuda"}, "cpu"),
        (["--device", "mps"], {"cuda", "mps"}, "mps"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_best_one_here(folder, flags, here, expected, monkeypatch, capsys):
    """No device of these is needed: the model is stopped on its way there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in here)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in here)

    def load(path, device):
        raise CheckpointError(f"the model goes to {device}")

    monkeypatch.setattr(checkpoint, "load_model", load)
    assert f"the model goes to {expected}" in refused(capsys, folder, PROMPT, *flags)


@pytest.mark.gpu
def test_a_gpu_writes_the_same_greedy_text(folder, capsys):
    flags = [PROMPT, "--temperature", 0, "--max-new-tokens", 30]
    texts = [said(capsys, folder, *flags, "--device", device)["texts"] for device in ("cpu", "cuda")]
    assert texts[0] == texts[1]


def test_a_long_text_is_written_by_compiled_code_and_is_the_same(folder, capsys, monkeypatch):
    from danlu.model.few_rows import FewRows

    read, reads = FewRows.read, []
    monkeypatch.setattr(FewRows, "read", lambda self, *given: reads.append(1) or read(self, *given))
    texts, counts = [], []
    for tokens in ("199", "200"):  # the context of 64 ends both sooner
        texts.append(said(capsys, folder, PROMPT, "--temperature", 0, "--max-new-tokens", tokens)["texts"])
        counts.append(len(reads))
    assert texts[0] == texts[1]
    assert counts[0] == 0
    assert counts[1] > 40
