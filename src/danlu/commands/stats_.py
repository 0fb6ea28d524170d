"""`danlu stats`: what a corpus is, of text or of conversations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from danlu.commands import SourceOptions, finish
from danlu.configure import parse_flags
from danlu.data.unreadable import counted
from danlu.errors import ConfigError

_BLOCKS = " ▏▎▍▌▋▊▉█"
_WIDTH = 36


@dataclass(frozen=True)
class Options(SourceOptions):
    """Count documents, characters, lengths, duplicates, kinds of characters and common openings.

    A duplicate is a text that has occurred before, white space aside. Of conversations and preferences: turns, lengths
    of questions and answers, duplicates, common openings of answers, and records that cannot be learned from.
    """

    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, `demo`, `demo-chat`, sets on a hub (danlu fetch --help) or names of `danlu corpora`"""
    tokenizer: Path | None = None
    """of conversations, count tokens too, by its chat template: tokenizer folder, checkpoint or run folder"""
    context: int | None = None
    """count conversations longer than so many tokens; by default the checkpoint's own context"""
    report: Path | None = None
    """write a page (.html), too: lengths, characters, languages, sources, openings, a sample to leaf through"""
    show: int = 0
    """print the first so many conversations as the chat template renders them, the scored words marked"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, read once, print."""
    from danlu.commands.stats_chat import stats_of_conversations
    from danlu.data.chat import holds_conversations
    from danlu.data.report import require_place

    options = parse_flags(Options, argv, "danlu stats")
    if options.report is not None:
        require_place(options.report)
    if holds_conversations(options.sources, options.text_key):
        return finish(*stats_of_conversations(options), options.json)
    if options.tokenizer is not None or options.context is not None or options.show:
        raise ConfigError(f"--tokenizer, --context and --show are for conversations; {options.sources[0]} holds text")
    result = _stats_of_text(options)
    return finish(result, _text(result), options.json)


def _stats_of_text(options: Options) -> dict[str, Any]:
    """Read all once; write the report, if one is asked for."""
    from danlu.data.report import write_report
    from danlu.data.stats import Stats
    from danlu.data.survey import Survey

    corpus, stats, survey = options.corpus(options.sources), Stats(), Survey()
    documents = corpus.track("reading")
    stats.add(documents if options.report is None else survey.reading(documents))
    result = stats.as_dict() | {
        "lines": corpus.lines,
        "mean_line_chars": corpus.line_characters / max(1, corpus.lines),
        "skipped": corpus.skipped,
        "skipped_files": len(corpus.skipped_files),
        "revisions": corpus.revisions,
        "report": options.report and str(options.report),
    }
    if options.report is not None:
        write_report(
            survey.as_dict(), options.report, " ".join(options.sources), dict(_rows(result)) | corpus.revisions
        )
    return result


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    duplicates = result["duplicates"]
    return [
        ("documents", f"{result['documents']:,}"),
        ("characters", f"{result['characters']:,} ({result['mean_chars']:,.1f} a document)"),
        (
            "lines of files",
            f"{result['lines']:,} ({result['mean_line_chars']:,.2f} characters each, JSON's signs too)",
        ),
        ("exact duplicates", f"{duplicates['count']:,} ({duplicates['share']:.1%}), white space aside"),
        ("skipped", counted(result["skipped"], result["skipped_files"])),
        ("characters are", "  ".join(f"{n} {s:.1%}" for n, s in result["character_classes"].items())),
        ("lengths", "  ".join(f"{name} {value:,}" for name, value in result["percentiles"].items())),
    ]


def _text(result: dict[str, Any]) -> str:
    most = max((b["documents"] for b in result["histogram"]), default=1)
    bars = [f"  ≤ {b['up_to']:>9,}  {_bar(b['documents'] / most)} {b['documents']:>9,}" for b in result["histogram"]]
    openings = [f"  {o['count']:>9,}  {o['opening']!r}" for o in result["common_openings"]]
    return "\n".join(
        [
            *(f"{name:<18}{value}" for name, value in _rows(result)),
            "documents by length in characters",
            *bars,
            *(["common first 12 characters", *openings] if openings else []),
            *([f"report written to {result['report']}"] if result["report"] else []),
        ]
    )


def _bar(share: float) -> str:
    eighths = round(share * _WIDTH * 8)
    return ("█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()).ljust(_WIDTH)
