"""The part of `danlu stats` that is of conversations: what they are, and how the chat template renders them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from danlu.commands import required
from danlu.data.chat import Conversation, Conversations
from danlu.data.chat_stats import ChatStats
from danlu.data.report import write_report
from danlu.data.sources import Corpus
from danlu.data.survey import Survey
from danlu.errors import ConfigError, DataError, TokenizerError

if TYPE_CHECKING:
    from danlu.commands.stats_ import Options
    from danlu.data.template import ChatTemplate

Stretches = list[tuple[str, bool]]
_SIDES = (", chosen", ", rejected")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def stats_of_conversations(options: Options) -> tuple[dict[str, Any], str]:
    """Show some if asked, read all once; return the figures, and the text that says them."""
    template, context = _template(options)
    if template is not None and options.show:
        _show(options, template)
    survey = Survey()
    corpus = Corpus(options.sources, text_key=None, skip_bad=options.skip_bad)
    stats = ChatStats(template, context, None if options.report is None else survey)
    stats.add(corpus.track("reading"))
    result = stats.as_dict() | {"skipped": corpus.skipped, "report": options.report and str(options.report)}
    if options.report is not None:
        write_report(survey.as_dict(), options.report, " ".join(options.sources), dict(_rows(result)))
    return result, _text(result)


def _template(options: Options) -> tuple[ChatTemplate | None, int | None]:
    """Return the chat template, and the context to compare with, where they are known."""
    if options.show < 0 or (options.context is not None and options.context < 1):
        raise ConfigError("--show and --context: give 1 or more")
    if options.tokenizer is None and options.context is None and not options.show:
        return None, None
    from danlu.checkpoint import context_of, load_tokenizer
    from danlu.data.template import ChatTemplate

    folder = required(options.tokenizer, "--tokenizer", "--show and --context need one with a chat template")
    return ChatTemplate(load_tokenizer(folder)), options.context or context_of(folder)


def _show(options: Options, template: ChatTemplate) -> None:
    """Print conversations, the scored words in colour; where none can be seen, between ⟦ and ⟧."""
    console = Console(highlight=False)
    in_colour = console.is_terminal and not console.no_color
    for sides in islice(_rendered(options, template), options.show):
        for title, stretches in sides:
            print(f"── {title}")
            shown = [(_visible(text), is_scored) for text, is_scored in stretches]
            if in_colour:
                parts = [(text, "bold green" if is_scored else "dim") for text, is_scored in shown]
                console.print(Text.assemble(*parts), soft_wrap=True)
            else:
                print("".join(f"⟦{text}⟧" if is_scored else text for text, is_scored in shown))


def _rendered(options: Options, template: ChatTemplate) -> Iterator[list[tuple[str, Stretches]]]:
    """Yield each record's sides, a title and stretches; what is refused is passed over, as it is counted later."""
    for record in Conversations(Corpus(options.sources, text_key=None, skip_bad=True)):
        names = ("",) if isinstance(record, Conversation) else _SIDES
        try:
            sides = [list(template.stretches(side)) for side in template.encode_sides(record)]
        except (DataError, TokenizerError):
            continue
        yield [(f"{record.source}, record {record.id}{n}", side) for n, side in zip(names, sides, strict=True)]


def _visible(text: str) -> str:
    """Return a text that moves no cursor: control characters besides tabs and line ends as escapes."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    refused = "  ".join(f"{reason} {count:,}" for reason, count in result["refused"].items() if count)
    first = f", the first: {result['first_refused']}" if result["first_refused"] else ""
    return [
        ("conversations", f"{result['conversations']:,}"),
        ("preferences", f"{result['preferences']:,}"),
        ("refused", f"{refused or 0}{first}"),
        ("skipped", f"{result['skipped']:,}"),
        ("turns", _spread(result["turns"])),
        ("question characters", _spread(result["question_chars"])),
        ("answer characters", _spread(result["answer_chars"])),
        ("system message", _part(result["with_system"])),
        ("exact duplicates", f"{_part(result['duplicates'])}, white space aside"),
        ("repeated question", f"{_part(result['question_duplicates'])}, the first of a conversation"),
        *(_token_rows(result["tokens"]) if "tokens" in result else []),
    ]


def _text(result: dict[str, Any]) -> str:
    openings = [f"  {o['count']:>9,}  {o['opening']!r}" for o in result["common_openings"]]
    return "\n".join(
        [
            *(f"{name:<21}{value}" for name, value in _rows(result)),
            *(["common first 12 characters of answers", *openings] if openings else []),
            *([f"report written to {result['report']}"] if result["report"] else []),
        ]
    )


def _token_rows(tokens: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "tokens", f"{tokens['total']:,}: {_spread(tokens)}"
    yield "scored tokens", _part(tokens["scored"])
    if "too_long" in tokens:
        yield "too long", f"{_part(tokens['too_long'])}, for a context of {tokens['context']:,}"


def _spread(values: dict[str, Any]) -> str:
    percentiles = "  ".join(f"{name} {value:,}" for name, value in values["percentiles"].items())
    return f"mean {values['mean']:,.1f}  {percentiles}"


def _part(part: dict[str, Any]) -> str:
    return f"{part['count']:,} ({part['share']:.1%})"
