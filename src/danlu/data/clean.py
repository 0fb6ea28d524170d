"""Cleaning: one rule, one small function or class; each keeps a document or drops it with a reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FunctionType

from danlu.data.unreadable import counted
from danlu.types import Document, Drop

Rule = Callable[[Document], Document | Drop]

EDITION = 3
"""Goes up with every change of what the rules keep or where passages are cut: `danlu prepare` then makes new shards."""

_START, _END = r"(?:<\|im_start\|>|<s>)", r"(?:<\|im_end\|>|</s>)"
_SPACE = r"(?<!\s)\s*"  # from where white space begins only, or a long run of it would take quadratic time
_INNER_TURN = re.compile(rf"{_SPACE}{_END}\s*{_START}\s*")
_BETWEEN_TURNS = re.compile(rf"{_END}\s*{_START}\s*")  # the same without space before it: found six times as fast
_FIRST_TURN = re.compile(rf"\A(?:\s*{_START})+\s*")
_LAST = ("<|im_end|>", "</s>")
_NEWLINES = re.compile("\r\n|\r|\u2028|\u2029|\x85|\x0b|\x0c")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\ufeff\ufffe\uffff\ud800-\udfff]")


@dataclass
class Counts:
    """What cleaning did: documents seen and kept, drops by reason, characters kept."""

    documents: int = 0
    kept: int = 0
    characters: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def account(
    documents: int, kept: int, dropped: Mapping[str, int], skipped: int, passages_of: int, skipped_files: int = 0
) -> str:
    """Say in one line what became of a corpus; `skipped` records were unreadable, `passages_of` documents were cut."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) or "none"
    return (
        f"{documents:,} documents, {kept:,} kept; dropped: {reasons}; "
        f"unreadable and passed over: {counted(skipped, skipped_files)}; long ones cut into passages: {passages_of:,}"
    )


def clean(documents: Iterable[Document], rules: Sequence[Rule], counts: Counts) -> Iterator[Document]:
    """Pass every document through the rules in order; yield what they keep and count what they drop."""
    for document in documents:
        counts.documents += 1
        answer: Document | Drop = document
        for rule in rules:
            answer = rule(answer)
            if isinstance(answer, Drop):
                counts.dropped[answer.reason] += 1
                break
        else:
            counts.kept += 1
            counts.characters += len(answer.text)
            yield answer


def describe(rule: Rule) -> str:
    """Return a rule's name in snake case: what a count or an example of its drops is filed under."""
    if isinstance(rule, FunctionType):
        return rule.__qualname__.partition(".")[0]
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(rule).__name__).lower()


def normalise_lines(document: Document) -> Document:
    """Make every line end a newline, drop control characters and lone surrogates, strip both ends."""
    text = _CONTROL.sub("", _NEWLINES.sub("\n", document.text)).strip()
    return document if text == document.text else replace(document, text=text)


def strip_wrappers(document: Document) -> Document:
    """Take off the `<s>…</s>` or `<|im_start|>…<|im_end|>` of `pretrain_hq`; an inner pair becomes a newline.

    Only a pair's own places count: such a mark alone amid a text is what the text is about, and stays.
    """
    if "<" not in document.text:
        return document
    text = _FIRST_TURN.sub("", document.text).strip()
    end = len(text)
    while text.endswith(_LAST, 0, end):
        end = text.rindex("<", 0, end)
        while end and text[end - 1].isspace():
            end -= 1
    turns = _BETWEEN_TURNS.split(text[:end])
    if not all(turns):  # marks with nothing between them share their white space
        return replace(document, text=_INNER_TURN.sub("\n", text[:end]).strip())
    return replace(document, text="\n".join(turn.rstrip() for turn in turns))


def at_least(characters: int) -> Rule:
    """Make a rule that drops what is empty or shorter than `characters`."""

    def rule(document: Document) -> Document | Drop:
        if not document.text:
            return Drop("empty")
        return document if len(document.text) >= characters else Drop("too_short")

    return rule


def default_rules(min_chars: int = 1) -> list[Rule]:
    """Return the rules that every corpus passes; deduplication comes after them."""
    return [normalise_lines, strip_wrappers, at_least(min_chars)]
