"""The command line itself: help without torch, quick, and one line for a mistake."""

import subprocess
import sys
import time

import pytest

from danlu import cli


def test_help_imports_no_torch_and_is_quick():
    code = (
        "import sys; sys.argv=['danlu','--help']; from danlu.cli import main; main(); "
        "heavy = {'torch','numpy','tokenizers','tyro','pydantic','rich','transformers'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert "danlu demo" in done.stdout
    assert min(seconds) < 0.2


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(verb, capsys):
    argv = [verb, "train", "--help"] if verb == "tokenizer" else [verb, "--help"]
    try:
        status = cli.main(argv)
    except SystemExit as stop:
        status = stop.code
    assert not status
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["tarin"],
        ["train", "nano"],
        ["train", "nanno"],
        ["train", "nano", "--optim.lrr", "1"],
        ["train", "nano", "--budget", "5 parsecs"],
        ["train", "nano", "--budget", "0 steps"],
        ["train", "nano", "--context", "500"],
        ["train", "nano", "--batch-tokens", "100"],
        ["train", "nano", "--model.num-key-value-heads", "3"],
        ["train", "nano", "--optim.lr", "-1"],
        ["train", "missing.toml"],
        ["train", "--resume", "--optim.lr", "1"],
        ["demo", "--minutes", "abc"],
        ["demo", "--minutes", "0"],
        ["generate"],
        ["generate", "missing"],
        ["eval", "missing", "demo"],
        ["summary", "nanno"],
        ["stats"],
        ["fetch"],
        ["fetch", "hf:no-owner"],
        ["corpora", "minimind"],
        ["tokenizer", "feed"],
        ["tokenizer", "train", "demo"],
        ["import", "missing.pt", "--out", "x"],
    ],
)
def test_a_mistake_is_one_line_and_status_2(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_early_is_no_error():
    code = "import sys; from danlu.cli import main; sys.exit(main(['train', 'nano', '--help']))"
    done = subprocess.run(
        f'{sys.executable} -c "{code}" | head -n 1', shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("usage")
