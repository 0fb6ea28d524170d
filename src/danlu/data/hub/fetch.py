"""From a name on a hub to files on this machine: whole, checked, in the cache that the hub's own library shares.

Everything comes from one revision, resolved once a process. What lies in the cache is not fetched again; what was cut
is gone on with; a file takes its place only once its checksum is right. Without the network the cache answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from danlu import log, storage
from danlu.data.hub.hugging_face import HuggingFace
from danlu.data.hub.modelscope import ModelScope
from danlu.data.hub.names import HubFile, HubName, Listing, choose, read_name, require_safe, size
from danlu.data.hub.place import Hub, Place
from danlu.data.hub.web import Refused, Unreachable
from danlu.errors import DataError, OutputError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_HUBS: dict[str, Callable[[HubName], Hub]] = {"hf": HuggingFace, "modelscope": ModelScope}
_CHUNK = 1 << 20
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files that a name means, of which revision they are, their bytes, and how many of those came just now."""

    revision: str
    """`hub:OWNER/NAME@COMMIT`; where ModelScope tells no commit, the branch and a hash of what it lists."""
    files: tuple[Path, ...]
    bytes: int
    bytes_fetched: int


@functools.cache
def fetch(source: str) -> Fetched:
    """Return the files of a name on a hub, fetched where they are not in the cache.

    Raises DataError for a name that means nothing, a refusal, a wrong checksum, or no network and no cache;
    OutputError where the disk has no room. What has come of a cut file stays, for the next attempt.
    """
    name = read_name(source)
    hub = _HUBS[name.hub](name)
    listing, why_cached = _listing(hub)
    require_safe(listing.files, name)
    chosen = choose(listing.files, name)
    with log.progress("bytes") as bar:
        hub.web.say = functools.partial(bar.console.print, markup=False, soft_wrap=True)
        task = bar.add_task("in the cache", total=sum(file.bytes for file in chosen), note="")
        found: dict[str, Path] = {}
        for file in chosen:
            path = hub.find(listing, file)
            if path is not None:
                found[file.path] = path
                bar.advance(task, file.bytes)
        missing = [file for file in chosen if file.path not in found]
        if missing and why_cached:
            raise DataError(_not_cached(hub, chosen, missing, why_cached))
        if missing:
            found |= _fetch(hub, listing, missing, bar, task)
    return Fetched(
        f"{name.hub}:{name.repo}@{listing.revision}",
        tuple(found[file.path] for file in chosen),
        sum(file.bytes for file in chosen),
        sum(file.bytes for file in missing),
    )


def _listing(hub: Hub) -> tuple[Listing, str]:
    """Return what there is, and why only the cache could be asked, if so."""
    pinned = hub.pinned()
    if pinned is not None:
        return pinned, f"{hub.offline} is set" if hub.offline else ""
    why = f"{hub.offline} is set"
    if not hub.offline:
        try:
            listing = hub.ask()
        except Unreachable as error:
            why = str(error)
        else:
            hub.remember(listing)
            return listing, ""
    cached = hub.cached()
    if cached is None:
        raise DataError(f"{hub.name}: {why.rstrip('.')}, and nothing of it lies in the cache ({hub.cache})")
    doubt = "" if cached.whole else ", which may be a part of it: no list tells"
    log.say(f"{hub.name}: {why.rstrip('.')}. Reads {cached.revision} from the cache{doubt}")
    return cached, why


def _not_cached(hub: Hub, chosen: list[HubFile], missing: list[HubFile], why: str) -> str:
    named = ", ".join(file.path for file in missing[:_NAMED]) + (" …" if len(missing) > _NAMED else "")
    return (
        f"{hub.name}: {why.rstrip('.')}, and the cache ({hub.cache}) lacks {len(missing):,} of its {len(chosen):,} "
        f"files: {named}. Fetch them first: danlu fetch {hub.name}"
    )


def _fetch(hub: Hub, listing: Listing, missing: list[HubFile], bar: Progress, task: TaskID) -> dict[str, Path]:
    """Fetch files one after another, showing the bytes of all of them."""
    places = {file: hub.place(listing, file) for file in missing}
    total, here = sum(file.bytes for file in missing), sum(min(_length(places[f].part), f.bytes) for f in missing)
    _require_room(hub, total - here)
    files = f"{len(missing):,} file{'s' if len(missing) > 1 else ''}, {size(total)}"
    part = f", of which {size(here)} are here" if here else ""
    hub.web.say(f"{hub.name}: fetching {files}{part}, of revision {listing.revision}  ->  {hub.cache}")
    bar.reset(task, total=total, completed=here, description="fetching")
    found: dict[str, Path] = {}
    done = here
    for number, file in enumerate(missing, 1):
        before = done - min(_length(places[file].part), file.bytes)  # all bytes but this file's

        def moved(have: int, before: int = before) -> None:
            bar.update(task, completed=before + have)

        bar.update(task, note=f"file {number:,} of {len(missing):,}")
        found[file.path] = _fetch_one(hub, listing, file, places[file], moved)
        done = before + file.bytes
    return found


def _fetch_one(hub: Hub, listing: Listing, file: HubFile, place: Place, moved: Callable[[int], None]) -> Path:
    with storage.clear_errors(place.target):
        for folder in (place.target.parent, place.lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
    with _alone(place.lock, file, hub.web.say):
        found = hub.find(listing, file)  # another process may have fetched it meanwhile
        if found is not None:
            return found
        try:
            hub.web.download(place.url, place.part, file.bytes, moved)
        except Refused as error:
            raise hub.explain(error) from None
        _require_checksum(hub, file, place)
        with storage.clear_errors(place.target):
            storage.fsync(place.part)
            place.part.rename(place.target)
            storage.fsync(place.target.parent)
        return hub.keep(listing, file)


def _require_room(hub: Hub, needed: int) -> None:
    """Raise OutputError where what is missing does not fit on the cache's disk."""
    folder = next(path for path in (hub.cache, *hub.cache.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{hub.cache}: {hub.name} needs {size(needed)}, and the disk has {size(free)} free. "
            "Free some, fetch fewer files, or move the cache (HF_HOME, MODELSCOPE_CACHE)"
        )


def _require_checksum(hub: Hub, file: HubFile, place: Place) -> None:
    """Raise DataError, and leave nothing of the file, where it is not what the hub lists."""
    if file.sha256:
        digest, expected = hashlib.sha256(), file.sha256
    elif file.git_sha1:
        digest, expected = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False), file.git_sha1
    else:
        hub.web.say(f"{hub.name}: the hub tells no checksum of {file.path}; only its length was checked")
        return
    with place.part.open("rb") as part:
        while chunk := part.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        place.part.unlink()
        raise DataError(
            f"{hub.name}: {file.path} came with a wrong checksum ({digest.name}); it is removed. Run the command again"
        )


@contextmanager
def _alone(lock: Path, file: HubFile, say: Callable[[str], None]) -> Generator[None]:
    """Hold the lock that the hub's library holds while it fetches the same file."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{file.path}: another process fetches it; waiting for that")
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass  # a filesystem without locks
        yield
    finally:
        os.close(handle)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
