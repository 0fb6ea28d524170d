"""Folders that are whole or absent: written beside, flushed, listed in a manifest, renamed into place.

A reader sees the old folder or the new one, never half of one. The order is: every file and folder of the
scratch folder is fsynced, `manifest.json` (sizes and sha256 of all others) comes last, then the rename, then
the parent folder's fsync. What a killed process left is swept by the next writer. A lock, which the system drops
with its process, tells it from what a living one still writes (containers and nodes repeat process ids).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.errors import DanluError, OutputError

MANIFEST = "manifest.json"
_SCRATCH = ".scratch-"


def sha256_of(path: Path) -> str:
    """Hash a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise  # some network filesystems flush no folders
    finally:
        os.close(handle)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EBUSY,
    errno.EINVAL,
    errno.EIO,
)


@contextmanager
def clear_errors(path: Path) -> Generator[None]:
    """Turn the system's write errors under `path` into one clear OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(f"{path}: no space left on the disk. Free some, then run the command again") from error
        if error.errno in _REFUSED:
            raise OutputError(f"{path}: cannot be written ({error.strerror}). Name another folder") from error
        raise


def require_absent(folder: Path) -> None:
    """Raise OutputError if `folder` exists and holds anything."""
    with clear_errors(folder):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            return
        if folder.exists() or folder.is_symlink():
            raise OutputError(f"{folder}: exists already. Name another --out, or remove it first")


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary file beside `path`; put it in its place, flushed, only if the block succeeds."""
    with clear_errors(path), _scratch(path.parent, Path.touch) as scratch:
        yield scratch
        fsync(scratch)
        scratch.rename(path)
        fsync(path.parent)


@contextmanager
def new_file(path: Path) -> Generator[Path]:
    """Yield a temporary file beside `path`, in a folder that is made if it is missing; put it there, as `replacing`.

    Raises OutputError where `path` exists, cannot be written, or the disk is full; then nothing is left behind.
    """
    require_absent(path)
    with clear_errors(path):
        parent = path.absolute().parent
        make_folders(parent)
        sweep(parent)
        with replacing(path) as scratch:
            yield scratch


def write_text(path: Path, text: str) -> None:
    """Replace a file's whole text atomically."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically (see `write_text`)."""
    write_text(path, _json(value))


@contextmanager
def new_folder(final: Path, manifest: dict[str, Any] | None = None) -> Generator[Path]:
    """Yield a scratch folder beside `final`; put it in place, with its manifest, only if the block succeeds.

    `manifest` adds keys to the manifest's own `files`; the block may still fill it. Raises OutputError where
    `final` exists, cannot be written, or the disk is full; then nothing is left behind.
    """
    require_absent(final)
    with clear_errors(final):
        parent = final.absolute().parent
        make_folders(parent)
        sweep(parent)
        with _scratch(parent, Path.mkdir) as scratch:
            yield scratch
            _finish(scratch, manifest or {})
            scratch.rename(final)
            fsync(parent)


def make_folders(folder: Path) -> None:
    """Make a folder and its parents; each one's name is flushed too, or a power cut could lose all below it.

    Raises OutputError in a place where there are no new folders, such as /proc.
    """
    if not folder.is_dir():
        make_folders(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror}). Name another folder") from error
        fsync(folder.parent)


def _finish(scratch: Path, manifest: dict[str, Any]) -> None:
    """Flush everything, then list it in the manifest. Modes follow the umask, as the scratch folder's does."""
    mode = scratch.stat().st_mode & 0o777
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(scratch.rglob("*")):
        path.chmod(mode if path.is_dir() else mode & 0o666)
        fsync(path)
        if path.is_file():
            files[path.relative_to(scratch).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
    (scratch / MANIFEST).write_text(_json({**manifest, "files": files}), encoding="utf-8")
    fsync(scratch / MANIFEST)
    fsync(scratch)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def read_json(path: Path, error: type[DanluError]) -> dict[str, Any]:
    """Read a JSON object, or raise `error` in one line."""
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise error(f"{path}: cannot be read as JSON ({cause})") from cause
    if not isinstance(value, dict):
        raise error(f"{path}: holds no JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def verify(
    folder: Path,
    error: type[DanluError],
    contents: bool = True,
    skip: Callable[[str], bool] | None = None,
) -> dict[str, Any]:
    """Check a folder against its manifest and return the manifest.

    Sizes always; sha256 too with `contents`. Files for which `skip(name)` is true are not looked at.
    Raises `error`, naming the file, where one is missing, truncated or altered.
    """
    manifest = read_json(folder / MANIFEST, error)
    for name, size, digest in _listed(manifest, folder / MANIFEST, error):
        if skip is not None and skip(name):
            continue
        path = folder / name
        try:
            if not path.is_file():
                raise error(f"{path}: is missing, though {MANIFEST} lists it")
            found = path.stat().st_size
            if found != size:
                raise error(f"{path}: has {found:,} bytes, not the {size:,} that were written")
            if contents and sha256_of(path) != digest:
                raise error(f"{path}: was altered after it was written (sha256 differs from {MANIFEST})")
        except OSError as cause:
            raise error(f"{path}: cannot be read ({cause.strerror})") from cause
    return manifest


def _listed(manifest: dict[str, Any], path: Path, error: type[DanluError]) -> list[tuple[str, int, str]]:
    """Return name, bytes and sha256 of the files that a manifest lists."""
    try:
        return [(name, int(row["bytes"]), str(row["sha256"])) for name, row in manifest["files"].items()]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise error(f"{path}: lists no files with bytes and sha256, so nothing can be verified") from None


def sweep(parent: Path) -> None:
    """Remove what killed processes left in `parent`; what a living one works on is locked, and stays."""
    for path in parent.glob(f"{_SCRATCH}*"):
        if path.is_symlink():
            path.unlink(missing_ok=True)
            continue
        with contextlib.suppress(OSError):  # locked, gone, or another user's
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(handle)


@contextmanager
def _scratch(parent: Path, make: Callable[[Path], None]) -> Generator[Path]:
    """Yield a new scratch file or folder in `parent`, locked; remove what of it is left at the end."""
    path, handle = _locked(parent, make)
    try:
        yield path
    finally:
        _remove(path)
        os.close(handle)


def _locked(parent: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    while True:
        path = parent / f"{_SCRATCH}{secrets.token_hex(8)}"
        try:
            make(path)
        except FileNotFoundError as error:  # /proc, a mount that is gone: a folder in which nothing can be made
            raise OutputError(f"{parent}: cannot be written ({error.strerror}). Name another folder") from error
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a filesystem without locks: `sweep` then leaves it alone
                fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists():
                return path, handle
            os.close(handle)  # swept between its making and its locking


@contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Hold a folder for this process. Raises OutputError where another living process holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{folder}: another process is writing to it. Wait for it, or stop it") from None
        except OSError:
            pass  # a filesystem without locks
        yield
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
