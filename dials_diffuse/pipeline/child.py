"""Run one command in a process of its own: python -m dials_diffuse.pipeline.child MODULE ARGS...

The process ends when the one that started it ends, however that ends, and its exit code
tells whether it is worth another attempt.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time

from dials_diffuse.adapters.system import keep_freed_memory

# Exit codes, as in sysexits.h
KILLED_WORKER = 75  # EX_TEMPFAIL: a worker process was killed
NOTHING_LEFT = 65  # EX_DATAERR: not one still of the input could be used
_POLL = 0.5  # s


def _follow(parent: int) -> None:
    """End this process and its workers when the parent is gone."""
    while os.getppid() == parent:
        time.sleep(_POLL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _causes(error: BaseException):
    while error is not None:
        yield error
        error = error.__cause__


def _exit_code(stop: SystemExit) -> int | str | None:
    from dials_diffuse.adapters.stills import NothingLeft

    for cause in _causes(stop):
        if isinstance(cause, ChildProcessError):
            return KILLED_WORKER
        if isinstance(cause, NothingLeft):
            return NOTHING_LEFT
    return None


def main(argv: list[str]) -> None:
    """Run MODULE's run() with the arguments.

    Args:
        argv: process id of the parent, module, arguments
    """
    parent, module, *args = argv
    # Only where this process leads its group: others in the group are not ours to end
    if os.getpgrp() == os.getpid():
        threading.Thread(target=_follow, args=(int(parent),), daemon=True).start()
    keep_freed_memory()
    sys.argv = [module.rsplit(".", 1)[-1], *args]
    try:
        importlib.import_module(module).run(args)
    except SystemExit as stop:
        code = _exit_code(stop)
        if code is None:
            raise
        print(stop.code, file=sys.stderr)
        sys.stderr.flush()
        raise SystemExit(code) from stop


if __name__ == "__main__":
    main(sys.argv[1:])
