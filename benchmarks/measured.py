"""A command's time and memory, those of all processes that it starts included."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        wall: seconds of wall clock
        cpu: processor seconds, user and system, of the command and of all that it started
        peak: Mbyte, of the process that had most at a time
    """

    wall: float
    cpu: float
    peak: float


def measure(command: Sequence[str], cwd: str | os.PathLike = ".") -> Measured:
    """Run a command and wait for it and all of its processes.

    Workers that come from a fork server are not the command's children: what they took would count
    nowhere. So this process adopts them (Linux) and waits for them too.

    Raises:
        SystemExit: it failed; with its last words.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        usages = [usage]
        with contextlib.suppress(ChildProcessError):
            while True:
                usages.append(os.wait4(-1, 0)[2])
        if process.returncode:
            errors.seek(0)
            raise SystemExit(
                f"{' '.join(map(str, command))} failed in {cwd}: {errors.read().strip()[-3000:]}"
            )
    return Measured(
        wall, sum(u.ru_utime + u.ru_stime for u in usages), max(u.ru_maxrss for u in usages) / 1024
    )


def ours(step: str, *arguments: str, cwd: str | os.PathLike = ".") -> Measured:
    """Measure dials.diffuse_<step> of this interpreter."""
    return measure(
        [sys.executable, "-m", f"dials_diffuse.command_line.diffuse_{step}", *arguments], cwd
    )


def touch_memory(gigabytes: float = 12.0) -> None:
    """Have the system put real memory behind what is free, at most that much.

    A virtual machine's host may take back what was not used for a while; the next to touch it then
    waits ten times longer for it than on a real machine, which says nothing of who it is.
    """
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = int(min(1e9 * gigabytes, 0.7 * pages))
    code = f"import numpy; kept = [numpy.ones({1 << 27}, dtype=numpy.uint8) for _ in range({size >> 27})]"
    subprocess.run([sys.executable, "-c", code], check=True)
