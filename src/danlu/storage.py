"""Folders that are whole or absent: written beside, flushed, listed in a manifest, renamed into place.

A reader sees the old folder or the new one, never half of one. The order is: every file and folder of the
scratch folder is fsynced, `manifest.json` (sizes and sha256 of all others) comes last, then the rename, then
the parent folder's fsync. What a killed process left is swept by the next writer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
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
    finally:
        os.close(handle)


@contextmanager
def clear_errors(path: Path) -> Generator[None]:
    """Turn the system's write errors under `path` into one clear OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{path}: no space left on the disk. Free some, then run the command again") from error
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.ENOTEMPTY,
        ):
            raise OutputError(f"{path}: cannot be written ({error.strerror}). Name another folder") from error
        raise


def require_absent(folder: Path) -> None:
    """Raise OutputError if `folder` exists and holds anything."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder}: exists already. Name another --out, or remove it first")


def write_text(path: Path, text: str) -> None:
    """Replace a file's whole text atomically: temporary file beside it, fsync, rename, fsync the folder."""
    with clear_errors(path):
        handle, name = tempfile.mkstemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).rename(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        fsync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically (see `write_text`)."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@contextmanager
def new_folder(final: Path, manifest: dict[str, Any] | None = None, replace: bool = False) -> Generator[Path]:
    """Yield a scratch folder beside `final`; put it in place, with its manifest, only if the block succeeds.

    `manifest` adds keys to the manifest's own `files`; the block may still fill it. Raises OutputError where
    `final` exists (unless `replace`), cannot be written, or the disk is full; then nothing is left behind.
    """
    with clear_errors(final):
        if not replace:
            require_absent(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        sweep(final.parent)
        scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=final.parent))
        try:
            yield scratch
            _finish(scratch, manifest or {})
            if replace and final.exists():
                final.rename(scratch.with_name(f"{scratch.name}-old"))
            scratch.rename(final)
            fsync(final.parent)
            shutil.rmtree(scratch.with_name(f"{scratch.name}-old"), ignore_errors=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _finish(scratch: Path, manifest: dict[str, Any]) -> None:
    umask = _umask()
    scratch.chmod(0o777 & ~umask)
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(scratch.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        fsync(path)
        if path.is_file():
            files[path.relative_to(scratch).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
    write_json(scratch / MANIFEST, {**manifest, "files": files})
    fsync(scratch)


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
    for name, expected in manifest.get("files", {}).items():
        if skip is not None and skip(name):
            continue
        path = folder / name
        if not path.is_file():
            raise error(f"{path}: is missing, though {MANIFEST} lists it")
        if path.stat().st_size != expected["bytes"]:
            raise error(f"{path}: has {path.stat().st_size:,} bytes, not the {expected['bytes']:,} that were written")
        if contents and sha256_of(path) != expected["sha256"]:
            raise error(f"{path}: was altered after it was written (sha256 differs from {MANIFEST})")
    return manifest


def sweep(parent: Path) -> None:
    """Remove scratch files and folders that a process no longer alive left in `parent`."""
    for path in parent.glob(f"{_SCRATCH}*"):
        pid = path.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdecimal() and _alive(int(pid)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        return True
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
