"""The engine Ray: the same parts, worked on by the machines of a cluster, or by a small one that is started here."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from danlu.data.cleaning.engines import KILLED, Item, Result, in_order
from danlu.errors import ConfigError, DanluError

ADDRESS = "RAY_ADDRESS"
_PARTS_BYTES = 1 << 26
"""Room in the object store for each part on its way."""


@dataclass(frozen=True, slots=True)
class Ray:
    """Tasks of Ray. All machines must see the sources' and the output's folders under the same paths."""

    workers: int

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
        """Yield the results in order. Raises DanluError where the system killed a worker again and again."""
        ray = _ray()
        task, shared = ray.remote(_call), ray.put(function)

        def finish(result: Any) -> Result:
            try:
                return ray.get(result)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                raise DanluError(KILLED) from None

        return in_order(lambda item: task.remote(shared, item), finish, items, self.workers + 2)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError('--engine ray needs one more package: pip install -e ".[ray]"') from None
    return ray


@contextmanager
def cluster(workers: int) -> Generator[Ray]:
    """Yield an engine on the cluster that RAY_ADDRESS names; where it names none, on one of so many workers here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
    ray, started = _ray(), {"log_to_driver": False, "logging_level": "error"}
    if ADDRESS in os.environ:
        ray.init(**started)
    else:
        room = _PARTS_BYTES * (workers + 3)
        ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=room, **started)
    try:
        yield Ray(workers)
    finally:
        ray.shutdown()
