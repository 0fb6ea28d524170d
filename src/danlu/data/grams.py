"""Hashes of all sequences of n characters (n-grams) of many texts at once, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from danlu.data.characters import CODE_POINTS, HALF_WIDTH

BLOCK = 1 << 14
"""Characters hashed at once: arrays of 128 KB stay in a core's cache, and larger ones cost a page fault each 4 KB."""

GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ divided by the golden ratio."""

_SHIFTS = tuple(np.uint64(bits) for bits in (30, 27, 31))
_FACTORS = tuple(np.uint64(factor) for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_BASE = 0xD1342543DE82EF95
_64_BITS = (1 << 64) - 1


def mix(values: np.ndarray) -> np.ndarray:
    """Spread numbers, uint64, over all 64 bits, in place; different ones stay different. Returns the same array.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    shifted = values >> _SHIFTS[0]
    values ^= shifted
    values *= _FACTORS[0]
    np.right_shift(values, _SHIFTS[1], out=shifted)
    values ^= shifted
    values *= _FACTORS[1]
    np.right_shift(values, _SHIFTS[2], out=shifted)
    values ^= shifted
    return values


def offset(number: int, seed: int = 0) -> np.uint64:
    """Return what added to a hash before `mix` makes the hash function of that number and seed."""
    return np.uint64((number * GOLDEN + seed * _BASE) & _64_BITS)


@cache
def character_hashes() -> np.ndarray:
    """Return a hash of each code point, uint64, none of them 0."""
    return mix(np.arange(1, CODE_POINTS + 1, dtype=np.uint64))


@cache
def folded(signs: str = "") -> np.ndarray:
    """Return each code point's half-width, lower-case form, uint32; 0 for what is neither letter, digit nor Han.

    `signs` are characters that count beside these, as themselves; of ASCII ones the full-width form, too.
    """
    table = np.arange(CODE_POINTS, dtype=np.uint32)
    for code in range(0x20000):
        character = chr(HALF_WIDTH.get(code, code)).lower()
        table[code] = ord(character) if character.isalnum() and len(character) == 1 else 0
    for code in map(ord, signs):
        table[code] = code
        if code < 0x80:
            table[code + 0xFEE0] = code
    return table


def letters(texts: Sequence[str], signs: str = "") -> list[str]:
    """Reduce texts to their letters, digits and Han, and `signs`, as `folded` has them.

    Memory: 30 bytes a character of a block, besides what is returned.
    """
    found = list[str]()
    for run in batches([len(text) for text in texts], BLOCK):
        some = texts[run]
        if len(some[0]) > BLOCK:
            found.append("".join(letters(pieces(some[0], 1), signs)))
            continue
        codes = folded(signs).take(np.frombuffer("".join(some).encode("utf-32-le", "surrogatepass"), "<u4"))
        counted = codes != 0
        ends = np.append(0, np.cumsum(counted))[np.cumsum([0, *map(len, some)])].tolist()
        whole = codes[counted].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        found += [whole[start:end] for start, end in pairwise(ends)]
    return found


def gram_hashes(characters: np.ndarray, gram: int) -> np.ndarray:
    """Hash every `gram` consecutive characters, given as hashes: uint64, `gram` - 1 fewer; none of fewer characters.

    A polynomial modulo 2⁶⁴: its high bits are spread, its low ones less so until they are mixed. It is put together of
    windows of 1, 2, 4 … characters.
    """
    size = len(characters) - gram + 1
    if size <= 0:
        return np.zeros(0, np.uint64)
    window, width, base = characters, 1, _BASE
    found, start = None, 0
    while True:
        if gram & width:  # the window after the `start` characters that `found` has
            part = window[start : start + size]
            found = part if found is None else found * np.uint64(base) + part
            start += width
        if found is not None and start == gram:
            return found
        window = window[:-width] * np.uint64(base) + window[width:]
        width, base = 2 * width, base * base & _64_BITS


def span_hashes(characters: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Hash sequences of different sizes, of one character at least, as `gram_hashes` does: uint64.

    Memory: 30 bytes for each of them and each character of the longest.
    """
    place = np.arange(sizes.max(initial=0))
    behind = sizes[:, None] - 1 - place  # characters of the sequence that follow
    windows = characters.take(starts[:, None] + place, mode="clip")
    powers = np.array([pow(_BASE, power, 1 << 64) for power in place.tolist()], np.uint64)
    return (np.where(behind >= 0, windows, np.uint64(0)) * powers.take(behind, mode="clip")).sum(axis=1)


def grams_of(texts: Sequence[str], gram: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the grams of texts: uint64 hashes, and int64 numbers of the texts that they are of, in order.

    A text of fewer characters is one gram (filled up with U+0000), an empty one has none. Memory: 40 bytes a character.
    """
    filled = [text if len(text) >= gram or not text else text.ljust(gram, "\0") for text in texts]
    codes = np.frombuffer("".join(filled).encode("utf-32-le", "surrogatepass"), "<u4")
    hashes = gram_hashes(character_hashes().take(codes), gram)
    lengths = np.fromiter(map(len, filled), np.int64, len(filled))
    owners = np.repeat(np.arange(len(filled)), lengths)
    if not len(hashes):
        return hashes, owners
    inside = owners[: len(hashes)] == owners[gram - 1 :]  # the others begin in one text and end in another
    return hashes[inside], owners[: len(hashes)][inside]


def distinct(hashes: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each text's grams once."""
    order = np.lexsort((hashes, owners))
    hashes, owners = hashes[order], owners[order]
    new = np.append(True, (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1]))[: len(hashes)]
    return hashes[new], owners[new]


def pieces(text: str, gram: int) -> list[str]:
    """Cut a text into pieces of up to `BLOCK` + `gram` characters that have its grams and no others; [] for no text."""
    if len(text) <= BLOCK:
        return [text] if text else []
    return [text[start : start + BLOCK + gram - 1] for start in range(0, len(text) - gram + 1, BLOCK)]


def batches(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Yield runs of consecutive texts whose sizes add up to `most` at most, or one text alone."""
    start = total = 0
    for number, size in enumerate(sizes):
        if number > start and total + size > most:
            yield slice(start, number)
            start, total = number, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
