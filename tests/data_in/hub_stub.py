"""Both hubs on 127.0.0.1, with the endpoints that their own libraries ask, and with faults on request."""

import hashlib
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "token-of-mine"
LARGE = 1000
"""Files from this length on lie on the CDN, as LFS files do; smaller ones come from the hub itself."""


@dataclass
class Repo:
    """A data set: its revisions' commits and its commits' files."""

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    gated: bool = False
    lengths: dict[str, int] = field(default_factory=dict)
    """Lengths that are listed instead of the true ones."""


def commit_of(files: dict[str, bytes]) -> str:
    held = "".join(f"{path}{sha256(data)}" for path, data in sorted(files.items()))
    return hashlib.sha1(held.encode()).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Stub:
    """A server in a thread. `faults[path in the set]` are used up one a request; `seen` holds (path, headers)."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.faults: dict[str, list] = defaultdict(list)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.page = 2
        self.tells_commit = True
        self.stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"stub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, name: str, files: dict[str, bytes], revision: str = "main", **options) -> str:
        """Make a commit of a set, and point a revision (and ModelScope's branch) at it."""
        repo = self.repos.setdefault(name, Repo({}, {}, **options))
        commit = commit_of(files)
        repo.commits[commit] = files
        repo.revisions[revision] = repo.revisions[commit] = commit
        if revision == "main":
            repo.revisions["master"] = commit
        return commit

    def ranges(self) -> list[str]:
        """Return what was asked of the CDN, of files that were gone on with."""
        return [headers["Range"] for path, headers in self.seen if path.startswith("/cdn") and "Range" in headers]

    def stop(self):
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def log_message(self, format, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        self.stub.seen.append((self.path, dict(self.headers)))
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        match parts:
            case ["api", "datasets", owner, name, "revision", revision]:
                self._revision(f"{owner}/{name}", revision)
            case ["api", "datasets", owner, name, "tree", commit]:
                self._tree(f"{owner}/{name}", commit, int(query.get("cursor", 0)))
            case ["datasets", owner, name, "resolve", revision, *path]:
                self._resolve(f"{owner}/{name}", revision, "/".join(path))
            case ["api", "v1", "datasets", owner, name, "repo", "tree"]:
                self._modelscope_tree(f"{owner}/{name}", query)
            case ["api", "v1", "datasets", owner, name, "repo"]:
                self._modelscope_file(f"{owner}/{name}", query["Revision"], query["FilePath"])
            case ["cdn", owner, name, commit, *path]:
                data = self.stub.repos[f"{owner}/{name}"].commits[commit]["/".join(path)]
                self._bytes("/".join(path), data, ranges=True)
            case _:
                self._json({"error": "no such address"}, 404)

    def _repo(self, name: str) -> Repo | None:
        """Return a set; a missing one is answered as Hugging Face does."""
        if name not in self.stub.repos:
            status = 404 if self._has_token() else 401
            self._json({"error": "Repository not found"}, status, {"X-Error-Code": "RepoNotFound"})
            return None
        return self.stub.repos[name]

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _revision(self, name: str, revision: str):
        if self._faulty("revision") or (repo := self._repo(name)) is None:
            return
        if revision not in repo.revisions:
            self._json({"error": f"Invalid rev id: {revision}"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        commit = repo.revisions[revision]
        siblings = [{"rfilename": path} for path in repo.commits[commit]]
        self._json({"id": name, "sha": commit, "gated": repo.gated, "siblings": siblings})

    def _tree(self, name: str, commit: str, start: int):
        if self._faulty("tree") or (repo := self._repo(name)) is None:
            return
        files = sorted(repo.commits[commit].items())
        folders = sorted({path.rpartition("/")[0] for path, _ in files if "/" in path})
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders]
        for path, data in files:
            length = repo.lengths.get(path, len(data))
            entry = {"type": "file", "oid": git_sha1(data), "size": length, "path": path}
            if len(data) >= LARGE:
                entry["lfs"] = {"oid": sha256(data), "size": length, "pointerSize": 134}
            entries.append(entry)
        end = start + self.stub.page
        # the address of another host, as a mirror hands it on
        more = f'<https://huggingface.co/api/datasets/{name}/tree/{commit}?recursive=true&cursor={end}>; rel="next"'
        self._json(entries[start:end], 200, {"Link": more} if end < len(entries) else {})

    def _resolve(self, name: str, revision: str, path: str):
        if (repo := self._repo(name)) is None:
            return
        if repo.gated and not self._has_token():
            self._json(
                {"error": "gated"}, 403 if "Authorization" in self.headers else 401, {"X-Error-Code": "GatedRepo"}
            )
            return
        commit = repo.revisions[revision]
        data = repo.commits[commit][path]
        about = {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(data)}"'}
        if len(data) < LARGE:
            self._bytes(path, data, about, ranges=True)
            return
        about |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        self._answer(302, b"", about | {"Location": f"{self.stub.cdn}/cdn/{name}/{commit}/{path}"})

    def _modelscope_tree(self, name: str, query: dict[str, str]):
        if self._faulty("tree"):
            return
        repo = self.stub.repos.get(name)
        if repo is None or query["Revision"] not in repo.revisions:
            self._json({"Code": 10010205001, "Message": "not found", "Success": False}, 404)
            return
        if repo.gated and not self._has_token():
            self._json({"Code": 403, "Message": "no permission", "Success": False})  # with status 200, as it happens
            return
        commit = repo.revisions[query["Revision"]]
        entries = [
            {"Name": path, "Path": path, "Type": "blob", "Size": len(data), "Sha256": sha256(data), "IsLFS": False}
            for path, data in sorted(repo.commits[commit].items())
        ]
        entries.insert(0, {"Name": "data", "Path": "data", "Type": "tree", "Size": 0, "Sha256": ""})
        number, size = int(query["PageNumber"]), int(query["PageSize"])
        latest = {"Id": commit if self.stub.tells_commit else "", "ShortId": commit[:8]}
        page = entries[(number - 1) * size : number * size]
        self._json({"Code": 200, "Success": True, "Data": {"Files": page, "LatestCommitter": latest}})

    def _modelscope_file(self, name: str, revision: str, path: str):
        repo = self.stub.repos[name]
        commit = repo.revisions[revision]
        data = repo.commits[commit][path]
        if len(data) < LARGE:
            self._bytes(path, data, ranges=False)
        else:
            self._answer(302, b"", {"Location": f"{self.stub.cdn}/cdn/{name}/{commit}/{path}"})

    def _bytes(self, path: str, data: bytes, about: dict[str, str] | None = None, ranges: bool = True):
        """Send a file, or what is asked of it; a fault of its path comes first."""
        fault = None
        if self.command == "GET" and self.stub.faults[path]:
            fault = self.stub.faults[path].pop(0)
        if fault and fault[0] == "ignores ranges":
            ranges, fault = False, fault[1:] or None
        start, status, headers = 0, 200, dict(about or {})
        asked = self.headers.get("Range", "")
        if ranges and asked.startswith("bytes=") and asked.endswith("-"):
            start, status = int(asked[6:-1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if start >= len(data):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
        if fault is None:
            self._answer(status, data[start:], headers)
        else:
            self._fail(fault, status, data[start:], headers)

    def _faulty(self, where: str) -> bool:
        """Answer with a fault of an endpoint, if there is one left."""
        if not self.stub.faults[where]:
            return False
        self._fail(self.stub.faults[where].pop(0), 200, b"[]", {})
        return True

    def _fail(self, fault: tuple, status: int, body: bytes, headers: dict[str, str]):
        match fault:
            case ("status", code, *more):
                self._answer(code, b"{}", more[0] if more else {})
            case ("cut", count):
                self._answer(status, body, headers, sent=count)
                self.close_connection = True
            case ("shorter", count):
                self._answer(status, body[:count], headers)
            case ("longer", count):
                self._answer(status, body + bytes(count), headers)
            case ("without length", extra):
                self._answer(status, body + bytes(extra), headers, length=False)
                self.close_connection = True
            case ("wrong byte", at):
                self._answer(status, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :], headers)
            case ("drips", count, seconds):
                self._answer(status, body, headers, sent=0)
                for at in range(count):
                    if self.stub.stopped.wait(seconds):
                        break
                    self.wfile.write(body[at : at + 1])
                self.close_connection = True
            case _:  # silent
                self.stub.stopped.wait(20)
                self.close_connection = True

    def _json(self, value, status: int = 200, headers: dict[str, str] | None = None):
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None, length: bool = True):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
            self.wfile.flush()


def wait_for(what, seconds: float = 10.0):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)
