"""The sections of what cleaning took: each rule with its examples, clusters, lines, evaluation texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from html import escape
from typing import Any

from danlu.data.characters import visible
from danlu.data.difference import Difference, marked
from danlu.data.profile import SHOWN_CHARACTERS
from danlu.data.report.pictures import bars, recurring
from danlu.data.survey import Survey, Tally
from danlu.pages.html import table

_MOST = 50
_BEGINNING = 30
_TAGS = {"same": "span", "gone": "del", "new": "ins"}


def drops(survey: Survey) -> str:
    """Show every rule that dropped documents, the busiest first, with its examples."""
    total = max(1, survey.came.documents)
    shown = sorted(survey.drops.items(), key=lambda item: (-item[1].documents, item[0]))
    return "".join(
        _details(
            words(reason),
            words(rule) if rule != reason else "",
            tally.documents / total,
            f"{tally.documents:,} documents · {tally.taken:,} characters",
            "".join(text_of(*entry[1:]) for entry in tally.examples.entries()),
        )
        for (rule, reason), tally in shown
    )


def changes(survey: Survey) -> str:
    """Show every rule that altered texts, the busiest first, and what it did to its examples."""
    total = max(1, survey.came.documents)
    shown = sorted(survey.changes.items(), key=lambda item: (-item[1].documents, item[0]))
    return "".join(
        _details(
            words(rule),
            "",
            tally.documents / total,
            f"{tally.documents:,} documents · {_lengths(tally)}",
            "".join(_change(*entry[1:]) for entry in tally.examples.entries()),
        )
        for rule, tally in shown
    )


def clusters(survey: Survey) -> str:
    """Show how large clusters of near duplicates are, and texts of the largest."""
    sizes = survey.cluster_sizes
    if not sizes:
        return ""
    documents = sum(size * count for size, count in sizes.items())
    note = f"{sizes.total():,} clusters, {documents:,} documents in all; their sizes and how many there are of each:"
    bins: Counter[int] = Counter()
    for size, count in sizes.items():
        bins[(size - 1).bit_length()] += count
    rows = [(_sizes(b), [bins[b] / sizes.total()], f"{bins[b]:,}") for b in sorted(bins)]
    shown = sorted(survey.shown_clusters.items(), key=lambda item: (-item[1], item[0]))
    texts = "".join(
        _details(
            f"{size:,} documents",
            _begins(survey, cluster),
            size / max(1, survey.came.documents),
            "",
            _members(survey, cluster),
        )
        for cluster, size in shown
        if cluster in survey.members
    )
    return f'<p class="note">{note}</p><figure class="panel">{bars(rows)}</figure>{texts}'


def repeats(survey: Survey) -> str:
    """Show the most frequent of the lines that were cut as repeated."""
    counts = survey.repeated
    if not counts["lines"]:
        return ""
    note = f"{counts['lines']:,} lines of {counts['documents']:,} documents, {counts['characters']:,} characters"
    lines = recurring("The most frequent", [line for _, line in survey.lines.entries()], counts["lines"])
    return f'<p class="note">{note}</p>{lines}'


def contamination(survey: Survey) -> str:
    """Show which evaluation texts were found in how many documents."""
    found = survey.contaminated
    if not found:
        return ""
    most = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    more = len(most) - _MOST
    note = f'<p class="note">and {more:,} more</p>' if more > 0 else ""
    return table(["evaluation text", "documents"], [[text, f"{count:,}"] for text, count in most[:_MOST]]) + note


def text_of(source: str, name: str, characters: int, text: str) -> str:
    """Make a document's text, under where it is from."""
    cut = '<span class="note">…</span>' if characters > SHOWN_CHARACTERS else ""
    return _article(source, name, f"{characters:,} characters", escape(text) + cut)


def _change(source: str, name: str, *fields: Any) -> str:
    found = Difference(*fields)
    body = "".join(_marked(mark, text) for mark, text in marked(found))
    return _article(source, name, f"from character {found.start + 1:,}", body)


def _marked(mark: str, text: str) -> str:
    if mark != "same":
        text = text.replace("\n", "↵\n").replace("\t", "⇥\t")
        text = text if text.strip(" \u3000") else text.replace(" ", "␣").replace("\u3000", "□")
    return f"<{_TAGS[mark]}>{escape(text)}</{_TAGS[mark]}>" if text else ""


def _article(source: str, name: str, about: str, body: str) -> str:
    head = f"<b>{escape(source)}</b> {escape(name)} · {about}"
    return f'<article><p class="note">{head}</p><p class="text" dir="auto">{body}</p></article>'


def _details(name: str, more: str, share: float, counts: str, body: str) -> str:
    beside = f" <small>{escape(more)}</small>" if more else ""
    figures = f'<span class="counts">{counts} <b>{share:.2%}</b></span>'
    meter = f'<i class="meter" style="width:{100 * min(1, share):.2f}%"></i>'
    return f"<details><summary><span>{escape(name)}{beside}</span>{figures}{meter}</summary>{body}</details>"


def _lengths(tally: Tally) -> str:
    said: Iterable[str] = (
        f"{count:,} characters {word}" for count, word in ((tally.taken, "less"), (tally.given, "more")) if count
    )
    return ", ".join(said) or "as long as before"


def _members(survey: Survey, cluster: int) -> str:
    return "".join(text_of(*entry[1:]) for entry in survey.members[cluster].entries())


def _begins(survey: Survey, cluster: int) -> str:
    """Return how the texts of a cluster begin."""
    return str(survey.members[cluster].entries()[0][4])[:_BEGINNING]


def _sizes(bits: int) -> str:
    least, most = (1 << bits >> 1) + 1, 1 << bits
    return f"{least:,} documents" if least == most else f"{least:,} to {most:,} documents"


def words(name: str) -> str:
    """Write a rule's or a reason's name as words."""
    return visible(name.replace("_", " "))
