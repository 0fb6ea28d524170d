"""What a model has to beat on the same text: character bigrams, and xz primed with the training text."""

from __future__ import annotations

import lzma
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from danlu import log
from danlu.data.shards import Shards
from danlu.tokenizer import Tokenizer

CODE_POINTS = 0x110000
BEGIN = CODE_POINTS
"""Stands before a document's first character; no character has this number."""
_BITS_OF_A_CHARACTER = 21
_CHARACTERS_AT_ONCE = 1 << 22
_PRIMER_BYTES = 64_000_000
_PIECE = 1 << 20


class Bigrams:
    """P(character | the one before it), interpolated with unigrams and a uniform floor over all code points.

    Absolute discounting: each seen count gives up D, estimated as n1 / (n1 + 2·n2) from the counts of counts,
    and what is given up goes to the lower order; so every text has a finite cost.
    Source: Ney, Essen and Kneser 1994, "On structuring probabilistic dependences in stochastic language
    modelling".
    """

    def __init__(self, texts: Iterable[str]):
        self._pairs, self._counts = np.zeros(0, np.int64), np.zeros(0)
        for seen in _pairs_of(texts):
            new, counts = np.unique(seen, return_counts=True)
            self._pairs, place = np.unique(np.concatenate([self._pairs, new]), return_inverse=True)
            self._counts = np.bincount(place, np.concatenate([self._counts, counts]))
        before, char = self._pairs >> _BITS_OF_A_CHARACTER, self._pairs & ((1 << _BITS_OF_A_CHARACTER) - 1)
        self._history = np.bincount(before, self._counts, minlength=BEGIN + 1)
        self._followers = np.bincount(before, minlength=BEGIN + 1)
        single = np.bincount(char, self._counts, minlength=CODE_POINTS)
        self._discount = _discount(self._counts)
        self._unigram = _unigrams(single)

    def probability(self, before: np.ndarray, char: np.ndarray) -> np.ndarray:
        """Return P(char | before) of code points; `before` is BEGIN at a document's beginning."""
        lower = self._unigram[char]
        wanted = before.astype(np.int64) << _BITS_OF_A_CHARACTER | char
        place = np.searchsorted(self._pairs, wanted)
        found = np.append(self._pairs, -1)[place] == wanted
        count = np.where(found, np.append(self._counts, 0)[place], 0)
        history = self._history[before]
        kept = np.maximum(count - self._discount, 0) + self._discount * self._followers[before] * lower
        return np.where(history > 0, kept / np.maximum(history, 1), lower)

    def bits(self, texts: Iterable[str]) -> float:
        """Return the bits of all texts, each scored alone."""
        return sum(
            float(-np.log2(self.probability(p >> _BITS_OF_A_CHARACTER, p & ((1 << _BITS_OF_A_CHARACTER) - 1))).sum())
            for p in _pairs_of(texts)
        )


def _discount(counts: np.ndarray) -> float:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else 0.5


def _unigrams(single: np.ndarray) -> np.ndarray:
    uniform, total = 1 / CODE_POINTS, single.sum()
    if not total:
        return np.full(CODE_POINTS, uniform)
    discount = _discount(single)
    return (np.maximum(single - discount, 0) + discount * (single > 0).sum() * uniform) / total


def _pairs_of(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield (character before, character) as one number each, a few million at once; texts stand alone."""
    for chunk in _chunks(texts):
        codes = [np.frombuffer(t.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64) for t in chunk if t]
        if codes:
            before = np.concatenate([np.concatenate([[BEGIN], c[:-1]]) for c in codes])
            yield before << _BITS_OF_A_CHARACTER | np.concatenate(codes)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    held: list[str] = []
    characters = 0
    for text in texts:
        held.append(text)
        characters += len(text)
        if characters >= _CHARACTERS_AT_ONCE:
            yield held
            held, characters = [], 0
    if held:
        yield held


class Primer:
    """Keeps the last 64 MB of the texts that pass through it, joined by newlines: what xz -9 sees."""

    def __init__(self, limit: int = _PRIMER_BYTES):
        self._limit, self._held, self._size = limit, deque[bytes](), 0
        self.whole = True

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """Pass the texts on."""
        for text in texts:
            self._held.append(_utf8(text))
            self._size += len(self._held[-1]) + 1
            while self._size - len(self._held[0]) - 1 >= self._limit:
                self._size -= len(self._held.popleft()) + 1
                self.whole = False
            yield text

    def text(self) -> bytes:
        """Return what is kept."""
        joined = b"\n".join(self._held)
        self.whole = self.whole and len(joined) <= self._limit
        return joined[-self._limit :]


def xz_size(pieces: Iterable[bytes]) -> int:
    """Return the bytes of `xz -9e` of the pieces joined."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())


def measure(training: Iterable[str], validation: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return {name: {bits_per_char, bits, about}} of both baselines over the validation texts' characters.

    Each is read once. xz's figure is the size of training and validation text compressed together, less that
    of the training text alone; it shows its progress on stderr. Memory: the distinct pairs of characters, the
    validation text, and up to 0.7 GB for each of two compressors once the training text fills xz's window.
    """
    primer = Primer()
    bigrams = Bigrams(primer.watch(training))
    held_out = list(validation)
    characters = max(1, sum(map(len, held_out)))
    before = primer.text()
    after = [b"\n" + _utf8(text) for text in held_out]
    pieces = _pieces(before) + _pieces(b"".join(after))
    with ThreadPoolExecutor(1) as pool:  # lzma runs outside Python's lock
        alone = pool.submit(xz_size, [before])
        both = xz_size(log.track(pieces, "xz -9e", len(pieces), "MB"))
        xz = 8.0 * (both - alone.result())
    bits = bigrams.bits(held_out)
    part = "all" if primer.whole else f"the last {_PRIMER_BYTES // 10**6} MB"
    return {
        "character bigrams": {
            "bits_per_char": bits / characters,
            "bits": bits,
            "about": "absolute discounting, unigrams, a uniform floor; all of the training text",
        },
        "xz -9e, primed": {
            "bits_per_char": xz / characters,
            "bits": xz,
            "about": f"xz(training + validation) - xz(training), {part} of the training text",
        },
    }


def _pieces(data: bytes) -> list[bytes]:
    return [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def texts_of(shards: Shards, tokenizer: Tokenizer, split: str) -> Iterator[str]:
    """Decode a split's documents."""
    return (tokenizer.decode(document.tolist()) for document in shards.split(split).documents())
