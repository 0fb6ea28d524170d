"""`danlu stats`: what a corpus is, of text or of conversations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from danlu.commands import SourceOptions, finish
from danlu.configure import parse_flags
from danlu.errors import ConfigError

_BLOCKS = " ▏▎▍▌▋▊▉█"
_WIDTH = 36
_ABOUT = ("duplicates", "lines", "mean_line_chars", "skipped", "percentiles", "revisions")


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
    """of text, write a page, too: lengths, characters, languages, sources, openings and a sample to leaf through (.html)"""
    show: int = 0
    """print the first so many conversations as the chat template renders them, the scored words marked"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, read once, print."""
    from danlu.commands.stats_chat import stats_of_conversations
    from danlu.data.chat import holds_conversations

    options = parse_flags(Options, argv, "danlu stats")
    if holds_conversations(options.sources, options.text_key):
        if options.report is not None:
            raise ConfigError(f"--report is of text; {options.sources[0]} holds conversations")
        result, text = stats_of_conversations(options)
        return finish(result, text, options.json)
    if options.tokenizer is not None or options.context is not None or options.show:
        raise ConfigError(f"--tokenizer, --context and --show are for conversations; {options.sources[0]} holds text")
    result = _stats_of_text(options)
    return finish(result, _text(result), options.json)


def _stats_of_text(options: Options) -> dict[str, Any]:
    """Read all once; write the report, if one is asked for."""
    from danlu.data.report import require_place, write_report
    from danlu.data.stats import Stats
    from danlu.data.survey import Survey

    if options.report is not None:
        require_place(options.report)
    corpus, stats, survey = options.corpus(options.sources), Stats(), Survey()
    documents = corpus.track("reading")
    stats.add(documents if options.report is None else survey.reading(documents))
    result = stats.as_dict() | {
        "lines": corpus.lines,
        "mean_line_chars": corpus.line_characters / max(1, corpus.lines),
        "skipped": corpus.skipped,
        "revisions": corpus.revisions,
        "report": None if options.report is None else str(options.report),
    }
    if options.report is not None:
        write_report(survey.as_dict(), options.report, " ".join(options.sources), {k: result[k] for k in _ABOUT})
    return result


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
    written = [f"report written to {result['report']}"] if result["report"] else []
    return "\n".join(
        [
            *(f"{name:<18}{value}" for name, value in rows),
            "documents by length in characters",
            *bars,
            *(["common first 12 characters", *openings] if openings else []),
            *written,
        ]
    )


def _bar(share: float) -> str:
    eighths = round(share * _WIDTH * 8)
    return ("█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()).ljust(_WIDTH)
