"""What a data report shows, gathered in one pass: what came in, what each rule took, and what stayed.

The same survey comes out whatever the parts of a corpus, their order, and how they are merged: counts are added, and
examples and samples are those with the smallest hashes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from danlu.data.characters import visible
from danlu.data.difference import difference
from danlu.data.profile import Profile, shown
from danlu.data.sample import Smallest, document_key
from danlu.types import Document

EXAMPLES = 20
"""Shown of every rule; clusters of near duplicates, too."""
STAYED = 0
"""The key of the document of a cluster that stayed: it comes before all others."""
_OF_A_CLUSTER = 4
_LINES = 10_000
_LINE_CHARACTERS = 200
_NEXT = 0x9E3779B97F4A7C15
"""From the key of a line to that of the next: all are spread as evenly as the first."""


class Tally:
    """What a rule did: to how many documents, the characters that it took and gave, and twenty examples.

    Examples hold (key, source, id, characters, text) of what was dropped, and (key, source, id, *`Difference`) of what
    was changed.
    """

    def __init__(self, counts: Iterable[int] = (0, 0, 0), examples: Iterable[Iterable[Any]] = ()):
        self.documents, self.taken, self.given = counts
        self.examples = Smallest(EXAMPLES, examples)

    def count(self, taken: int, given: int = 0) -> None:
        """Count one document."""
        self.documents += 1
        self.taken += taken
        self.given += given

    def merge(self, other: Tally) -> None:
        """Count what another one counted."""
        self.documents += other.documents
        self.taken += other.taken
        self.given += other.given
        self.examples.merge(other.examples)

    def as_list(self) -> list[Any]:
        """Return counts and examples."""
        return [[self.documents, self.taken, self.given], [list(entry) for entry in self.examples.entries()]]


class Survey:
    """Figures and examples of a corpus and of its cleaning.

    Memory: two `Profile`s, twenty examples of each rule, of 1,500 characters, and ten thousand repeated lines.
    """

    def __init__(self) -> None:
        self.came, self.stayed = Profile(), Profile()
        self.drops: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
        """By rule and reason."""
        self.changes: defaultdict[str, Tally] = defaultdict(Tally)
        """By rule."""
        self.cluster_sizes: Counter[int] = Counter()
        self.members: defaultdict[int, Smallest] = defaultdict(lambda: Smallest(_OF_A_CLUSTER))
        """Documents of the clusters that are shown, by the cluster's first document."""
        self.shown_clusters: dict[int, int] = {}
        self.repeated = Counter(documents=0, lines=0, characters=0)
        self.lines = Smallest(_LINES)
        self.contaminated: Counter[str] = Counter()

    def read(self, document: Document) -> None:
        """Note a document that came in."""
        self.came.add(document)

    def reading(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Note documents on their way."""
        for document in documents:
            self.read(document)
            yield document

    def kept(self, document: Document) -> None:
        """Note a document as it stayed."""
        self.stayed.add(document)

    def dropped(self, document: Document, reason: str, rule: str) -> None:
        """Note that a rule dropped a document."""
        tally = self.drops[rule, reason]
        tally.count(len(document.text))
        key = document_key(document)
        if tally.examples.wants(key):
            tally.examples.add(key, *shown(document))

    def changed(self, before: Document, after: Document, rule: str) -> None:
        """Note that a rule altered a text."""
        tally, longer = self.changes[rule], len(after.text) - len(before.text)
        tally.count(max(0, -longer), max(0, longer))
        key = document_key(before)
        if tally.examples.wants(key):
            found = (before.source, before.id, *difference(before.text, after.text).as_tuple())
            tally.examples.add(key, *(visible(value) if isinstance(value, str) else value for value in found))

    def clusters(self, firsts: np.ndarray) -> dict[int, int]:
        """Note the clusters of near duplicates: int64 [documents], each one's first document (see `near_duplicates`).

        Return first document and size of the 20 largest; hand their documents to `member`. Memory: 8 bytes a document.
        """
        sizes = np.bincount(firsts) if len(firsts) else np.zeros(0, dtype=np.int64)
        found = np.flatnonzero(sizes > 1)
        self.cluster_sizes.update(sizes[found].tolist())
        largest = found[np.argsort(-sizes[found], kind="stable")][:EXAMPLES]
        self.shown_clusters = {int(first): int(sizes[first]) for first in largest}
        return self.shown_clusters

    def member(self, cluster: int, document: Document, stayed: bool = False) -> None:
        """Note a document of one of the clusters that `clusters` returned; the one that stayed is always shown."""
        self.members[cluster].add(STAYED if stayed else document_key(document), *shown(document))

    def repeats(self, document: Document, lines: Iterable[str]) -> None:
        """Note the lines of a document that other documents have, too, and that are cut."""
        found = list(lines)
        self.repeated.update(documents=1, lines=len(found), characters=sum(map(len, found)))
        key = document_key(document)
        for line in found:
            key = (key + _NEXT) % (1 << 64)
            if self.lines.wants(key):
                self.lines.add(key, visible(line[:_LINE_CHARACTERS]))

    def contamination(self, found: Mapping[str, int]) -> None:
        """Note in how many documents which evaluation texts were found."""
        for text, documents in found.items():
            self.contaminated[visible(text[:_LINE_CHARACTERS])] += documents

    def merge(self, other: Survey) -> None:
        """Note what another survey noted."""
        self.came.merge(other.came)
        self.stayed.merge(other.stayed)
        for rule_and_reason, tally in other.drops.items():
            self.drops[rule_and_reason].merge(tally)
        for rule, tally in other.changes.items():
            self.changes[rule].merge(tally)
        for cluster, members in other.members.items():
            self.members[cluster].merge(members)
        self.cluster_sizes += other.cluster_sizes
        self.shown_clusters |= other.shown_clusters
        self.repeated.update(other.repeated)
        self.lines.merge(other.lines)
        self.contaminated += other.contaminated

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold; `from_dict` makes the survey of them again."""
        return {
            "came": self.came.as_dict(),
            "stayed": self.stayed.as_dict(),
            "drops": [[*key, *self.drops[key].as_list()] for key in sorted(self.drops)],
            "changes": [[rule, *self.changes[rule].as_list()] for rule in sorted(self.changes)],
            "cluster_sizes": [list(pair) for pair in sorted(self.cluster_sizes.items())],
            "shown_clusters": [list(pair) for pair in sorted(self.shown_clusters.items())],
            "members": [[cluster, _rows(held)] for cluster, held in sorted(self.members.items())],
            "repeated": dict(self.repeated),
            "lines": _rows(self.lines),
            "contaminated": dict(sorted(self.contaminated.items())),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Survey:
        """Make a survey of what `as_dict` returned."""
        survey = cls()
        survey.came, survey.stayed = Profile.from_dict(value["came"]), Profile.from_dict(value["stayed"])
        survey.drops.update({(rule, reason): Tally(*tally) for rule, reason, *tally in value["drops"]})
        survey.changes.update({rule: Tally(*tally) for rule, *tally in value["changes"]})
        survey.cluster_sizes = Counter(dict(value["cluster_sizes"]))
        survey.shown_clusters = dict(value["shown_clusters"])
        survey.members.update({cluster: Smallest(_OF_A_CLUSTER, rows) for cluster, rows in value["members"]})
        survey.repeated.update(value["repeated"])
        survey.lines = Smallest(_LINES, value["lines"])
        survey.contaminated = Counter(value["contaminated"])
        return survey


def _rows(held: Smallest) -> list[list[Any]]:
    return [list(entry) for entry in held.entries()]
