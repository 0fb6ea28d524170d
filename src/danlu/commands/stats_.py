"""`danlu stats`: what a corpus is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from danlu.commands import SourceOptions, finish
from danlu.configure import parse_flags

_BLOCKS = " ▏▎▍▌▋▊▉█"
_WIDTH = 36


@dataclass(frozen=True)
class Options(SourceOptions):
    """Count documents, characters, lengths, duplicates, kinds of characters and common openings.

    A duplicate is a text that has occurred before, white space aside.
    """

    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, `demo` or `demo-chat`"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, read once, print."""
    from danlu.data.stats import Stats

    options = parse_flags(Options, argv, "danlu stats")
    corpus, stats = options.corpus(options.sources), Stats()
    stats.add(corpus.track("reading"))
    result = stats.as_dict() | {
        "lines": corpus.lines,
        "mean_line_chars": corpus.line_characters / max(1, corpus.lines),
        "skipped": corpus.skipped,
    }
    return finish(result, _text(result), options.json)


def _text(result: dict[str, Any]) -> str:
    duplicates = result["duplicates"]
    rows = [
        ("documents", f"{result['documents']:,}"),
        ("characters", f"{result['characters']:,} ({result['mean_chars']:,.1f} a document)"),
        ("lines", f"{result['lines']:,} ({result['mean_line_chars']:,.2f} characters a stripped line)"),
        ("exact duplicates", f"{duplicates['count']:,} ({duplicates['share']:.1%}), white space aside"),
        ("skipped", f"{result['skipped']:,}"),
        ("characters are", "  ".join(f"{n} {s:.1%}" for n, s in result["character_classes"].items())),
        ("lengths", "  ".join(f"{name} {value:,}" for name, value in result["percentiles"].items())),
    ]
    most = max((b["documents"] for b in result["histogram"]), default=1)
    bars = [f"  ≤ {b['up_to']:>9,}  {_bar(b['documents'] / most)} {b['documents']:>9,}" for b in result["histogram"]]
    openings = [f"  {o['count']:>9,}  {o['opening']!r}" for o in result["common_openings"]]
    return "\n".join(
        [
            *(f"{name:<18}{value}" for name, value in rows),
            "documents by length in characters",
            *bars,
            *(["common first 12 characters", *openings] if openings else []),
        ]
    )


def _bar(share: float) -> str:
    eighths = round(share * _WIDTH * 8)
    return ("█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()).ljust(_WIDTH)
