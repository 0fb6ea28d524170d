"""Preparing: whole or absent, split by content, recognised when done already; every bad input one line."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from danlu.cli import main
from danlu.data import clean as clean_module
from danlu.data import prepare as prepare_module
from danlu.data.dedup import normalised_hash
from danlu.data.prepare import prepare
from danlu.data.shards import open_shards
from danlu.data.sources import Corpus
from danlu.errors import DataError, OutputError
from danlu.tokenizer import Tokenizer
from danlu.types import Document


def documents(texts):
    return [Document(t, "test", str(i)) for i, t in enumerate(texts)]


@pytest.fixture
def corpus(tmp_path, texts):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")
    return path


def prepared(corpus, tokenizer_folder, out, *flags):
    return main(["prepare", str(corpus), "--tokenizer", str(tokenizer_folder), "--out", str(out), "--json", *flags])


def test_the_texts_come_back_from_the_shards(texts, tokenizer, shards):
    found = [tokenizer.decode(d.tolist()) for s in ("train", "validation") for d in shards.split(s).documents()]
    assert sorted(found) == sorted(texts)
    for name in ("train", "validation"):
        entry, stream = shards.manifest["splits"][name], shards.split(name)
        assert entry["tokens"] == len(stream)
        assert entry["documents"] == len(stream.ends) > 0
    splits = shards.manifest["splits"].values()
    assert sum(s["characters"] for s in splits) == sum(map(len, texts))
    assert sum(s["bytes"] for s in splits) == sum(len(t.encode()) for t in texts)


def test_the_files_are_little_endian_uint16(shards):
    raw = np.frombuffer((shards.folder / "train-00000.bin").read_bytes(), dtype="<u2")
    assert raw.astype(np.int64).tolist() == shards.split("train").read(0, len(raw)).tolist()
    assert shards.manifest["dtype"] == "uint16"


def test_copies_fall_on_one_side_whatever_their_order(texts, tokenizer, tmp_path):
    doubled = texts + [t[:3] + " " + t[3:] for t in texts]
    prepare(documents(doubled), tokenizer, tmp_path / "a", 0.2)
    prepare(documents(doubled[::-1]), tokenizer, tmp_path / "b", 0.2)
    sides = []
    for name in ("a", "b"):
        opened = open_shards(tmp_path / name)
        held = {tokenizer.decode(d.tolist()).replace(" ", "") for d in opened.split("validation").documents()}
        trained = {tokenizer.decode(d.tolist()).replace(" ", "") for d in opened.split("train").documents()}
        assert not held & trained
        sides.append(held)
    assert sides[0] == sides[1]
    assert 0.1 < len(sides[0]) / len(texts) < 0.3


def test_a_novel_gives_both_splits(texts, tokenizer, tmp_path):
    manifest = prepare(documents(["\n".join(texts)]), tokenizer, tmp_path / "s", 0.1)
    assert open_shards(tmp_path / "s").split("validation").documents_count > 0
    assert manifest["cut"] == 1


def test_passages_of_a_very_long_document_are_split_by_hash_like_documents(corpus, tokenizer_folder, tmp_path, capsys):
    novel = "".join(f"第{n}句，炉火纯青。" for n in range(40_000))
    with corpus.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": novel}) + "\n")
    assert prepared(corpus, tokenizer_folder, tmp_path / "s", "--validation-share", "0.2") == 0
    *human, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert (result["documents"], result["kept"], result["cut"]) == (401, 401, 1)
    assert "cut into passages: 1" in "\n".join(human)
    opened, tokenizer = open_shards(tmp_path / "s"), Tokenizer.load(tokenizer_folder)
    assert opened.manifest["cut"] == 1
    for split in ("train", "validation"):
        found = [tokenizer.decode(d.tolist()) for d in opened.split(split).documents()]
        parts = [text for text in found if "炉火纯青" in text]
        assert parts
        assert all((normalised_hash(text) < 0.2 * 2**64) is (split == "validation") for text in parts)


def test_a_corpus_of_one_tiny_document_is_a_clear_error(tokenizer, tmp_path):
    with pytest.raises(DataError, match="would be empty"):
        prepare(documents(["短"]), tokenizer, tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_the_same_input_again_does_nothing_and_says_so(corpus, tokenizer_folder, tmp_path, capsys):
    out = tmp_path / "shards"
    assert prepared(corpus, tokenizer_folder, out) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    keys = {"documents", "kept", "dropped", "tokens", "characters", "seconds"}
    assert keys <= first.keys()
    before = (out / "manifest.json").stat().st_mtime_ns
    assert prepared(corpus, tokenizer_folder, out) == 0
    said = capsys.readouterr().out
    assert json.loads(said.splitlines()[-1])["already_prepared"]
    assert "already prepared" in said
    assert (out / "manifest.json").stat().st_mtime_ns == before


@pytest.fixture
def hashed(monkeypatch):
    """The corpora whose contents were hashed, which takes reading all of them."""
    found = []
    whole = Corpus.fingerprint
    monkeypatch.setattr(Corpus, "fingerprint", lambda corpus: found.append(corpus) or whole(corpus))
    return found


@pytest.mark.parametrize("there", ["a folder", "a file", "other shards", "shards of another corpus", "no permission"])
def test_the_corpus_is_not_read_before_out_is_known_to_be_free(
    there, corpus, tokenizer_folder, tmp_path, hashed, capsys
):
    out = tmp_path / "s"
    if there == "a folder":
        (out / "mine").mkdir(parents=True)
    elif there == "a file":
        out.touch()
    elif there == "no permission":
        out = tmp_path / "corpus.jsonl" / "s"  # below a file nothing can be made
    else:
        assert prepared(corpus, tokenizer_folder, out, *["--min-chars", "2"][: 2 * (there == "other shards")]) == 0
        with corpus.open("a") as file:
            file.write('{"text": "x"}\n' * (there == "shards of another corpus"))
        hashed.clear()
    assert prepared(corpus, tokenizer_folder, out) == 2
    assert "error: " in capsys.readouterr().err
    assert not hashed


@pytest.mark.parametrize("flags", [["--validation-share", "0.3"], ["--min-chars", "20"], ["--no-dedup"]])
def test_other_settings_do_not_overwrite(corpus, tokenizer_folder, tmp_path, flags, capsys):
    assert prepared(corpus, tokenizer_folder, tmp_path / "s") == 0
    assert prepared(corpus, tokenizer_folder, tmp_path / "s", *flags) == 2
    assert "exists" in capsys.readouterr().err


def test_shards_of_older_rules_are_not_taken_for_done(corpus, tokenizer_folder, tmp_path, monkeypatch, capsys):
    assert prepared(corpus, tokenizer_folder, tmp_path / "s") == 0
    monkeypatch.setattr(clean_module, "EDITION", clean_module.EDITION + 1)
    assert prepared(corpus, tokenizer_folder, tmp_path / "s") == 2
    assert "exists" in capsys.readouterr().err


def test_counts_of_dropped_documents_are_stored(tmp_path, corpus, texts, tokenizer_folder, capsys):
    with corpus.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": texts[0]}) + "\n" + json.dumps({"text": " "}) + "\n")
    assert prepared(corpus, tokenizer_folder, tmp_path / "s") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["dropped"] == {"duplicate": 1, "empty": 1}
    assert open_shards(tmp_path / "s").manifest["dropped"] == result["dropped"]


def test_bad_input_leaves_nothing(tmp_path, corpus, tokenizer_folder, capsys):
    with corpus.open("a") as file:
        file.write("{oops\n")
    assert prepared(corpus, tokenizer_folder, tmp_path / "s") == 2
    assert "line 401" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"corpus.jsonl"}


def test_missing_flags_are_one_line(corpus, tokenizer_folder, tmp_path, capsys):
    assert main(["prepare", str(corpus), "--out", str(tmp_path / "s")]) == 2
    assert "--tokenizer" in capsys.readouterr().err
    assert main(["prepare", str(corpus), "--tokenizer", str(tokenizer_folder)]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncate", "remove", "foreign"])
def test_damaged_shards_are_refused(damage, texts, tokenizer, tmp_path):
    prepare(documents(texts), tokenizer, tmp_path / "s", 0.1)
    victim = tmp_path / "s" / "train-00000.bin"
    if damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-2])
    elif damage == "remove":
        victim.unlink()
    else:
        (tmp_path / "s" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"train-00000|manifest"):
        open_shards(tmp_path / "s")


@pytest.mark.parametrize("other_size", [True, False])
def test_a_tokenizer_that_did_not_make_the_shards_is_refused(other_size, texts, tokenizer, tmp_path):
    prepare(documents(texts), tokenizer, tmp_path / "s", 0.1)
    path = tmp_path / "s" / "tokenizer" / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\n" if other_size else text.replace("  ", " \t", 1), encoding="utf-8")
    another = Tokenizer.load(path.parent)
    with pytest.raises(DataError, match="another tokenizer") as refused:
        open_shards(tmp_path / "s")
    for named in (tokenizer.fingerprint[:12], another.fingerprint[:12], "danlu prepare"):
        assert named in str(refused.value)
    path.unlink()
    with pytest.raises(DataError, match=r"missing.*danlu prepare"):
        open_shards(tmp_path / "s")
    path.write_text(text, encoding="utf-8")
    open_shards(tmp_path / "s")


def test_an_existing_folder_is_not_touched(texts, tokenizer, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="exists"):
        prepare(documents(texts), tokenizer, tmp_path / "s")
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["mine.txt"]


def test_wide_vocabularies_take_uint32(texts, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "vocab_size", 70_000, raising=False)
    monkeypatch.setitem(tokenizer.__dict__, "vocab_size", 70_000)
    manifest = prepare(documents(texts), tokenizer, tmp_path / "s", 0.1)
    assert manifest["dtype"] == "uint32"
    assert len(open_shards(tmp_path / "s").split("train")) == manifest["splits"]["train"]["tokens"]


def test_small_batches_give_the_same_shards(texts, tokenizer, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "_BATCH_CHARACTERS", 100)
    manifest = prepare(documents(texts), tokenizer, tmp_path / "s", 0.1)
    assert manifest["address"] == shards.address


@pytest.mark.slow
def test_a_killed_preparation_leaves_nothing_that_opens(tmp_path, texts, tokenizer_folder):
    corpus = tmp_path / "corpus.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for i in range(60_000):
            file.write(json.dumps({"text": f"{i} {texts[i % 400]}"}, ensure_ascii=False) + "\n")
    out = tmp_path / "shards"
    command = [
        sys.executable,
        "-m",
        "danlu",
        "prepare",
        str(corpus),
        "--tokenizer",
        str(tokenizer_folder),
        "--out",
        str(out),
    ]
    for delay in (0.3, 0.8, 1.5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(tmp_path.glob(".scratch-*")):
            time.sleep(0.01)
            assert process.poll() is None
        time.sleep(delay / 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
    subprocess.run(command, check=True, capture_output=True)
    assert open_shards(out).split("train").documents_count > 50_000
    assert not list(tmp_path.glob(".scratch-*"))
