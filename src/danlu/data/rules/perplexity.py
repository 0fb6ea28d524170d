"""Perplexity under trigrams of characters, learnt from text that a user calls good: what surprises them is dropped."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field

from danlu import storage
from danlu.config import Table
from danlu.data.characters import CODE_POINTS, RANGES, code_points
from danlu.errors import DataError
from danlu.types import Document, Drop

_SHIFT = 21
"""Bits of a code point; three of them fit one number."""
_CHARACTER, _PAIR = (1 << _SHIFT) - 1, (1 << 2 * _SHIFT) - 1
_FLOOR = 2**-16
"""Share of probability that characters never seen are given, each as if it were one of 65,536."""
_FEWEST_SLOTS, _PAIR_SLOTS, _TRIPLE_SLOTS = 1 << 16, 1 << 20, 1 << 22
_FREE = np.int64(-1)
_MULTIPLIER = np.int64(0x9E3779B97F4A7C15 - (1 << 64))
_CHARACTERS_AT_ONCE = 1 << 20
_HELD_OUT_EVERY = 10


@dataclass(frozen=True, eq=False)
class Trigrams:
    """Bits of a character after the two before it: absolute discounting, interpolated with pairs and characters.

    `pairs` and `triples` are the sequences seen, laid out by a hash in tables that forget some rare ones (`_table`);
    their bits belong to their last character. `after_one` and `after_two` are what a history adds where what follows it
    is new. Digits count as one character, Latin letters as another, white space as a third. At most 76 MB.
    Source: Ney, Essen and Kneser 1994, "On structuring probabilistic dependences in stochastic language modelling".
    """

    single_bits: np.ndarray
    after_one: np.ndarray
    pairs: np.ndarray
    pair_bits: np.ndarray
    after_two: np.ndarray
    triples: np.ndarray
    triple_bits: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Trigrams:
        """Count, discount, interpolate. Memory: the distinct triples, a few times. Raises DataError for no text."""
        triples, counts = _counted(texts)
        if not len(triples):
            raise DataError("a perplexity filter learns from good text, and there is none. Name a source that has some")
        pairs, pair_counts = _summed(triples & _PAIR, counts)
        characters, character_counts = _summed(pairs & _CHARACTER, pair_counts)
        single = np.full(CODE_POINTS, _FLOOR * _FLOOR)
        single[characters] += (1 - _FLOOR) * character_counts / character_counts.sum()
        pair, one, after_one = _interpolated(pairs, pair_counts, single[pairs & _CHARACTER])
        triple, two, after_two = _interpolated(triples, counts, pair[np.searchsorted(pairs, triples & _PAIR)])
        everywhere = np.ones(CODE_POINTS)
        everywhere[one] = after_one
        histories, weights = np.append(pairs, 0), np.append(pair_counts, np.inf)  # 0: nothing, at a text's beginning
        pair_slots, triple_slots = _table(histories, weights, _PAIR_SLOTS), _table(triples, counts, _TRIPLE_SLOTS)
        return cls(
            single_bits=-np.log2(single).astype(np.float32),
            after_one=-np.log2(everywhere).astype(np.float32),
            pairs=pair_slots,
            pair_bits=_bits_in(pair_slots, pairs, pair),
            after_two=_bits_in(pair_slots, two, after_two),
            triples=triple_slots,
            triple_bits=_bits_in(triple_slots, triples, triple),
        )

    def bits(self, text: str) -> float:
        """Return the mean bits a character; 0 for an empty text."""
        return sum(float(self.bits_of_each(codes).sum()) for codes in _folded(text)) / max(1, len(text))

    def bits_of_each(self, codes: np.ndarray) -> np.ndarray:
        """Return the bits of each of some folded code points, int64, which begin a text."""
        padded = np.concatenate([_BEGINNING, codes])
        pair = padded[:-1] << _SHIFT | padded[1:]
        place, known = _find(self.pairs, pair)
        new = self.after_one.take(padded[1:-1]) + self.single_bits.take(codes)
        bits = np.where(known[1:], self.pair_bits.take(place[1:]), new)
        bits += self.after_two.take(place[:-1]) * known[:-1]
        place, known = _find(self.triples, pair[:-1] << _SHIFT | codes)
        return np.where(known, self.triple_bits.take(place), bits)

    def save(self, path: Path) -> None:
        """Write one .npz file, whole or not at all."""
        with storage.replacing(path) as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Trigrams:
        """Read what `save` wrote. Raises DataError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**arrays)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: holds no trigrams of danlu ({error})") from None


class Limits(Table):
    """How the limit of a perplexity filter is found."""

    percentile: float = Field(
        default=99, gt=0, le=100, description="share of good texts that must pass, in %; the limit is set by a tenth"
    )
    from_characters: int = Field(default=50, ge=1, description="characters from which a text is judged")


@dataclass(frozen=True)
class Perplexity:
    """Drop a text of `from_characters` or more that costs more than `most` bits a character (perplexity 2^bits)."""

    trigrams: Trigrams
    most: float
    from_characters: int = 50

    def __call__(self, document: Document) -> Document | Drop:
        """Score the text."""
        text = document.text
        strange = len(text) >= self.from_characters and self.trigrams.bits(text) > self.most
        return Drop("perplexity") if strange else document

    @classmethod
    def learn(cls, texts: Iterable[str], percentile: float = 99, from_characters: int = 50) -> Perplexity:
        """Learn from nine tenths of good texts; the limit is what `percentile` % of the other tenth stay below.

        Memory holds that tenth. Raises DataError where none of it is long enough.
        """
        held_out: list[str] = []
        trigrams = Trigrams.of(_but_held_out(texts, held_out))
        scores = [trigrams.bits(text) for text in held_out if len(text) >= from_characters]
        if not scores:
            few = f"{_HELD_OUT_EVERY} good texts or more, of {from_characters} characters or more"
            raise DataError(f"a perplexity filter learns from {few}: a tenth of them sets its limit")
        return cls(trigrams, float(np.percentile(scores, percentile)), from_characters)


def _but_held_out(texts: Iterable[str], held_out: list[str]) -> Iterator[str]:
    for number, text in enumerate(texts, 1):
        if number % _HELD_OUT_EVERY:
            yield text
        else:
            held_out.append(text)


_BEGINNING = np.zeros(2, np.int64)
"""Stands before a text; `_fold` leaves 0 for it."""


@cache
def _fold() -> np.ndarray:
    """Return, for each code point, the one that stands for its kind."""
    table = np.arange(CODE_POINTS, dtype=np.int64)
    for name, character in (("latin", "a"), ("digit", "0"), ("space", " ")):
        for first, last in RANGES[name]:
            table[first : last + 1] = ord(character)
    table[0] = ord(" ")
    return table


def _folded(text: str) -> Iterator[np.ndarray]:
    return (_fold().take(codes) for codes in code_points(text))


def _counted(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return all distinct triples, sorted, and how often each occurs."""
    keys, counts = np.zeros(0, np.int64), np.zeros(0)
    for chunk in _chunks(texts):
        seen, times = np.unique(chunk, return_counts=True)
        keys, counts = _summed(np.concatenate([keys, seen]), np.concatenate([counts, times]))
    return keys, counts


def _chunks(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield triples, a million or so at once."""
    held, characters = list[np.ndarray](), 0
    for text in texts:
        for codes in _folded(text):
            padded = np.concatenate([_BEGINNING, codes])
            held.append((padded[:-2] << _SHIFT | padded[1:-1]) << _SHIFT | codes)
            characters += len(codes)
        if characters >= _CHARACTERS_AT_ONCE:
            yield np.concatenate(held)
            held, characters = [], 0
    if held:
        yield np.concatenate(held)


def _summed(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct keys, sorted, and the sums of their counts."""
    distinct, place = np.unique(keys, return_inverse=True)
    return distinct, np.bincount(place, counts)


def _interpolated(keys: np.ndarray, counts: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return P of each sorted key's last character, the histories, and what share each history leaves to `lower`."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once and twice else 0.5
    histories, starts, place = np.unique(keys >> _SHIFT, return_index=True, return_inverse=True)
    left = discount * np.diff(np.append(starts, len(keys))) / np.add.reduceat(counts, starts)
    return (
        np.maximum(counts - discount, 0) / np.add.reduceat(counts, starts)[place] + left[place] * lower,
        histories,
        left,
    )


def _table(keys: np.ndarray, counts: np.ndarray, most: int) -> np.ndarray:
    """Lay distinct numbers out by their hash, in four slots or more for each, `most` at most.

    Of those that share a slot the most frequent has it and the others are forgotten: about a tenth, most of them seen
    once. A table with all of them, or a binary search, takes four to six times as long to ask.
    """
    slots = np.full(min(most, max(_FEWEST_SLOTS, 1 << (4 * len(keys)).bit_length())), _FREE)
    order = np.argsort(counts, kind="stable")
    slots[_home(keys[order], len(slots))] = keys[order]  # the last one stays
    return slots


def _find(slots: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each wanted number's slot, and whether it has it."""
    place = _home(wanted, len(slots))
    return place, slots.take(place) == wanted


def _home(keys: np.ndarray, slots: int) -> np.ndarray:
    """Return the slot of each number in a table of `slots`, a power of two (multiplicative hashing)."""
    return (keys * _MULTIPLIER) >> (65 - slots.bit_length()) & (slots - 1)


def _bits_in(slots: np.ndarray, keys: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the bits of the keys that have a slot, each there."""
    bits = np.zeros(len(slots), np.float32)
    place, known = _find(slots, keys)
    bits[place[known]] = -np.log2(probability[known])
    return bits
