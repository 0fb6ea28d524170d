"""How a text ends: a last sentence that breaks off is cut, a signature and a date are not."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from danlu.data.rules.lines import CLOSERS, ENDS, FINISHED, grammar, is_verse, lines_of
from danlu.types import Document, Drop

_UP_TO_LAST_END = re.compile(rf"(?s:.*)(?:[{ENDS}]|\.(?![0-9A-Za-z]))[{re.escape(CLOSERS)}]*")
_NUMBER = "[0-9〇零一二三四五六七八九十]"
_DATE = (
    rf"{_NUMBER}{{2,4}} ?[年./-] ?{_NUMBER}{{1,3}} ?[月./-](?: ?{_NUMBER}{{1,3}} ?[日号]?)?"
    "(?: ?[0-9]{1,2}:[0-9]{2})?"
)
_SIGNED = re.compile(
    rf"\s*(?:(?:[^\s，]{{1,12}}\s+){{0,2}}{_DATE}(?:\s*[^\s，]{{1,12}}){{0,2}}|—{{1,2}}\s*[^，]{{2,20}})"
)
"""A date behind the last sentence, with a name or a place; a name behind a dash."""
_LIST = re.compile("[^:：]{1,12}[:：].*[；;、,，]")
_YEAR = re.compile(f"{_NUMBER}{{4}} ?[年./-]")
_NO_NAME = re.compile(r"[。！？!?，,、；;：:—\-（(“‘《]$|[。！？!?，©|｜]|://|www\.")
"""What a line of a signature does not have."""
_SHORT, _LONGEST, _MOST_LINES = 7, 20, 5


@dataclass(frozen=True)
class FinishSentence:
    """Cut a text of `from_characters` or more back to its last finished sentence, drop it if less than `keep` is left.

    What may follow that sentence: a date, up to five lines of a signature, a named list (关键词：). Verse, with as
    many words of grammar as `grammar`, needs no sentences.
    Source: C4 (Raffel et al. 2020, section 2.2) keeps only lines that end in terminal punctuation.
    """

    from_characters: int
    keep: float
    grammar: float = 1

    def __call__(self, document: Document) -> Document | Drop:
        """Look for the last end of a sentence."""
        text = document.text
        if len(text) < self.from_characters or text.endswith(FINISHED):
            return document
        found = _UP_TO_LAST_END.match(text)
        end = found.end() if found else 0
        if _SIGNED.fullmatch(text, end) or _is_signed(text):
            return document
        if "\n" in text and is_verse(text, lines_of(text), self.grammar):
            return document
        return Drop("unfinished") if not end or end < self.keep * len(text) else replace(document, text=text[:end])


def _is_signed(text: str) -> bool:
    """Tell whether some whole lines stand behind one that is finished."""
    for _ in range(_MOST_LINES):
        text, _, line = text.rpartition("\n")
        text = text.rstrip()
        if not _is_whole(line.strip()):
            return False
        if text.endswith(FINISHED):
            return True
    return False


def _is_whole(line: str) -> bool:
    """Tell whether a line that ends no sentence may be all that was written there: a name, a place, a date, a list.

    Names of people and of offices have no words of grammar; two Latin letters count as one.
    """
    if _LIST.match(line) or (len(line) <= _LONGEST and _YEAR.search(line)):
        return not line.endswith(("；", ";", "、", ",", "，"))
    width = len(line) - sum(map(str.isascii, line)) / 2
    return not _NO_NAME.search(line) and (width <= _SHORT or (width <= _LONGEST and grammar(line) == 0))
