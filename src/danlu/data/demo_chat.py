"""The demo's conversations: some 5,000 questions in Chinese with short answers, from the package doorcore 0.2.3.

They are third-party, by "door 工作室" under the MIT licence, as that package's metadata says; it is fetched with the
extra `[demo]` and its file is read. The package itself is never imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from danlu.data.packages import Package
from danlu.types import Document

_BETWEEN = "==="
_PACKAGE = Package(
    "doorcore",
    "0.2.3",
    {"doorcore/data/corpus/知识库.txt": "a7d50868fc668b64949efb9d176f0e2cc8a2fcaecd8ffdaec0d491713b605343"},
)


def files() -> list[Path]:
    """Return the file. Raises DataError where the package is missing or holds something else."""
    return _PACKAGE.files("demo-chat")


def documents(path: Path) -> Iterator[Document]:
    """Yield each line's question and answer, as a record and as text; one line has no question and is left out.

    The first `===` of a line divides it: a few answers hold one themselves. Copies stay, for whoever reads to count.
    """
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            question, between, answer = (part.strip() for part in line.partition(_BETWEEN))
            if between:
                yield Document(
                    f"{question}\n{answer}", "demo-chat", f"qa-{number}", {"question": question, "answer": answer}
                )
