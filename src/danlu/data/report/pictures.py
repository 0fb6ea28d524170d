"""Pictures of numbers as bars, what came above what stayed, and tables of what recurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from danlu.data.characters import Kind
from danlu.data.profile import LANGUAGES, Profile
from danlu.data.report.words import said
from danlu.data.stats import histogram
from danlu.data.survey import Survey

_KINDS = {
    Kind.HAN: "Han",
    Kind.FUNCTION: "Han, words of grammar",
    Kind.GARBLED: "Han, of wrong decoding",
    Kind.LATIN: "Latin",
    Kind.WIDE: "full-width letters, digits",
    Kind.LETTER: "other letters",
    Kind.DIGIT: "digits",
    Kind.SPACE: "space",
    Kind.PUNCTUATION: "punctuation",
    Kind.SYMBOL: "symbols",
    Kind.UPPER_LATIN: "Latin-1",
    Kind.BROKEN: "broken",
    Kind.MARK: "combining marks",
}
_COMMON = 20
_SOURCES = 100

Bar = tuple[str, Sequence[float], str]
"""A label as HTML, one share or two (what came, what stayed), and what is written beside."""


def bars(rows: Sequence[Bar]) -> str:
    """Draw shares, the largest as wide as there is room."""
    longest = max((share for _, shares, _ in rows for share in shares), default=0) or 1
    return "".join(
        f'<div class="bar"><span>{label}</span><div><u>'
        + "".join(f'<i style="width:{100 * share / longest:.2f}%"></i>' for share in shares)
        + f"</u><b>{escape(beside)}</b></div></div>"
        for label, shares, beside in rows
    )


def lengths(survey: Survey) -> str:
    """Draw documents by length, in bins that double."""
    found = [{b["up_to"]: b["documents"] for b in histogram(profile.lengths)} for profile in _profiles(survey)]
    ends = sorted(set().union(*found))
    totals = [max(1, profile.documents) for profile in _profiles(survey)]
    rows = [
        (
            f"{end:,}",
            [counts.get(end, 0) / totals[0] for counts in found],
            " → ".join(f"{counts.get(end, 0):,}" for counts in found),
        )
        for end in ends
    ]
    return _figure(survey, "Documents by length", "at most so many characters", rows)


def kinds(survey: Survey) -> str:
    """Draw the shares of the kinds of characters, the most frequent first."""
    shares = [profile.kinds / max(1, int(profile.kinds.sum())) for profile in _profiles(survey)]
    rows = _shares([(said(name), [share[kind] for share in shares]) for kind, name in _KINDS.items()])
    return _figure(survey, "Kinds of characters", "share of all", rows)


def languages(survey: Survey) -> str:
    """Draw documents by language; of a corpus that was not cleaned the head of the page does."""
    both = survey.stayed.documents or survey.drops
    return _figure(survey, "Languages", "share of the documents", by_language(survey)) if both else ""


def by_language(survey: Survey) -> list[Bar]:
    """Return the shares of documents by language."""
    shares = [profile.languages[:, 0] / max(1, profile.documents) for profile in _profiles(survey)]
    return _shares([(said(name), [share[at] for share in shares]) for at, name in enumerate(LANGUAGES)])


def openings(survey: Survey) -> str:
    """Show the most common first characters."""
    named = [("Documents as they stayed", survey.stayed), ("Documents as they came", survey.came)]
    figures = "".join(
        recurring(name, [text for _, text in profile.openings.entries()], profile.documents)
        for name, profile in named
        if profile.documents
    )
    return f'<div class="charts">{figures}</div>'


def recurring(title: str, texts: Sequence[str], total: int) -> str:
    """Show the most frequent of texts that stand for `total` of them."""
    counted = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    common = [(text, count) for text, count in counted[:_COMMON] if count > 1]
    sampled = len(texts) < total
    about = [f"{'≈ ' if sampled else ''}{round(count * total / len(texts)):,}" for _, count in common]
    rows = [(text.replace("\n", "↵"), [count / len(texts)]) for text, count in common]
    beside = [f"{number} · {shares[0]:.2%}" for number, (_, shares) in zip(about, rows, strict=True)]
    drawn = bars([(escape(text), shares, figures) for (text, shares), figures in zip(rows, beside, strict=True)])
    drawn = drawn or f'<p class="note">{said("none occurs twice")}</p>'
    counted_in = said("counted in {0} of {1}, chosen by hash", f"{len(texts):,}", f"{total:,}") if sampled else ""
    return f'<figure class="panel texts">{_caption(said(title), counted_in)}{drawn}</figure>'


def sources(survey: Survey) -> str:
    """Show documents and characters of every source, and their shares."""
    came, stayed = survey.came, survey.stayed
    names = sorted(came.sources.keys() | stayed.sources.keys(), key=lambda name: (-_counts(came, name)[1], name))
    rows = [_source(survey, escape(name), [name]) for name in names[:_SOURCES]]
    if len(names) > _SOURCES:
        rows.append(_source(survey, said("{0} more", f"{len(names) - _SOURCES:,}"), names[_SOURCES:]))
    out = ["documents stayed", "characters stayed", "share", "stayed"] if stayed.documents else []
    return table(["source", "documents", "characters", "share", *out], rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table of names and figures, of HTML; each cell says its head, too, for windows too narrow for columns."""
    named = [said(head) for head in heads]
    head = "".join(f"<th>{name}</th>" for name in named)
    body = "".join(
        "<tr>"
        + "".join(f"<td><small>{name}</small> {cell}</td>" for name, cell in zip(named, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _source(survey: Survey, label: str, names: Sequence[str]) -> list[str]:
    documents, characters = _sum(survey.came, names)
    row = [label, f"{documents:,}", f"{characters:,}", f"{characters / max(1, survey.came.characters):.2%}"]
    if survey.stayed.documents:
        left, kept = _sum(survey.stayed, names)
        share = kept / max(1, survey.stayed.characters)
        row += [f"{left:,}", f"{kept:,}", f"{share:.2%}", f"{kept / max(1, characters):.1%}"]
    return row


def _sum(profile: Profile, names: Iterable[str]) -> tuple[int, int]:
    counts = [_counts(profile, name) for name in names]
    return sum(documents for documents, _ in counts), sum(characters for _, characters in counts)


def _counts(profile: Profile, name: str) -> Sequence[int]:
    return profile.sources.get(name, (0, 0))


def _profiles(survey: Survey) -> list[Profile]:
    return [survey.came, survey.stayed] if survey.stayed.documents else [survey.came]


def _shares(rows: Iterable[tuple[str, Sequence[float]]]) -> list[Bar]:
    """Order by share, leave out what there is none of, and write the shares beside."""
    present = sorted((row for row in rows if any(row[1])), key=lambda row: -row[1][0])
    return [(name, shares, " → ".join(f"{share:.2%}" for share in shares)) for name, shares in present]


def _figure(survey: Survey, title: str, unit: str, rows: Sequence[Bar]) -> str:
    key = f'<p class="key"><i></i>{said("came")}<i></i>{said("stayed")}</p>'
    both = key if survey.stayed.documents else ""
    return f'<figure class="panel">{_caption(said(title), said(unit))}{both}{bars(rows)}</figure>'


def _caption(title: str, more: str) -> str:
    return f"<figcaption>{title} <small>{more}</small></figcaption>"
