"""ModelScope's hub and its cache, as `modelscope-hub` lays it out, by the hub's plain file endpoints.

`/api/v1/datasets/…/repo/tree` lists files page by page, with their sha256; `/api/v1/datasets/…/repo` gives the bytes,
large files by a redirect to a CDN. In the cache a file lies at `datasets/OWNER--NAME/snapshots/REVISION/PATH`, or,
where the library before its version 1.38 has been, at `datasets/OWNER/NAME/PATH`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from danlu import storage
from danlu.data.hub.names import HubFile, HubName, Listing
from danlu.data.hub.place import Place, refused
from danlu.data.hub.web import Refused, Web
from danlu.errors import DataError

_ENDPOINT = "https://modelscope.cn"
_BRANCH = "master"
_PAGE = 200


class ModelScope:
    """One data set on the hub that MODELSCOPE_ENDPOINT (or MODELSCOPE_DOMAIN) names."""

    def __init__(self, name: HubName):
        asked = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or _ENDPOINT
        endpoint = asked.strip().rstrip("/")
        self._endpoint = endpoint if endpoint.startswith(("http://", "https://")) else f"https://{endpoint}"
        self.name, self._asked = name, name.revision or _BRANCH
        self._api = f"{self._endpoint}/api/v1/datasets/{name.repo}"
        self.page = f"{self._endpoint}/datasets/{name.repo}"
        self.token = "MODELSCOPE_API_TOKEN"
        self.offline = "MODELSCOPE_OFFLINE" if os.environ.get("MODELSCOPE_OFFLINE", "0") not in ("", "0") else ""
        self.cache = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser().absolute()
        self._folder = self._place_of_files()
        token = os.environ.get(self.token, "")
        sent = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
        hosts = {urlsplit(self._endpoint).netloc, "modelscope.cn", "www.modelscope.cn"}
        self.web = Web(frozenset(hosts), sent, mirror="MODELSCOPE_ENDPOINT")

    def _place_of_files(self) -> Path:
        """Return where the library keeps the revision's files: in the old layout, where that holds any."""
        owner, own_name = self.name.repo.split("/")
        old = Path("datasets", owner, own_name.replace(".", "___"))
        for folder in (self.cache / old, self.cache / "hub" / old):
            if folder.is_dir() and any(folder.iterdir()):
                return folder
        return self.cache / "datasets" / f"{owner}--{own_name}" / "snapshots" / self._asked

    def pinned(self) -> Listing | None:
        """Return None: the hub does not say whether a revision is a commit or a name that moves."""
        return None

    def ask(self) -> Listing:
        """Ask for the revision's files. Raises DataError with what to do where that is refused."""
        entries: list[Any] = []
        for number in range(1, 100_000):
            query = {"Revision": self._asked, "Recursive": "True", "PageNumber": number, "PageSize": _PAGE}
            data = self._get(f"{self._api}/repo/tree?{urlencode(query)}")
            try:
                page = data["Files"]
                entries += page
                if len(page) < _PAGE:
                    files = tuple(_file(entry) for entry in entries if entry["Type"] != "tree")
                    return Listing(_revision(data, self._asked, files), files)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{self._endpoint}: lists {self.name} in a way danlu does not know ({error!r})"
                ) from None
        raise DataError(f"{self.name}: its list of files has no end. Name another set")

    def _get(self, url: str) -> Any:
        """Return an answer's data; the hub may also refuse in the body of an answer with status 200."""
        try:
            answer, headers = self.web.json(url)
        except Refused as error:
            raise self.explain(error) from None
        if not isinstance(answer, dict) or answer.get("Code", 200) != 200 or answer.get("Success") is False:
            said = answer.get("Message", "") if isinstance(answer, dict) else ""
            status = answer.get("Code", 0) if isinstance(answer, dict) else 0
            raise self.explain(Refused(f"{self.name}: {self._endpoint} says {said!r}", status, headers))
        return answer.get("Data")

    def explain(self, error: Refused) -> DataError:
        """Say what a refusal means, and what to do."""
        if error.status == 404:
            return refused(self, f"is no data set there (a model is none), or has no revision {self._asked!r}")
        if error.status in (401, 403):
            return refused(self, "is private or gated" if not self.web.headers else "is not for this token")
        return error

    def cached(self) -> Listing | None:
        """Return the last known listing of the revision, from the cache alone; None where there is none."""
        try:
            found = storage.read_json(self._memory, DataError)
            files = tuple(HubFile(str(p), int(e["bytes"]), str(e["sha256"])) for p, e in found["files"].items())
            return Listing(str(found["revision"]), files)
        except (DataError, KeyError, TypeError, AttributeError, ValueError):
            return self._seen()

    @property
    def _memory(self) -> Path:
        name = f"{self.name.repo.replace('/', '--')}--{quote(self._asked, safe='')}.json"
        return self.cache / ".danlu" / "datasets" / name

    def remember(self, listing: Listing) -> None:
        """Note the revision's files, so that offline work knows what there is (the library keeps no list)."""
        files = {file.path: {"bytes": file.bytes, "sha256": file.sha256} for file in listing.files}
        with storage.clear_errors(self._memory):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            storage.write_json(self._memory, {"revision": listing.revision, "files": files})

    def _seen(self) -> Listing | None:
        found = sorted(p for p in self._folder.rglob("*") if p.is_file() and p.suffix != ".incomplete")
        files = [HubFile(path.relative_to(self._folder).as_posix(), path.stat().st_size) for path in found]
        return Listing(self._asked, tuple(files), whole=False) if files else None

    def find(self, listing: Listing, file: HubFile) -> Path | None:
        """Return where a file lies, if it is in the cache and what is listed: its name does not follow its contents."""
        path = self._folder / file.path
        if not path.is_file() or path.stat().st_size != file.bytes:
            return None
        return path if not file.sha256 or storage.sha256_of(path) == file.sha256 else None

    def place(self, listing: Listing, file: HubFile) -> Place:
        """Return where a file is fetched from and to."""
        target = self._folder / file.path
        query = urlencode({"Revision": self._asked, "FilePath": file.path})
        return Place(
            url=f"{self._api}/repo?{query}",
            part=target.with_name(f"{target.name}.incomplete"),
            target=target,
            lock=self.cache / ".lock" / f"file_{self._lock_name(file)}.lock",
        )

    def _lock_name(self, file: HubFile) -> str:
        """Name the lock as the library does (modelscope-hub 0.5.1, `DownloadManager._lock_path`)."""
        key = ("modelscope-hub-download-lock-v2", "file", "dataset", self.name.repo, file.path)
        return hashlib.sha256("\0".join(key).encode()).hexdigest()

    def keep(self, listing: Listing, file: HubFile) -> Path:
        """Return where a fetched file lies."""
        return self._folder / file.path


def _file(entry: dict[str, Any]) -> HubFile:
    sha256 = str(entry.get("Sha256") or "").lower()
    return HubFile(str(entry["Path"]), int(entry["Size"]), sha256 if re.fullmatch(r"[0-9a-f]{64}", sha256) else "")


def _revision(data: dict[str, Any], asked: str, files: tuple[HubFile, ...]) -> str:
    """Return the commit, if the hub tells it; else what was asked for and a hash of what it holds."""
    latest = data.get("LatestCommitter") or {}
    commit = str(latest.get("Id") or "")
    if re.fullmatch(r"[0-9a-f]{40}", commit):
        return commit
    held = "\n".join(f"{file.path} {file.sha256} {file.bytes}" for file in sorted(files, key=lambda f: f.path))
    return f"{asked}+{latest.get('ShortId') or hashlib.sha256(held.encode()).hexdigest()[:12]}"
