"""Near-duplicates: MinHash signatures of character n-grams, found by bands of them (LSH).

Two texts are near-duplicates where the sets A and B of their n-grams are alike: |A ∩ B| / |A ∪ B| (Jaccard) of
`similarity` or more. Only letters, digits, Han and the signs of arithmetic count, whatever their width and case: copies
with other punctuation or spacing are the same. Texts with fewer of these than an n-gram has are compared as they stand.
Sources: Broder 1997, "On the resemblance and containment of documents"; Indyk and Motwani 1998, "Approximate nearest
neighbors"; Dahlgaard, Knudsen and Thorup 2017, "Fast similarity sketching", arXiv:1704.04370.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field, model_validator

from danlu.config import Table
from danlu.data.grams import BLOCK, GOLDEN, batches, distinct, grams_of, letters, mix, offset, pieces

EMPTY = np.uint32(0xFFFFFFFF)
"""All numbers of an empty text's signature, and none of another's: nothing is a duplicate of an empty text."""

_SIGNS = "+-*/=<>%^×÷±"
"""Punctuation that is no matter of style: what 12 + 34 and 12 - 34 differ in."""

_DOCUMENTS_AT_ONCE = 1 << 14
_LEAST_CHANCE = 0.9
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_FREE = np.uint64(0xFFFFFFFFFFFFFFFF)
_MANY_ROUNDS = 6


class Near(Table):
    """What a near-duplicate is. The defaults find 97 % of the pairs of similarity 0.8 and 99.9 % of those of 0.84.

    A pair is looked at if all `rows` numbers of one of the `bands` agree: with probability 1 - (1 - sʳ)ᵇ, which is
    0.998 for s = 0.8 and 0.27 for 0.5. It is taken for near-duplicates if enough of all numbers agree (`agreeing`). Of
    the pairs of similarity 0.7 these are a quarter, of 0.6 two in a thousand, of 0.5 none.
    """

    gram: int = Field(default=5, ge=1, description="characters of an n-gram")
    similarity: float = Field(default=0.8, gt=0, le=1, description="share of n-grams in common (Jaccard)")
    bands: int = Field(default=20, ge=1, description="bands of a signature; one that agrees makes a pair be looked at")
    rows: int = Field(default=6, ge=1, description="numbers of a band; signatures have bands × rows")
    compared: int = Field(default=32, ge=1, description="kept documents of a band that a later one is compared with")
    seed: int = Field(default=0, ge=0, description="chooses the hash functions")

    @property
    def hashes(self) -> int:
        """Numbers of a signature."""
        return self.bands * self.rows

    @property
    def agreeing(self) -> int:
        """Numbers of two signatures that must agree: two standard errors fewer than at `similarity` are expected."""
        error = math.sqrt(self.similarity * (1 - self.similarity) / self.hashes)
        return max(1, math.ceil(self.hashes * (self.similarity - 2 * error)))

    def chance(self, similarity: float) -> float:
        """Return the probability that a pair of this similarity is looked at."""
        return 1 - (1 - similarity**self.rows) ** self.bands

    @model_validator(mode="after")
    def _bands_suit_similarity(self) -> Near:
        if self.chance(self.similarity) < _LEAST_CHANCE:
            raise ValueError(
                f"{self.bands} bands of {self.rows} rows look at {self.chance(self.similarity):.0%} of the pairs of "
                f"similarity {self.similarity}. Set {self._enough()} in the table [near] of a TOML file, and name it: "
                "--recipe FILE.toml"
            )
        return self

    def _enough(self) -> str:
        """Return bands and rows that look at the pairs, of as many numbers in all if these are enough."""
        for rows in range(self.rows, 0, -1):
            bands = max(1, self.hashes // rows)
            if 1 - (1 - self.similarity**rows) ** bands >= _LEAST_CHANCE:
                return f"bands = {bands} and rows = {rows}"
        return f"bands = {math.ceil(math.log(1 - _LEAST_CHANCE) / math.log1p(-self.similarity))} and rows = 1"


def signatures(texts: Sequence[str], near: Near) -> np.ndarray:
    """Sign each text, uint32 [texts, near.hashes]: what share of it two have in common estimates Jaccard.

    A text with fewer letters than a gram is compared as it stands, white space aside; one shorter than a gram is one
    gram: like itself and nothing else. An empty one's numbers are all `EMPTY`.
    Memory: 1.5 KB a text besides the texts, however long they are.
    """
    found = np.full((len(texts), near.hashes), _FREE)
    bare = [
        few if len(few) >= near.gram else "".join(text.split())
        for few, text in zip(letters(texts, _SIGNS), texts, strict=True)
    ]
    parts = [(number, piece) for number, text in enumerate(bare) for piece in pieces(text, near.gram)]
    parts.sort(key=lambda part: len(part[1]))  # texts of like lengths take like numbers of rounds
    for run in batches([max(near.hashes // 8, len(piece)) for _, piece in parts], BLOCK):
        numbers, some = zip(*parts[run], strict=True)
        for number, sketch in zip(numbers, _sketches(some, near), strict=True):
            np.minimum(found[number], sketch, out=found[number])
    empty = found[:, :1] == _FREE
    return np.where(empty, EMPTY, np.minimum(found & _LOW, _LOW - np.uint64(1)).astype(np.uint32))


def _sketches(texts: Sequence[str], near: Near) -> np.ndarray:
    """Sketch texts, none of them empty: uint64 [texts, near.hashes]. The least of two sketches is that of both texts.

    In round after round each gram is hashed to a place and a number; a place keeps the least number of the first round
    that reaches it, with the number of the round as its high half. After as many rounds as there are places, every gram
    goes to one place a round, so that all are reached. Two texts agree in a place exactly where the first and least of
    both texts' grams together is in both.
    """
    places = near.hashes
    found = np.full((len(texts), places), _FREE)
    hashes, owners = grams_of(texts, near.gram)
    for number in range(2 * places):
        unfilled = (found == _FREE).any(axis=1)
        if not unfilled.any():
            break
        left = unfilled[owners]
        hashes, owners = hashes[left], owners[left]
        if number == _MANY_ROUNDS:
            hashes, owners = distinct(hashes, owners)
        mixed = mix(hashes + offset(number, near.seed))
        place = (((mixed >> _HALF) * np.uint64(places)) >> _HALF).view(np.int64) if number < places else number - places
        np.minimum.at(found.ravel(), owners * places + place, mixed & _LOW | np.uint64(number << 32))
    return found


def near_duplicates(signatures: np.ndarray, near: Near) -> np.ndarray:
    """Return for each document the first kept one that it is a near-duplicate of, or itself if it is kept: int64.

    In their order, a document is kept unless enough of its signature agrees with that of a kept one: where B is like A
    and C like B alone, C stays. Looked at are the first `near.compared` kept documents of each of its bands, so that
    the time is proportional to the documents, whatever they hold.
    Memory: `signatures` (a memory map will do: it is read once a band, then at the pairs), 170 bytes a document and 25
    for each of its bands that another has too.
    """
    if signatures.ndim != 2 or signatures.shape[1] != near.hashes:
        raise ValueError(f"signatures of shape {signatures.shape} are not of {near.hashes} numbers each")
    buckets, agreeing = _Buckets.of(signatures, near), near.agreeing
    first = np.arange(len(signatures))
    for document in np.flatnonzero((buckets.of_document >= 0).any(axis=1)).tolist():
        shared = buckets.of_document[document]
        shared = shared[shared >= 0]
        if rivals := buckets.kept(shared):
            agree = (signatures[rivals] == signatures[document]).sum(axis=1) >= agreeing
            if agree.any():
                first[document] = rivals[agree.argmax()]
                continue
        buckets.keep(document, shared)
    return first


class _Buckets:
    """The documents that have a band in common: a bucket is a band and its rows' numbers that two or more have.

    `of_document`, int32 [documents, bands], names each document's bucket of a band, or -1 where it is alone.
    """

    def __init__(self, of_document: np.ndarray, sizes: np.ndarray, compared: int) -> None:
        """Make room for the first kept documents of buckets of these sizes, `compared` each at most."""
        self.of_document = of_document
        self._room = np.minimum(sizes, compared)
        self._starts = np.cumsum(self._room) - self._room
        self._held = np.zeros_like(sizes)
        self._documents = np.empty(int(self._room.sum()), np.int64)

    @classmethod
    def of(cls, signatures: np.ndarray, near: Near) -> _Buckets:
        """Sort the documents by each band."""
        of_document = np.full((len(signatures), near.bands), -1, np.int32)
        sizes = [np.zeros(0, np.int64)]
        count = 0
        for band in range(near.bands):
            keys, documents = _band(signatures, slice(band * near.rows, (band + 1) * near.rows))
            order = np.argsort(keys)
            keys = keys[order]
            starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
            lengths = np.diff(np.append(starts, len(keys)))
            shared = lengths > 1
            numbers = np.where(shared, count + np.cumsum(shared) - 1, -1)
            of_document[documents[order], band] = np.repeat(numbers, lengths)
            sizes.append(lengths[shared])
            count += int(shared.sum())
        return cls(of_document, np.concatenate(sizes), near.compared)

    def kept(self, buckets: np.ndarray) -> list[int]:
        """Return the kept documents of some buckets, each once, sorted."""
        starts, held = self._starts[buckets].tolist(), self._held[buckets].tolist()
        found = set[int]()
        for start, count in zip(starts, held, strict=True):
            if count:
                found.update(self._documents[start : start + count].tolist())
        return sorted(found)

    def keep(self, document: int, buckets: np.ndarray) -> None:
        """Add a document to the buckets that have room."""
        buckets = buckets[self._held[buckets] < self._room[buckets]]
        self._documents[self._starts[buckets] + self._held[buckets]] = document
        self._held[buckets] += 1


def _band(signatures: np.ndarray, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Hash some columns of the signatures that are not empty: uint64 keys, and the documents that they are of."""
    keys, documents = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for start in range(0, len(signatures), _DOCUMENTS_AT_ONCE):
        block = np.asarray(signatures[start : start + _DOCUMENTS_AT_ONCE, columns], np.uint64)
        full = np.flatnonzero(block[:, 0] != EMPTY)
        key = np.zeros(len(full), np.uint64)
        for column in block[full].T:
            key = mix(key * np.uint64(GOLDEN) + column)
        keys.append(key)
        documents.append(start + full)
    return np.concatenate(keys), np.concatenate(documents)
