"""What a model has to beat on the same text: a character bigram model, and xz primed with the training text."""

from __future__ import annotations

import lzma
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from danlu.data.shards import Shards
from danlu.tokenizer import Tokenizer

_CODE_POINTS = 0x110000
_XZ_PRIMING_BYTES = 64 << 20
_BEGIN = "\0"


class Bigrams:
    """A character bigram model, interpolated with unigrams and a uniform floor, so every text has a finite cost.

    Witten–Bell weights: a history seen n times with d different followers gives its followers n / (n + d).
    Source: Witten and Bell 1991, "The zero-frequency problem"; Chen and Goodman 1998, section 2.
    """

    def __init__(self, texts: Iterable[str]):
        self.pairs: Counter[str] = Counter()
        self.unigrams: Counter[str] = Counter()
        for text in texts:
            self.unigrams.update(text)
            self.pairs.update(map("".join, zip(_BEGIN + text[:-1], text, strict=True)))
        self.total = sum(self.unigrams.values())
        self.history: Counter[str] = Counter()
        self.followers: Counter[str] = Counter()
        for pair, count in self.pairs.items():
            self.history[pair[0]] += count
            self.followers[pair[0]] += 1

    def probability(self, before: str, char: str) -> float:
        """Return P(char | before); `before` is NUL at a document's beginning."""
        kinds = len(self.unigrams)
        uniform = 1 / _CODE_POINTS
        p = (self.unigrams[char] + kinds * uniform) / (self.total + kinds) if self.total else uniform
        n, d = self.history[before], self.followers[before]
        return (self.pairs[before + char] + d * p) / (n + d) if n else p

    def bits(self, texts: Iterable[str]) -> float:
        """Return the bits of all texts, each scored alone."""
        known: Counter[str] = Counter()
        for text in texts:
            known.update(map("".join, zip(_BEGIN + text[:-1], text, strict=True)))
        return -sum(count * math.log2(self.probability(pair[0], pair[1])) for pair, count in known.items())


def xz_bits(training: bytes, validation: bytes) -> float:
    """Return the bits that `xz -9e` needs more for training + validation than for training alone.

    Of a training text longer than 64 MB, xz's window at -9, the last 64 MB are used.
    """
    primer = training[-_XZ_PRIMING_BYTES:]
    return 8.0 * (_xz_size(primer + validation) - _xz_size(primer))


def _xz_size(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def measure(training: Iterable[str], validation: Iterable[str]) -> dict[str, Any]:
    """Return {name: {bits_per_char, bits}} of both baselines; documents are joined by newlines for xz."""
    held_out, trained = list(validation), list(training)
    characters = max(1, sum(map(len, held_out)))
    bits = {
        "character bigrams": Bigrams(trained).bits(held_out),
        "xz -9e, primed": xz_bits("\n".join(trained).encode() + b"\n", "\n".join(held_out).encode()),
    }
    return {name: {"bits_per_char": value / characters, "bits": value} for name, value in bits.items()}


def texts_of(shards: Shards, tokenizer: Tokenizer, split: str) -> Iterator[str]:
    """Decode a split's documents."""
    return (tokenizer.decode(document.tolist()) for document in shards.split(split).documents())
