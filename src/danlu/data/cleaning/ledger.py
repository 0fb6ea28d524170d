"""What cleaning did to a corpus or a part of it: counts, and with a report the survey behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu import storage
from danlu.data.clean import Counts, Rule, describe
from danlu.data.cleaning.records import line_of
from danlu.data.contamination import Contamination
from danlu.data.survey import Survey
from danlu.errors import DataError
from danlu.types import Document, Drop


@dataclass
class Ledger(Counts):
    """Also which documents were altered (by rule), and a survey; sums of parts are the whole's."""

    changed: Counter[str] = field(default_factory=Counter)
    survey: Survey | None = None

    @classmethod
    def new(cls, report: bool) -> Ledger:
        """Return an empty one, with a survey if there is to be a report."""
        return cls(survey=Survey() if report else None)

    def pass_through(self, document: Document, rules: Sequence[Rule]) -> Document | None:
        """Return what the rules make of a document; None where one of them drops it."""
        for rule in rules:
            answer = rule(document)
            if answer is document:
                continue
            if isinstance(answer, Drop):
                self.drop(document, answer.reason, describe(rule))
                return None
            if answer.text != document.text:
                self._change(document, answer, describe(rule))
            document = answer
        return document

    def come(self, document: Document) -> None:
        """Count a document that came in."""
        self.documents += 1
        if self.survey is not None:
            self.survey.read(document)

    def keep(self, document: Document) -> None:
        """Count a document that stays."""
        self.kept += 1
        self.characters += len(document.text)
        if self.survey is not None:
            self.survey.kept(document)

    def drop(self, document: Document, reason: str, rule: str) -> None:
        """Count a document that goes."""
        self.dropped[reason] += 1
        if self.survey is not None:
            self.survey.dropped(document, reason, rule)

    def _change(self, before: Document, after: Document, rule: str) -> None:
        self.changed[rule] += 1
        if self.survey is not None:
            self.survey.changed(before, after, rule)

    def contaminate(self, rule: Contamination) -> None:
        """Note which evaluation texts a rule has found since this was last done."""
        if self.survey is not None:
            self.survey.contamination({rule.openings[number]: count for number, count in rule.found.items()})
        rule.found.clear()

    def merge(self, other: Ledger) -> None:
        """Add another part's."""
        self.documents += other.documents
        self.kept += other.kept
        self.characters += other.characters
        self.dropped += other.dropped
        self.changed += other.changed
        if self.survey is not None and other.survey is not None:
            self.survey.merge(other.survey)

    def counts(self) -> dict[str, Any]:
        """Return the counts; reasons and rules in an order that depends on nothing but them."""
        return {
            "documents": self.documents,
            "kept": self.kept,
            "characters": self.characters,
            "dropped": _ordered(self.dropped),
            "changed": _ordered(self.changed),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {**self.counts(), "survey": None if self.survey is None else self.survey.as_dict()}

    def write(self, path: Path) -> None:
        """Write all of it; `read` gives it back."""
        path.write_bytes(line_of(self.as_dict()))

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read what `write` wrote."""
        return cls.from_dict(storage.read_json(path, DataError))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ledger:
        """Return what `as_dict` was made of."""
        survey = None if values["survey"] is None else Survey.from_dict(values["survey"])
        dropped, changed = Counter(values["dropped"]), Counter(values["changed"])
        return cls(values["documents"], values["kept"], values["characters"], dropped, changed, survey)


def _ordered(counts: Counter[str]) -> dict[str, int]:
    """Return the most frequent first, those of one count by name."""
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
