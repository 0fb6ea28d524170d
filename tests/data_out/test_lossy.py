"""A tokenizer from elsewhere that does not give every text back, or leaves ids out, is used knowingly."""

import json
import unicodedata

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from danlu.cli import main
from danlu.data.prepare import prepare
from danlu.data.shards import open_shards
from danlu.tokenizer import PROBES, Tokenizer, _byte_characters
from danlu.types import Document

EOS = "<|endoftext|>"


def from_elsewhere(backend: Backend) -> Tokenizer:
    backend.add_special_tokens([AddedToken(EOS, special=True)])
    return Tokenizer(backend.to_str(), {"eos_token": EOS})


def byte_level(alphabet: list[str], normalizer=None) -> Tokenizer:
    backend = Backend(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    return from_elsewhere(backend)


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
LOSSY = {
    "NFC": byte_level(ALPHABET, normalizers.NFC()),
    "NFKC": byte_level(ALPHABET, normalizers.NFKC()),
    "lower case": byte_level(ALPHABET, normalizers.Lowercase()),
    "stripped": byte_level(ALPHABET, normalizers.Strip()),
    "unknown words": from_elsewhere(Backend(models.WordLevel({"[UNK]": 0, "一": 1}, unk_token="[UNK]"))),
    **{f"without byte {b}": byte_level([c for c in ALPHABET if c != _byte_characters()[b]]) for b in (0, 0x41, 0xEF)},
}


def test_every_byte_that_utf8_uses_is_probed():
    used = set(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}
    assert set("".join(PROBES).encode()) == used


@pytest.mark.parametrize("name", LOSSY)
def test_probes_find_every_way_of_losing_text(name):
    assert LOSSY[name].changed(PROBES)


def test_a_tokenizer_trained_here_loses_nothing(tokenizer):
    assert not tokenizer.changed(PROBES)
    assert not byte_level(ALPHABET).changed(PROBES)


@pytest.mark.parametrize("name", ["NFC", "NFKC"])
def test_preparing_with_a_lossy_tokenizer_says_so_in_one_line(name, texts, tmp_path, capsys):
    LOSSY[name].save(tmp_path / "tokenizer")
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    argv = ["prepare", str(path), "--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path / "s"), "--json"]
    assert main(argv) == 0
    said = capsys.readouterr()
    about = [line for line in said.err.splitlines() if "does not give every text back" in line]
    assert len(about) == 1
    touched = sum(unicodedata.normalize(name, text) != text for text in texts[:200])
    assert (touched > 0) is (name == "NFKC")
    assert f"changes {touched} of the first 200 documents" in about[0]
    assert json.loads(said.out.splitlines()[-1])["lossless"] is False


def test_preparing_with_a_tokenizer_trained_here_says_nothing_of_it(texts, tokenizer, tmp_path, capsys):
    manifest = prepare([Document(t, "test", "") for t in texts], tokenizer, tmp_path / "s", 0.1)
    assert manifest["lossless"] is True
    assert "give every text back" not in capsys.readouterr().err


def test_shards_of_a_tokenizer_with_holes_in_its_ids_open_and_decode(texts, tmp_path):
    backend = Backend(models.BPE(vocab={piece: 300 * i for i, piece in enumerate(ALPHABET)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = from_elsewhere(backend)
    assert tokenizer.vocab_size == 300 * 255 + 1 > 65_536
    manifest = prepare([Document(t, "test", "") for t in texts], tokenizer, tmp_path / "s", 0.1)
    assert (manifest["vocab_size"], manifest["dtype"]) == (tokenizer.vocab_size, "uint32")
    opened = open_shards(tmp_path / "s")
    found = [tokenizer.decode(d.tolist()) for s in ("train", "validation") for d in opened.split(s).documents()]
    assert sorted(found) == sorted(texts)
