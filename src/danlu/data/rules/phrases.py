"""The list of phrases that give away boilerplate: how it is read, and what finds them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from danlu.errors import DataError

PHRASES = Path(__file__).with_name("phrases.txt")
_PARTS = _ALONE, _PAIRED, _BEGIN, _MADE_OF = (
    "[one is enough]",
    "[two are needed]",
    "[a line begins]",
    "[a line is made of]",
)
_GAP = "[^\n。！？]{0,12}"
_COLON, _BAR = "[:：]", " ?[:：丨|｜]"
_SIGNS = r"[\W\d_]"
_LONGEST_LINE = 60
_ENDS = ("。", "！", "？", "!", "?", "……")


@dataclass(frozen=True)
class Phrases:
    """What finds the phrases of each part: alone, paired (a group for each), at the start of a line, all of a line."""

    alone: re.Pattern[str]
    paired: re.Pattern[str]
    groups: dict[str, str]
    begin: re.Pattern[str]
    made_of: re.Pattern[str]

    def in_sentence(self, text: str) -> bool:
        """Tell whether one phrase of the first part is in a text or two of the second."""
        if self.alone.search(text):
            return True
        return len({self.groups.get(found, found) for found in self.paired.findall(text)}) >= 2

    def is_part_of_a_page(self, line: str) -> bool:
        """Tell whether a line only names a source, an editor or what may be clicked on."""
        if not line or len(line) > _LONGEST_LINE:
            return False
        if self.begin.match(line):
            return not line.rstrip("）)】] ").endswith(_ENDS)
        return self.made_of.fullmatch(line) is not None


@cache
def phrases_of(path: Path) -> Phrases:
    """Read a list of phrases; parts may be missing. Raises DataError where it cannot be read or has other parts."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of phrases ({error})") from None
    parts: dict[str, list[str]] = {part: [] for part in _PARTS}
    part = parts[_ALONE]
    for line in lines:
        if line.startswith("["):
            part = parts.get(line)
            if part is None:
                raise DataError(f"{path}: {line} is no part of a list of phrases. There are {', '.join(_PARTS)}")
        elif line and not line.startswith(("#", "…")):
            part.append(line)
    groups = {phrase: line for line in parts[_PAIRED] for phrase in line.split("|")}
    made_of = _any_of(parts[_MADE_OF])
    return Phrases(
        re.compile(_any_of(parts[_ALONE])),
        re.compile(_any_of(groups)),
        groups,
        re.compile(rf"[\s（(【\[]{{0,3}}(?:{_any_of(parts[_BEGIN]).replace(_COLON, _BAR)})"),
        re.compile(rf"{_SIGNS}*(?:(?:{made_of}){_SIGNS}*)+"),
    )


def _any_of(phrases: Iterable[str]) -> str:
    """Return a pattern of the phrases: grouped by their first character, or every place would try them all."""
    endings: dict[str, list[str]] = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        endings.setdefault(phrase[0], []).append(_pattern_of(phrase[1:]))
    return "|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in endings.items()) or "(?!)"


def _pattern_of(phrase: str) -> str:
    pattern = _GAP.join(map(re.escape, phrase.removesuffix("$").split("…"))).replace("：", _COLON)
    return pattern + "(?![\u4e00-\u9fff])" if phrase.endswith("$") else pattern
