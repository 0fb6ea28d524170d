"""`danlu corpora`: known sets of Chinese text and conversations on the hubs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from danlu.commands import finish
from danlu.configure import parse_flags


@dataclass(frozen=True)
class Options:
    """List known sets on the hubs: size, licence, what they are, and the command that fetches and reads each.

    A set's name is a source, as files are. danlu ships none of them: mind their licences.
    """

    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, print."""
    from danlu.data.corpora import Known, corpora

    def entry(known: Known) -> dict[str, Any]:
        fields = {key: value for key, value in dataclasses.asdict(known).items() if value != ""}
        return fields | {"size": known.length, "fetch": f"danlu fetch {known.name}", "use": known.use}

    def text(known: Known) -> str:
        rows = [("size", known.length), ("licence", known.licence), ("source", known.source), ("page", known.page)]
        lines = [f"  {what:<8} {value}" for what, value in [*rows, ("use", known.use)]]
        return "\n".join([f"{known.name}: {known.what} ({known.kind})", *lines])

    options = parse_flags(Options, argv, "danlu corpora")
    known = list(corpora().values())
    return finish({"corpora": [entry(k) for k in known]}, "\n\n".join(map(text, known)), options.json)
