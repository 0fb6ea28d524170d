"""The sections of what cleaning took: each rule with its examples, clusters, lines, evaluation texts."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

from danlu.data.characters import visible
from danlu.data.difference import Difference, marked
from danlu.data.profile import SHOWN_CHARACTERS
from danlu.data.report.pictures import bars, recurring, table
from danlu.data.report.words import named, said
from danlu.data.survey import STAYED, Survey, Tally

_MOST = 50
_BEGINNING = 30
_TAGS = {"same": "span", "gone": "del", "new": "ins"}


def drops(survey: Survey) -> str:
    """Show every rule that dropped documents, the busiest first, with its examples."""
    total = max(1, survey.came.documents)
    shown = sorted(survey.drops.items(), key=lambda item: (-item[1].documents, item[0]))
    return "".join(
        _details(
            named(words(reason)),
            said("rule: {0}", words(rule)) if rule != reason else "",
            tally.documents / total,
            _counts("documents · {1} characters", tally.documents, f"{tally.taken:,}"),
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
            named(words(rule)),
            "",
            tally.documents / total,
            _lengths(tally),
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
    note = _counts("clusters, {1} documents in all; clusters by size:", sizes.total(), f"{documents:,}")
    bins: Counter[int] = Counter()
    for size, count in sizes.items():
        bins[(size - 1).bit_length()] += count
    rows = [(_sizes(b), [bins[b] / sizes.total()], f"{bins[b]:,}") for b in sorted(bins)]
    shown = sorted(survey.shown_clusters.items(), key=lambda item: (-item[1], item[0]))
    texts = "".join(
        _details(
            said("{0} documents", f"{size:,}"),
            escape(_begins(survey, cluster)),
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
    found = [f"{counts[name]:,}" for name in ("lines", "documents", "characters")]
    note = said("{0} lines of {1} documents, {2} characters", *found)
    lines = recurring("The most frequent", [line for _, line in survey.lines.entries()], counts["lines"])
    return f'<p class="note">{note}</p>{lines}'


def contamination(survey: Survey) -> str:
    """Show which evaluation texts were found in how many documents."""
    found = survey.contaminated
    if not found:
        return ""
    most = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    more = len(most) - _MOST
    note = f'<p class="note">{said("and {0} more", f"{more:,}")}</p>' if more > 0 else ""
    return (
        table(["evaluation text", "documents"], [[escape(text), f"{count:,}"] for text, count in most[:_MOST]]) + note
    )


def text_of(source: str, name: str, characters: int, text: str, tag: str = "") -> str:
    """Make a document's text, under where it is from and a tag, which is HTML."""
    cut = '<span class="note">…</span>' if characters > SHOWN_CHARACTERS else ""
    return _article(source, name, said("{0} characters", f"{characters:,}") + tag, escape(text) + cut)


def _change(source: str, name: str, *fields: Any) -> str:
    found = Difference(*fields)
    body = "".join(_marked(mark, text) for mark, text in marked(found))
    return _article(source, name, said("from character {0}", f"{found.start + 1:,}"), body)


def _marked(mark: str, text: str) -> str:
    if mark != "same":
        text = text.replace("\n", "↵\n").replace("\t", "⇥\t")
        text = text if text.strip(" \u3000") else text.replace(" ", "␣").replace("\u3000", "□")
    return f"<{_TAGS[mark]}>{escape(text)}</{_TAGS[mark]}>" if text else ""


def _article(source: str, name: str, about: str, body: str) -> str:
    head = f"<b>{escape(source)}</b> {escape(name)} · {about}"
    return f'<article><p class="note">{head}</p><p class="text" dir="auto">{body}</p></article>'


def _details(name: str, more: str, share: float, counts: str, body: str) -> str:
    beside = f" <small>{more}</small>" if more else ""
    figures = f'<span class="counts">{counts} <b>{share:.2%}</b></span>'
    meter = f'<i class="meter" style="width:{100 * min(1, share):.2f}%"></i>'
    return f"<details><summary><span>{name}{beside}</span>{figures}{meter}</summary>{body}</details>"


def _lengths(tally: Tally) -> str:
    if tally.taken and tally.given:
        sizes = [f"{count:,}" for count in (tally.documents, tally.taken, tally.given)]
        return said("{0} documents · {1} characters less, {2} more", *sizes)
    if not tally.taken and not tally.given:
        return said("{0} documents · as long as before", f"{tally.documents:,}")
    kind = "less" if tally.taken else "more"
    return said(f"{{0}} documents · {{1}} characters {kind}", f"{tally.documents:,}", f"{tally.taken or tally.given:,}")


def _members(survey: Survey, cluster: int) -> str:
    entries = survey.members[cluster].entries()
    known = any(key == STAYED for key, *_ in entries)
    tags = {True: said("this one stayed"), False: said("dropped for it")}
    return "".join(
        text_of(*entry, tag=f' · <b class="fate">{tags[key == STAYED]}</b>' if known else "") for key, *entry in entries
    )


def _begins(survey: Survey, cluster: int) -> str:
    """Return how the texts of a cluster begin."""
    return str(survey.members[cluster].entries()[0][4])[:_BEGINNING]


def _sizes(bits: int) -> str:
    least, most = (1 << bits >> 1) + 1, 1 << bits
    return said("{0} documents" if least == most else "{0} to {1} documents", f"{least:,}", f"{most:,}")


def _counts(what: str, number: int, *more: str) -> str:
    """Say of how many things something is; of one, `WORDS` has a form of its own."""
    single = what.replace("documents ·", "document ·").replace("clusters,", "cluster,")
    return said(f"1 {single}" if number == 1 else f"{{0}} {what}", f"{number:,}", *more)


def words(name: str) -> str:
    """Write a rule's or a reason's name as words."""
    return visible(name.replace("_", " "))
