"""What conversations are, in one pass: turns, lengths, copies, common openings of answers, what is refused; tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from danlu.data.chat import BadRecord, Conversation, Preference, Refusal, first_question, parse, words
from danlu.data.dedup import ExactDedup
from danlu.data.stats import Openings, part, percentiles
from danlu.data.survey import Survey
from danlu.data.template import ChatTemplate, Encoded
from danlu.errors import DataError, TokenizerError
from danlu.types import Document

NOT_ENCODED = "not_encoded"


@dataclass
class ChatStats:
    """Counts over a stream of whole records (a corpus with `text_key=None`); with a template, tokens too.

    A record that cannot be learned from is counted under its reason, and nowhere else. Turns and tokens are of whole
    conversations, of which a preference is two; questions and answers are counted once each.

    Memory: as `Stats`, with 24 to 48 bytes for each different record.
    """

    template: ChatTemplate | None = None
    context: int | None = None
    survey: Survey | None = None
    """Reads all that is said in a record as one text, where it is given."""
    kinds: Counter[type] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    first_refused: str | None = None
    with_system: int = 0
    copies: int = 0
    question_copies: int = 0
    openings: Openings = field(default_factory=Openings)
    _turns: Counter[int] = field(default_factory=Counter)
    _chars: dict[str, Counter[int]] = field(default_factory=lambda: {"user": Counter(), "assistant": Counter()})
    _tokens: Counter[int] = field(default_factory=Counter)
    _scored: int = 0
    _dedup: ExactDedup = field(default_factory=ExactDedup)
    _question_dedup: ExactDedup = field(default_factory=ExactDedup)

    def add(self, documents: Iterable[Document]) -> None:
        """Count every record."""
        for document in documents:
            try:
                record = parse(document.meta, document.source, document.id)
                encoded = self.template.encode_sides(record) if self.template else []
            except (DataError, TokenizerError) as error:
                self.refused[error.reason if isinstance(error, BadRecord) else NOT_ENCODED] += 1
                self.first_refused = self.first_refused or f"{document.source}, record {document.id}: {error}"
            else:
                self._count(record)
                self._count_tokens(encoded)
                if self.survey is not None:
                    said = "\n\n".join(message.content for message in record.said)
                    self.survey.read(replace(document, text=said, meta={}))

    def _count(self, record: Conversation | Preference) -> None:
        self.kinds[type(record)] += 1
        self.with_system += record.said[0].role == "system"
        self.copies += not self._dedup.is_new(words(record.said))
        self.question_copies += not self._question_dedup.is_new(first_question(record.said))
        for side in record.sides:
            self._turns[sum(message.role != "system" for message in side)] += 1
        for message in record.said:
            if message.role in self._chars:
                self._chars[message.role][len(message.content)] += 1
            if message.role == "assistant":
                self.openings.add(message.content)

    def _count_tokens(self, encoded: list[Encoded]) -> None:
        for side in encoded:
            self._tokens[len(side.ids)] += 1
            self._scored += sum(side.scored)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; `tokens` is there with a template only."""
        records = self.kinds.total()
        first = self.first_refused  # a lone surrogate in it cannot be printed
        return {
            "conversations": self.kinds[Conversation],
            "preferences": self.kinds[Preference],
            "refused": {reason: self.refused[reason] for reason in (*get_args(Refusal), NOT_ENCODED)},
            "first_refused": None if first is None else first.encode("utf-8", "replace").decode(),
            "turns": _spread(self._turns),
            "question_chars": _spread(self._chars["user"]),
            "answer_chars": _spread(self._chars["assistant"]),
            "with_system": part(self.with_system, records),
            "duplicates": part(self.copies, records),
            "question_duplicates": part(self.question_copies, records),
            "common_openings": self.openings.common(),
            **({"tokens": self._token_counts()} if self.template else {}),
        }

    def _token_counts(self) -> dict[str, Any]:
        """Count tokens; what fits is no longer than the context and the token that is predicted last."""
        found = _spread(self._tokens) | {"scored": part(self._scored, _sum(self._tokens))}
        if self.context is not None:
            longer = sum(count for length, count in self._tokens.items() if length > self.context + 1)
            found |= {"context": self.context, "too_long": part(longer, self._tokens.total())}
        return found


def _spread(values: Counter[int]) -> dict[str, Any]:
    total = _sum(values)
    return {"total": total, "mean": total / max(1, values.total()), "percentiles": percentiles(values)}


def _sum(values: Counter[int]) -> int:
    return sum(value * count for value, count in values.items())
