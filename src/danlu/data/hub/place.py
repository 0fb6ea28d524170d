"""What `fetch` needs of a hub, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from danlu.data.hub.names import HubFile, HubName, Listing
from danlu.data.hub.web import Refused, Web
from danlu.errors import DataError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file comes from, where it grows, where it lies once its checksum is right, and what locks it."""

    url: str
    part: Path
    target: Path
    lock: Path


class Hub(Protocol):
    """One data set on a hub, and the hub's cache on this machine, which its own library shares."""

    name: HubName
    web: Web
    cache: Path
    page: str
    """The set's page, for people."""
    token: str
    """The environment variable that holds a token."""
    offline: str
    """The environment variable that forbids the network, if it does."""

    def pinned(self) -> Listing | None:
        """Return what the cache knows of a revision that never changes, or None."""
        ...

    def ask(self) -> Listing:
        """Ask the hub what the revision holds. Raises DataError where it refuses, Unreachable where it is silent."""
        ...

    def explain(self, error: Refused) -> DataError:
        """Say what a refusal means, and what to do."""
        ...

    def cached(self) -> Listing | None:
        """Return what is known of the revision without the network, or None."""
        ...

    def remember(self, listing: Listing) -> None:
        """Note what the revision holds, for `cached`."""
        ...

    def find(self, listing: Listing, file: HubFile) -> Path | None:
        """Return where a file lies whole in the cache, or None."""
        ...

    def place(self, listing: Listing, file: HubFile) -> Place:
        """Return where a file is fetched from and to."""
        ...

    def keep(self, listing: Listing, file: HubFile) -> Path:
        """Give a file that has come to its target its name in the cache, and return it."""
        ...


def refused(hub: Hub, why: str) -> DataError:
    """Say that a set is not to be had, and how it may be."""
    return DataError(
        f"{hub.name}: {why}. Check the name; if it is right, accept the terms at {hub.page}, if any, "
        f"and set {hub.token} to a token of yours"
    )
