"""Text that lies in installed packages: found through their metadata, checked by hash. No package is ever imported."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from danlu import storage
from danlu.errors import DataError

_INSTALL = 'pip install -e ".[demo]"'


@dataclass(frozen=True)
class Package:
    """One version of a package, and the sha256 of those of its files that hold text."""

    name: str
    version: str
    sha256: Mapping[str, str]

    def files(self, source: str) -> list[Path]:
        """Return its files. Raises DataError, for `source`, where the package is missing or holds something else."""
        try:
            distribution = importlib.metadata.distribution(self.name)
        except importlib.metadata.PackageNotFoundError:
            raise DataError(f"{source}: its text comes with a package that is missing: {_INSTALL}") from None
        found = [Path(str(distribution.locate_file(name))) for name in self.sha256]
        for path, expected in zip(found, self.sha256.values(), strict=True):
            if not path.is_file() or storage.sha256_of(path) != expected:
                install = f"pip install --force-reinstall {self.name}=={self.version}"
                raise DataError(f"{path}: is not the file of {self.name} {self.version}: {install}")
        return found
