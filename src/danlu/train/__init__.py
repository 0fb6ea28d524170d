"""The trainer: one loop, one small step, one class an objective.

The public function `danlu.train` has this package's name, and Python puts a package, once imported, in the place of
that name. So the package answers calls as the function does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        return importlib.import_module("danlu.commands.train_").train(*args, **options)


sys.modules[__name__].__class__ = _Callable
