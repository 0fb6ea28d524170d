"""The page as a whole: its head, its sections in order, the sample to leaf through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from danlu import storage
from danlu.data.characters import Kind, visible
from danlu.data.profile import OPENINGS, Profile
from danlu.data.report.pictures import bars, by_language, kinds, languages, lengths, openings, sources
from danlu.data.report.rules import changes, clusters, contamination, drops, repeats, text_of, words
from danlu.data.report.words import named, said
from danlu.data.stats import percentiles
from danlu.data.survey import Survey
from danlu.errors import OutputError
from danlu.pages.html import facts, fill, plain, short

_TOOK_MOST = 6


def require_place(path: Path) -> None:
    """Raise OutputError unless a page can be written to `path`: before hours are spent on what it is to show."""
    if path.suffix != ".html":
        raise OutputError(f"{path}: a report's name ends in .html")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise OutputError(f"{path}: {'is a folder' if path.is_dir() else 'its folder is not there'}. Name another file")


def write_report(
    survey: Mapping[str, Any], path: Path, title: str = "corpus", about: Mapping[str, Any] | None = None
) -> Path:
    """Write the page of what `Survey.as_dict` returned and return its path; `about` is shown as names and values.

    Raises OutputError where it cannot be written.
    """
    found = Survey.from_dict(survey)
    sections = {
        "What the rules dropped": drops(found),
        "What the rules changed": changes(found),
        "Near duplicates": clusters(found),
        "Repeated lines": repeats(found),
        "Found of evaluation texts": contamination(found),
        "Common openings": openings(found),
        "Lengths and characters": f'<div class="charts">{lengths(found)}{kinds(found)}{languages(found)}</div>',
        "Sources": sources(found),
        "A random sample": _samples(found),
        "How it was made": _about(about or {}),
    }
    shown = {name: body for name, body in sections.items() if body}
    parts = {
        "NAME": escape(visible(title)),
        "HERO": _hero(found),
        "CARDS": _cards(found),
        "NAV": "".join(f'<a href="#s{number}">{said(name)}</a>' for number, name in enumerate(shown)),
        "SECTIONS": "".join(
            f'<section id="s{number}"><h2>{said(name)}</h2>{body}</section>'
            for number, (name, body) in enumerate(shown.items())
        ),
        "OPENINGS": f"{OPENINGS:,}",
    }
    storage.write_text(path, fill("danlu.data.report", "page.html", parts))
    return path


def _hero(survey: Survey) -> str:
    came, stayed = survey.came, survey.stayed
    if not (survey.drops or stayed.documents):
        figure = (
            f"<strong>{short(came.characters)}</strong>{said('characters in {0} documents', f'{came.documents:,}')}"
        )
        drawn = f'<p class="note">{said("documents by language")}</p>{bars(by_language(survey))}'
        return f'<div class="figure">{figure}</div><div class="bars">{drawn}</div>'
    share = stayed.characters / max(1, came.characters)
    counts = said("{0} of {1} characters", f"{stayed.characters:,}", f"{came.characters:,}") + said(
        "{0} of {1} documents", f"{stayed.documents:,}", f"{came.documents:,}"
    )
    figure = f'<strong>{share:.1%}</strong>{said("of the characters stayed")}<p class="note">{counts}</p>'
    most = sorted(survey.drops.items(), key=lambda item: (-item[1].documents, item[0]))[:_TOOK_MOST]
    total = max(1, came.documents)
    rows = [(named(words(reason)), [tally.documents / total], f"{tally.documents:,}") for (_, reason), tally in most]
    heading = said("documents dropped, by reason" if rows else "nothing was dropped")
    drawn = f'<p class="note">{heading}</p>{bars(rows)}'
    return f'<div class="figure">{figure}</div><div class="bars">{drawn}</div>'


def _cards(survey: Survey) -> str:
    profile = survey.stayed if survey.stayed.documents else survey.came
    documents, characters = max(1, profile.documents), max(1, profile.characters)
    spread = percentiles(profile.lengths)
    han = sum(int(profile.kinds[kind]) for kind in (Kind.HAN, Kind.FUNCTION, Kind.GARBLED))
    figures = [
        (short(profile.documents), "documents that stayed" if profile is survey.stayed else "documents"),
        (short(profile.characters), "characters"),
        (f"{profile.characters / documents:,.0f}", "characters a document, mean"),
        (f"{spread.get('p50', 0):,}", "median"),
        (f"{spread.get('p99', 0):,}", "99 % are no longer"),
        (f"{han / characters:.1%}", "of the characters are Han"),
    ]
    return "".join(f"<div><b>{figure}</b>{said(name)}</div>" for figure, name in figures)


def _about(about: Mapping[str, Any]) -> str:
    return facts({visible(name): visible(plain(value)) for name, value in about.items()}) if about else ""


def _samples(survey: Survey) -> str:
    """Make the samples of what came and what stayed; the page's script shows one document at a time."""
    named = [("as they stayed", survey.stayed), ("as they came", survey.came)]
    return "".join(_sample(name, profile) for name, profile in named if profile.documents)


def _sample(name: str, profile: Profile) -> str:
    return f'<div class="sample"><h3>{said(name)}</h3>{_articles(profile.sample.entries())}</div>'


def _articles(entries: Iterable[tuple[Any, ...]]) -> str:
    return "".join(text_of(*entry[1:]) for entry in entries)
