"""Work killed at each of its points (calls of some functions), then done again: for scripts run in a process apart."""

import json
import os
import signal
from pathlib import Path

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
}
"""Of a process whose script imports this module."""


def counted(places, point):
    """Let every call of `places`, pairs of module or class and name, count; the `point`-th kills the process.

    Return a function that tells the count.
    """
    count = 0

    def counting(original):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for module, name in places:
        setattr(module, name, counting(getattr(module, name)))
    return lambda: count


def in_fork(places, work, point):
    """Do the work in a fork, killed at its `point`-th call (0: at none); return its status and what `work` returned.

    That is a dictionary, as JSON, with the number of `points` added.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        points = counted(places, point)
        row = work() | {"points": points()}
        os.write(write, json.dumps(row).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], said


def at_every_point(places, work, clear):
    """Print what `work` returns undisturbed, then, for every point, killed there and done again, `clear`ed before."""
    work()  # here, so that what is imported late is there in every fork
    clear()
    _, whole = in_fork(places, work, 0)
    print(whole, flush=True)
    for point in range(1, json.loads(whole)["points"] + 1):
        clear()
        status, _ = in_fork(places, work, point)
        assert status == signal.SIGKILL, (point, status)
        status, again = in_fork(places, work, 0)
        assert status == 0, point
        print(again, flush=True)
