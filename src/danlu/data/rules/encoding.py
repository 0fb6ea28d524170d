"""Text that was decoded by the wrong table: undone where it can be, dropped where it cannot."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

from danlu.data.characters import Kind, kinds, kinds_of_parts
from danlu.errors import DataError
from danlu.types import Document, Drop

INSTALL = 'pip install -e ".[clean]"'
_C1 = {
    ord(bytes([code]).decode("cp1252")): code
    for code in range(0x80, 0xA0)
    if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
"""What Windows-1252 has where Latin-1 has control characters."""
_LOST = "锟斤拷"
"""U+FFFD twice, in UTF-8, read as GBK."""
_FEWEST, _OF_A_LINE = 5, 0.3


def optional(package: str, what: str) -> ModuleType:
    """Import a package of the extra `[clean]`. Raises DataError, in one line, where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise DataError(f"{what} needs the package {package}: {INSTALL}") from None


@dataclass(frozen=True)
class RepairMojibake:
    """Undo Chinese that was decoded as Latin-1, Windows-1252 or GBK, drop what stays garbled.

    A text is suspected where more than `share` of it is what wrong decoding leaves behind (see `Kind.GARBLED` and
    `Kind.UPPER_LATIN`) and hardly any a word of grammar. It is decoded anew, byte for byte; a text that this does not
    make Chinese is dropped. Single such sequences amid sound text (`â€œ`) are left to ftfy's `fix_encoding`, which
    changes nothing else. Of a text that is garbled in parts, lines are decoded anew, and those that stay garbled are
    cut; it is dropped where these are more than `share` of it.
    Stands before `normalise_lines`: what that takes for control characters may be half of a character.
    """

    share: float
    ftfy: bool = True
    _ftfy: ModuleType | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.ftfy:
            object.__setattr__(self, "_ftfy", optional("ftfy", "repairing mojibake"))

    def __call__(self, document: Document) -> Document | Drop:
        """Answer with a text that is not garbled."""
        text = document.text
        while self._garbled(text):  # what is undone is shorter, so this ends
            undone = _undone(text)
            if undone is None:
                break
            text = undone
        if "\n" in text and _wrong(kinds(text)) >= _FEWEST:
            whole, text = len(text), _sound_lines(text)
            if whole - len(text) > self.share * whole:
                return Drop("mojibake")
        if self._garbled(text):
            return Drop("mojibake")
        if self._ftfy and kinds(text)[Kind.UPPER_LATIN] and self._ftfy.badness.is_bad(text):
            text = self._ftfy.fix_encoding(text)
        return document if text == document.text else replace(document, text=text)

    def _garbled(self, text: str) -> bool:
        counts = kinds(text)
        if counts[Kind.FUNCTION] > _wrong(counts) / 10:
            return False  # a sentence about 枸杞 or 山楂
        return _wrong(counts) > self.share * len(text)

    def __reduce__(self):
        return type(self), (self.share, self.ftfy)


def _wrong(counts: Sequence[int]) -> int:
    return max(counts[Kind.GARBLED], counts[Kind.UPPER_LATIN])


def _sound_lines(text: str) -> str:
    """Return a text without its garbled lines, or with what they were before, where that can be undone.

    A line counts as garbled where `_FEWEST` characters and `_OF_A_LINE` of it are what wrong decoding leaves behind:
    more than of a text, for a line may be a name or a list.
    """
    lines = text.split("\n")
    kept = list[str]()
    for line, counts in zip(lines, kinds_of_parts(lines).tolist(), strict=True):
        wrong = _wrong(counts)
        if wrong < _FEWEST or wrong < _OF_A_LINE * len(line) or 10 * counts[Kind.FUNCTION] > wrong:
            kept.append(line)
        elif (undone := _undone(line)) is not None:
            kept.append(undone)
    return "\n".join(kept)


def _undone(text: str) -> str | None:
    """Return the text that was decoded wrongly to this one, or None.

    Bytes of another encoding are hardly ever valid UTF-8, but often valid GB18030: that must give Chinese.
    """
    if kinds(text)[Kind.GARBLED] >= kinds(text)[Kind.UPPER_LATIN]:
        return _redecoded(text, "gb18030", "utf-8")
    text = text.translate(_C1)
    undone = _redecoded(text, "latin-1", "utf-8")
    if undone is not None:
        return undone
    undone = _redecoded(text, "latin-1", "gb18030")
    return undone if undone is not None and _is_chinese(undone) else None


def _redecoded(text: str, wrong: str, right: str) -> str | None:
    try:
        return text.encode(wrong).decode(right)
    except UnicodeError:
        return None


def _is_chinese(text: str) -> bool:
    """Tell whether most letters are Han characters and a fiftieth of these words of grammar."""
    counts = kinds(text)
    han = counts[Kind.HAN] + counts[Kind.FUNCTION]
    return 2 * han > sum(counts[: Kind.DIGIT]) and 50 * counts[Kind.FUNCTION] > han


@dataclass(frozen=True)
class Broken:
    """Drop a text more than `share` of which was lost: U+FFFD, 锟斤拷, private and unassigned code points.

    Lines a tenth of which was lost are cut first, where they are at most `lines` of the text.
    """

    share: float
    lines: float = 0

    def __call__(self, document: Document) -> Document | Drop:
        """Count what is lost."""
        text = document.text
        if _lost(text, kinds(text)) <= self.share * len(text):
            return document
        lines = text.split("\n")
        each = zip(lines, kinds_of_parts(lines).tolist(), strict=True)
        kept = "\n".join(line for line, counts in each if 10 * _lost(line, counts) <= len(line))
        if (
            not kept
            or _lost(kept, kinds(kept)) > self.share * len(kept)
            or len(text) - len(kept) > self.lines * len(text)
        ):
            return Drop("broken_text")
        return replace(document, text=kept.strip())


def _lost(text: str, counts: Sequence[int]) -> int:
    return counts[Kind.BROKEN] + len(_LOST) * text.count(_LOST)
