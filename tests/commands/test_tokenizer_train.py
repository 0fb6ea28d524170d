"""`danlu tokenizer train` from the command line: what it says it did, and what it learns from."""

import json

import pytest

from danlu.cli import main
from danlu.tokenizer import Tokenizer


@pytest.fixture
def corpus(tmp_path, texts):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")
    return path


def learned(capsys, corpus, out, *flags):
    """Return the JSON, the human text and what was said on stderr."""
    argv = ["tokenizer", "train", str(corpus), "--vocab-size", "320", "--out", str(out), "--json", *flags]
    assert main(argv) == 0
    said = capsys.readouterr()
    *human, last = said.out.splitlines()
    return json.loads(last), "\n".join(human), said.err


def test_drops_and_skipped_records_are_counted_with_their_reasons(corpus, texts, tmp_path, capsys):
    with corpus.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": f"{texts[0]} "}) + "\n" + json.dumps({"text": " "}) + "\n{oops\n")
    result, human, _ = learned(capsys, corpus, tmp_path / "t", "--skip-bad")
    assert (result["read"], result["documents"], result["skipped"]) == (402, 400, 1)
    assert result["dropped"] == {"duplicate": 1, "empty": 1}
    assert "402 documents, 400 kept; dropped: duplicate 1, empty 1; unreadable and passed over: 1" in human


def test_what_happens_and_how_long_it_took_is_said_on_stderr(corpus, tmp_path, capsys):
    result, _, err = learned(capsys, corpus, tmp_path / "t")
    assert "learning 320 entries from" in err
    assert "learned 320 entries in" in err
    assert result["seconds"] > 0


def test_nothing_but_the_text_and_the_object_comes_on_stdout(corpus, tmp_path, capfd):
    argv = ["tokenizer", "train", str(corpus), "--vocab-size", "320", "--out", str(tmp_path / "t")]
    assert main(argv) == 0
    assert all(capfd.readouterr().out.splitlines())  # the library's own progress bars print empty lines


def test_a_small_corpus_is_learned_from_whole(corpus, texts, tokenizer, tmp_path, capsys):
    result, _, err = learned(capsys, corpus, tmp_path / "t")
    assert result["characters"] == result["sample_characters"] == sum(map(len, texts))
    assert "--sample-chars" not in err
    assert Tokenizer.load(tmp_path / "t").fingerprint == tokenizer.fingerprint


def test_a_large_corpus_is_sampled_and_that_is_said(corpus, texts, tmp_path, capsys):
    result, human, err = learned(capsys, corpus, tmp_path / "t", "--sample-chars", "20000")
    assert 19_000 < result["sample_characters"] <= 20_000 < result["characters"] == sum(map(len, texts))
    assert "--sample-chars" in err
    assert f"learned from {result['sample_characters']:,} of {result['characters']:,} characters" in human
    again = learned(capsys, corpus, tmp_path / "u", "--sample-chars", "20000")[0]
    assert again["sample_characters"] == result["sample_characters"]
    assert Tokenizer.load(tmp_path / "t").fingerprint == Tokenizer.load(tmp_path / "u").fingerprint


def test_a_novel_is_sampled_in_passages(texts, tmp_path, capsys):
    path = tmp_path / "novel.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    result, human, _ = learned(capsys, path, tmp_path / "t", "--sample-chars", "30000")
    assert result["cut"] == 1
    assert "cut into passages: 1" in human
    assert 28_000 < result["sample_characters"] <= 30_000


def test_an_empty_sample_is_refused(corpus, tmp_path, capsys):
    argv = ["tokenizer", "train", str(corpus), "--out", str(tmp_path / "t"), "--sample-chars", "0"]
    assert main(argv) == 2
    assert "--sample-chars" in capsys.readouterr().err
