"""`danlu import` from the command line: the article's .pt becomes a folder, or one line says why not."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danlu.checkpoint import load_model, load_tokenizer
from danlu.cli import main

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
FILE = GOLDEN / "blog_tiny.pt"


def state():
    return torch.load(FILE, weights_only=True)


def said(capsys, *argv):
    assert main(["import", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys, *argv):
    with warnings.catch_warnings(action="error"):
        assert main(["import", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_object_says_what_was_made(tmp_path, capsys):
    result = said(capsys, FILE, "--heads", "4", "--out", tmp_path / "c")
    weights = [tensor for name, tensor in state().items() if not name.endswith(".mask")]
    assert result["parameters"] == sum(tensor.numel() for tensor in weights)
    assert result["checkpoint"] == str(tmp_path / "c")
    assert result["model_type"] == "danlu_article"


def test_the_folder_computes_what_the_articles_code_did(tmp_path, capsys):
    said(capsys, FILE, "--out", tmp_path / "c")
    golden = load_file(GOLDEN / "blog_tiny.safetensors")
    with torch.no_grad():
        got = load_model(tmp_path / "c")(golden["ids"][0].long()[:, :-1]).logits_BTV
    torch.testing.assert_close(got, golden["logits_step0"], rtol=1e-5, atol=1e-5)


def test_a_tokenizer_is_put_into_the_folder(tmp_path, capsys, tokenizer, tokenizer_folder):
    large = state()  # the golden model has fewer entries than the tokenizer
    for name in ("token_embedding.weight", "language_model_out_linear_layer.weight"):
        large[name] = torch.zeros(tokenizer.vocab_size, large[name].shape[1])
    large["language_model_out_linear_layer.bias"] = torch.zeros(tokenizer.vocab_size)
    torch.save(large, tmp_path / "x.pt")
    said(capsys, tmp_path / "x.pt", "--tokenizer", tokenizer_folder, "--out", tmp_path / "c")
    assert load_tokenizer(tmp_path / "c").fingerprint == tokenizer.fingerprint
    assert main(["generate", str(tmp_path / "c"), "长江", "--max-new-tokens", "2"]) == 0


def test_without_a_tokenizer_generation_says_so(tmp_path, capsys):
    said(capsys, FILE, "--out", tmp_path / "c")
    assert main(["generate", str(tmp_path / "c"), "长江"]) == 2
    assert "tokenizer" in capsys.readouterr().err


def test_a_folder_that_exists_is_left_as_it_is(tmp_path, capsys):
    out = tmp_path / "c"
    said(capsys, FILE, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert f"{out}: exists already" in refused(capsys, FILE, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_empty_folder_is_filled(tmp_path, capsys):
    (tmp_path / "c").mkdir()
    said(capsys, FILE, "--out", tmp_path / "c")
    load_model(tmp_path / "c")


class Evil:
    def __reduce__(self):
        return (os.system, ("echo harmed > harmed",))


BAD = {
    "code": lambda: {"a": Evil()},
    "a list": lambda: [1, 2],
    "numbered tensors": lambda: {1: torch.zeros(2)},
    "other names": lambda: {"w": torch.zeros(2)},
    "an embedding in one dimension": lambda: state() | {"token_embedding.weight": torch.zeros(5)},
    "a scalar mask": lambda: {k: torch.tensor(1.0) if k.endswith("mask") else v for k, v in state().items()},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_pt_is_one_line_and_leaves_nothing(what, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(BAD[what](), "x.pt")
    assert "x.pt" in refused(capsys, "x.pt", "--out", "c")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("old_format", [False, True])
def test_a_damaged_pt_is_one_line(old_format, tmp_path, capsys):
    """Cut off anywhere, and with bytes changed: torch meets it with errors of a dozen types."""
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=not old_format)
    whole = path.read_bytes()
    damaged = [whole[:end] for end in range(0, len(whole), len(whole) // 40)]
    damaged += [whole[:at] + b"\x93" + whole[at + 1 :] for at in range(0, len(whole), len(whole) // 40)]
    for contents in damaged:
        path.write_bytes(contents)
        refused(capsys, path, "--out", tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ([], "FILE.pt"),
        ([FILE], "--out"),
        (["missing.pt", "--out", "c"], "no such file"),
        ([GOLDEN, "--out", "c"], "no such file"),
        ([FILE, "--heads", "3", "--out", "c"], "4 heads"),
        ([FILE, "--tokenizer", "missing", "--out", "c"], "tokenizer"),
    ],
)
def test_a_mistake_is_one_line(argv, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert word in refused(capsys, *argv)
    assert not list(tmp_path.iterdir())
