"""Known sets on the hubs, by short names that are sources; `corpora.toml` says what each is and where it comes from."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources

from danlu.data.hub.names import size as readable_size

_UNKNOWN = "unknown, see its page"
_USES = {
    "text": "danlu prepare {name} --tokenizer DIR --out DIR",
    "conversations": "danlu finetune CKPT --data {name} --out DIR",
    "preferences": "danlu finetune CKPT --data {name} --objective dpo --out DIR",
}


@dataclass(frozen=True, slots=True)
class Known:
    """A set: its name on a hub, what it holds, and what is known of it; `bytes` where its length is known exactly."""

    name: str
    source: str
    kind: str
    what: str
    page: str
    licence: str = _UNKNOWN
    size: str = ""
    bytes: int | None = None

    @property
    def length(self) -> str:
        """Return its size for people."""
        if self.bytes is not None:
            return f"{readable_size(self.bytes)} ({self.bytes:,} bytes)"
        return self.size or _UNKNOWN

    @property
    def use(self) -> str:
        """Return the command that reads it, fetching it first."""
        return _USES[self.kind].format(name=self.name)


@functools.cache
def corpora() -> dict[str, Known]:
    """Return all known sets by name."""
    text = resources.files("danlu.data").joinpath("corpora.toml").read_text(encoding="utf-8")
    return {name: Known(name, **entry) for name, entry in tomllib.loads(text).items()}
