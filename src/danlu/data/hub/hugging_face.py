"""Hugging Face's hub and its cache, as `huggingface_hub` lays it out; that library says where both are, and who asks.

Endpoints, as the library asks them: `/api/datasets/…/revision/…` for the commit, `/api/datasets/…/tree/…` for the
files, page by page, `/datasets/…/resolve/…` for the bytes, which redirects to a CDN. In the cache, `refs/` names a
branch's commit, `snapshots/COMMIT/` holds links to `blobs/`, named by content, and `trees/` lists a commit's files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from danlu import storage
from danlu.data.hub.names import HubFile, HubName, Listing
from danlu.data.hub.place import Place, refused
from danlu.data.hub.web import Refused, Web
from danlu.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_INSTALL = 'pip install -e ".[hub]"'
_TREE_FORMAT = 1


class HuggingFace:
    """One data set on the hub (or the mirror) that HF_ENDPOINT names."""

    def __init__(self, name: HubName):
        try:
            from huggingface_hub import constants
            from huggingface_hub.file_download import repo_folder_name
            from huggingface_hub.utils import build_hf_headers
        except ImportError:
            raise DataError(f"{name}: fetching from Hugging Face needs one more package: {_INSTALL}") from None
        self.name, self._endpoint = name, constants.ENDPOINT
        self._asked = name.revision or constants.DEFAULT_REVISION
        self._api = f"{self._endpoint}/api/datasets/{name.repo}"
        self.page = f"{self._endpoint}/datasets/{name.repo}"
        self.token = "HF_TOKEN"
        self.offline = "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
        self.cache = Path(constants.HF_HUB_CACHE)
        folder = repo_folder_name(repo_id=name.repo, repo_type="dataset")
        self._folder, self._locks = self.cache / folder, self.cache / ".locks" / folder
        sent = {header.title(): value for header, value in build_hf_headers(library_name="danlu").items()}
        hosts = {urlsplit(self._endpoint).netloc, "huggingface.co", "hf.co"}
        self.web = Web(frozenset(hosts), sent, mirror="HF_ENDPOINT")

    def pinned(self) -> Listing | None:
        """Return what the cache knows of a commit, which never changes; None for a branch or an unknown one."""
        return self._remembered(self._asked) if _COMMIT.fullmatch(self._asked) else None

    def ask(self) -> Listing:
        """Ask for the revision's commit and its files. Raises DataError with what to do where that is refused."""
        about, _ = self._get(f"{self._api}/revision/{quote(self._asked, safe='')}")
        try:
            commit = _hex(about["sha"])
            files = tuple(_file(entry) for entry in self._entries(commit) if entry["type"] == "file")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self._endpoint}: lists {self.name} in an unknown way ({error!r})") from None
        return Listing(commit, files)

    def _entries(self, commit: str) -> list[Any]:
        url = f"{self._api}/tree/{commit}?recursive=true"
        entries: list[Any] = []
        while url:
            page, headers = self._get(url)
            entries += page
            more = re.search(r'<([^>]+)>\s*;\s*rel="next"', headers.get("Link", ""))
            # a mirror may hand on the hub's own address; its query is what counts
            url = f"{self._api}/tree/{commit}?{urlsplit(more[1]).query}" if more else ""
        return entries

    def _get(self, url: str) -> tuple[Any, Any]:
        try:
            return self.web.json(url)
        except Refused as error:
            raise self.explain(error) from None

    def explain(self, error: Refused) -> DataError:
        """Say what a refusal means, and what to do."""
        code = error.headers.get("X-Error-Code", "")
        if code == "RevisionNotFound":
            return DataError(f"{self.name}: has no revision {self._asked!r}. See {self.page}/tree/main")
        if code == "GatedRepo":
            return refused(self, "is gated")
        if error.status == 401 and "Authorization" in self.web.headers:
            return refused(self, "is not there, or not for this token")
        if error.status in (401, 404):
            return refused(self, "is no data set there (a model is none), or a private one")
        return refused(self, "is not for you") if error.status == 403 else error

    def cached(self) -> Listing | None:
        """Return the last known listing of the revision, from the cache alone; None where there is none."""
        ref = self._folder / "refs" / self._asked
        try:
            commit = self._asked if _COMMIT.fullmatch(self._asked) else ref.read_text(encoding="utf-8").strip()
        except OSError:
            return None
        return self._remembered(commit) or self._seen(commit)

    def remember(self, listing: Listing) -> None:
        """Note the revision's commit and its files, so that offline work knows what there is."""
        with storage.clear_errors(self._folder):
            if listing.revision != self._asked:
                _write(self._folder / "refs" / self._asked, listing.revision)
            tree = self._folder / "trees" / f"{listing.revision}.json"
            if not tree.is_file():
                tree.parent.mkdir(parents=True, exist_ok=True)
                files = {file.path: _as_entry(file) for file in listing.files}
                storage.write_json(tree, {"format_version": _TREE_FORMAT, "files": files})

    def _remembered(self, commit: str) -> Listing | None:
        path = self._folder / "trees" / f"{commit}.json"
        if not path.is_file():
            return None
        try:
            found = storage.read_json(path, DataError)
            if found["format_version"] != _TREE_FORMAT:
                return None
            return Listing(commit, tuple(_from_entry(name, entry) for name, entry in found["files"].items()))
        except (DataError, KeyError, TypeError, AttributeError):
            return None  # of another version of the library, or broken: the hub knows better

    def _seen(self, commit: str) -> Listing | None:
        snapshot = self._folder / "snapshots" / commit
        found = sorted(path for path in snapshot.rglob("*") if path.is_file())
        files = [HubFile(path.relative_to(snapshot).as_posix(), path.stat().st_size) for path in found]
        return Listing(commit, tuple(files), whole=False) if files else None

    def find(self, listing: Listing, file: HubFile) -> Path | None:
        """Return where a file lies, if it is in the cache; names follow contents, so its length is proof enough."""
        path = self._folder / "snapshots" / listing.revision / file.path
        if path.is_file() and path.stat().st_size == file.bytes:
            return path
        blob = self._blob(file)
        if blob is not None and blob.is_file() and blob.stat().st_size == file.bytes:
            return self.keep(listing, file)
        return None

    def place(self, listing: Listing, file: HubFile) -> Place:
        """Return where a file is fetched from and to."""
        blob = self._blob(file)
        if blob is None:
            raise DataError(f"{self.name}: the hub tells no checksum of {file.path}. Fetch it with hf download")
        return Place(
            url=f"{self.page}/resolve/{listing.revision}/{quote(file.path)}",
            part=blob.with_name(f"{blob.name}.incomplete"),
            target=blob,
            lock=self._locks / f"{blob.name}.lock",
        )

    def keep(self, listing: Listing, file: HubFile) -> Path:
        """Link a file that lies whole under its content's name into the revision's folder, and return its path."""
        blob, path = self.place(listing, file).target, self._folder / "snapshots" / listing.revision / file.path
        with storage.clear_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            try:
                path.symlink_to(os.path.relpath(blob, path.parent))
            except OSError:  # a filesystem without links: the library then moves the file, too
                blob.rename(path)
        return path

    def _blob(self, file: HubFile) -> Path | None:
        etag = file.sha256 or file.git_sha1
        return self._folder / "blobs" / etag if etag else None


def _file(entry: dict[str, Any]) -> HubFile:
    lfs = entry.get("lfs")
    if lfs:
        return HubFile(str(entry["path"]), int(lfs["size"]), sha256=_hex(lfs["oid"]))
    return HubFile(str(entry["path"]), int(entry["size"]), git_sha1=_hex(entry["oid"]))


def _as_entry(file: HubFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": file.bytes, "blob_id": file.git_sha1}
    return entry | ({"lfs_sha256": file.sha256, "lfs_size": file.bytes} if file.sha256 else {})


def _from_entry(path: str, entry: dict[str, Any]) -> HubFile:
    if entry.get("lfs_sha256"):
        return HubFile(path, int(entry["lfs_size"]), sha256=_hex(entry["lfs_sha256"]))
    return HubFile(path, int(entry["size"]), git_sha1=_hex(entry["blob_id"]))


def _hex(digest: Any) -> str:
    """Return a digest that becomes a file's name. Raises ValueError where it is none."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", str(digest)):
        raise ValueError(f"{digest!r} is no checksum")
    return str(digest)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        storage.write_text(path, text)
