"""The encoder in bulk gives token for token what the tokenizers library gives, or is not used."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from danlu.data.encode import bulk_encoder
from danlu.data.prepare import prepare
from danlu.errors import TokenizerError
from danlu.tokenizer import PROBES, Tokenizer
from danlu.types import Document

ARTICLE = Path(__file__).parents[1] / "data" / "minimind_tokenizer"
ODD = [
    "'s",
    "'S",
    "'ll",
    "I'M",
    "we'Ve",
    "don't",
    "<|im_end|>",
    "<|endoftext|>",
    "<s>",
    "_",
    "-",
    "1",
    "23",
    "3.14",
    "１",
]
ODD += [
    "²",
    "½",
    "Ⅷ",
    "٣",
    "ſ",
    "K",
    "İ",
    "ǅ",
    "ﬁ",
    "Å",
    "…",
    "——",
    "、",
    "。",
    "』",
    "한국",
    "ไทย",
    "عربي",
    "🇨🇳",
    "𠀀",
]
ODD += ["👨\u200d👩\u200d👧"]
ODD += ["\r\n", "\n\n", " ", "  ", "\t", "\u3000", "\u00a0", "\u200b", "\u2028", "\u0301", "e\u0301", "\x00", "\x7f"]
ODD += ["\u0378", "\U0010ffff", "a" * 50, "哈" * 60, " " * 30, "\n" * 20, "=" * 33]
PLANES = [(0x80,), (0x4E00, 0x9FFF), (0x3000,), (0xE000, 0x110000)]


def uses_fastokens(encode) -> bool:
    return encode.func.__name__ == "_by_fastokens"


def random_text(rng: random.Random, texts: list[str]) -> str:
    def some() -> str:
        kind = rng.randrange(5)
        if kind == 0:
            text = rng.choice(texts)
            start = rng.randrange(len(text))
            return text[start : start + rng.randint(1, 200)]
        if kind == 1:
            return "".join(rng.choice(ODD) for _ in range(rng.randint(1, 12)))
        if kind == 2:
            return "".join(chr(rng.randrange(*rng.choice(PLANES))) for _ in range(rng.randint(1, 40)))
        if kind == 3:
            return "".join(rng.sample(text := rng.choice(texts), min(100, len(text))))
        return "".join(rng.choice("ab ABC'\n\t,.1你好的。") for _ in range(rng.randint(1, 60)))

    return "".join(some() for _ in range(rng.randint(1, 4)))


@pytest.fixture(params=["ours", "the article's"])
def either(request, tokenizer) -> Tokenizer:
    return tokenizer if request.param == "ours" else Tokenizer.load(ARTICLE)


def test_every_token_of_random_texts_agrees(either, texts):
    pytest.importorskip("fastokens", reason="without it there is nothing to compare")
    rng, encode = random.Random(7), bulk_encoder(either)
    assert uses_fastokens(encode)
    for _ in range(5):
        found = [random_text(rng, texts) for _ in range(1000)]
        for text, ids, expected in zip(found, encode(found), either.encode_batch(found), strict=True):
            assert ids.tolist() == expected, repr(text)


@pytest.mark.parametrize("installed", [True, False])
def test_it_gives_arrays_of_what_the_tokenizer_gives(installed, tokenizer, monkeypatch):
    if not installed:
        monkeypatch.setitem(sys.modules, "fastokens", None)
    texts = ["", "长江", "<|endoftext|>", *PROBES]
    encode = bulk_encoder(tokenizer)
    assert [ids.tolist() for ids in encode(texts)] == tokenizer.encode_batch(texts)
    assert all(ids.dtype == np.uint32 for ids in encode(texts))
    assert encode([]) == []
    with pytest.raises(TokenizerError, match="lone surrogate"):
        encode(["长\ud800江"])


@pytest.mark.parametrize("change", ["normaliser", "another cut", "dropout"])
def test_other_kinds_of_tokenizer_are_left_to_the_library(change, tokenizer, monkeypatch):
    parts = json.loads(json.dumps(tokenizer.structure))
    if change == "normaliser":
        parts["normalizer"] = {"type": "NFKC"}
    elif change == "another cut":
        parts["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\P{L}+"
    else:
        parts["model"]["dropout"] = 0.1
    other = Tokenizer(json.dumps(parts), tokenizer.config)
    assert not uses_fastokens(bulk_encoder(other))


def test_one_that_disagrees_is_not_used(tokenizer, monkeypatch):
    fastokens = pytest.importorskip("fastokens", reason="without it there is nothing to compare")

    class Wrong:
        def __init__(self, bulk):
            self._bulk = bulk

        def encode_batch_flat(self, texts, **options):
            return self._bulk.encode_batch_flat([text.replace("\t", " ") for text in texts], **options)

        @staticmethod
        def from_json_str(text):
            return Wrong(fastokens.Tokenizer.from_json_str(text))

    class Module:
        Tokenizer = Wrong

    monkeypatch.setitem(sys.modules, "fastokens", Module)
    assert not uses_fastokens(bulk_encoder(tokenizer))


def test_shards_are_the_same_with_it_and_without(texts, tokenizer, tmp_path, monkeypatch):
    documents = [Document(text, "test", str(i)) for i, text in enumerate(texts)]
    first = prepare(documents, tokenizer, tmp_path / "with")
    monkeypatch.setitem(sys.modules, "fastokens", None)
    second = prepare(documents, tokenizer, tmp_path / "without")
    assert first["address"] == second["address"]
    assert first["splits"] == second["splits"]
