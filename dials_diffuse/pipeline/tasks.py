"""A task: one command with its files and parameters, run in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import dials_diffuse
from dials_diffuse.io.atomic import remove_leftovers, replacing
from dials_diffuse.pipeline.child import KILLED_WORKER, NOTHING_LEFT

logger = logging.getLogger("dials.diffuse.pipeline.tasks")


class TaskError(ValueError):
    """A task that failed, with what a user needs to know in one line."""


@dataclass(frozen=True)
class Task:
    """One command to run.

    Attributes:
        name: unique in a run, such as extract_0003
        step: mask, extract, ...
        module: whose run(args) is the command
        folder: where it runs; all other paths are relative to it or absolute
        inputs: files that it reads
        outputs: files that must be there afterwards
        arguments: of the command, besides inputs and parameters
        phil: parameters that differ from the command's defaults, as PHIL
        phil_file: name of the file that they are given to the command in; None: there are none
        log, json: files of the command for people and for the report; may be None
        nproc: processes the command may start; None: it knows no nproc. Results must not
            depend on it
        may_be_empty: not one usable still among many is not an error
        stills: number of stills, 0 where not known
        watched: further files that the result depends on: images, files named in parameters
    """

    name: str
    step: str
    module: str
    folder: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    phil: str = ""
    phil_file: str | None = None
    log: str | None = None
    json: str | None = None
    nproc: int | None = None
    may_be_empty: bool = False
    stills: int = 0
    watched: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """A file of the task, absolute"""
        return Path(self.folder, name)

    def remove_leftovers(self) -> None:
        """Remove what an attempt that was killed has not finished writing."""
        for name in (
            *self.outputs,
            self.json,
            self.log and str(Path(self.log).with_suffix(".html")),
        ):
            if name:
                remove_leftovers(self.path(name))

    def key(self) -> str:
        """What the outputs follow from: command, program, parameters and input files, as a hash.

        Input files count by name, size and time of change.
        """
        identity = {
            "module": self.module,
            "version": program_version(),
            "arguments": self.arguments,
            "phil": self.phil,
            "outputs": self.outputs,
            "inputs": [identity_of(self.path(name)) for name in (*self.inputs, *self.watched)],
        }
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def command(self, nproc: int | None) -> list[str]:
        """The command line of the process"""
        arguments = [*self.inputs]
        if self.phil_file is not None:
            arguments.append(self.phil_file)
        arguments += self.arguments
        if nproc is not None:
            arguments.append(f"nproc={nproc}")
        return [
            sys.executable,
            "-m",
            "dials_diffuse.pipeline.child",
            str(os.getpid()),
            self.module,
            *arguments,
        ]


@dataclass
class TaskResult:
    """How a task went.

    Attributes:
        name: of the task
        seconds: wall-clock time
        attempts: how often its process was started
        memory: the most that its process, or one of the process's workers, had, Mbyte
        empty: not one still could be used
        reason: why it is empty
        outputs: file name -> [size, time of change in ns]
        skipped: finished in an earlier run
    """

    name: str
    seconds: float = 0.0
    attempts: int = 1
    memory: float = 0.0
    empty: bool = False
    reason: str = ""
    outputs: dict[str, list[int]] = field(default_factory=dict)
    skipped: bool = False


def program_version() -> str:
    """Versions of everything that results depend on"""
    from dials.util.version import dials_version

    return f"dials_diffuse {dials_diffuse.__version__}, {dials_version()}"


def identity_of(path: Path) -> list:
    """[name, size, time of change in ns] of a file, [name] if it is not there"""
    try:
        status = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


_MAXRSS_UNIT = 1e-6 if sys.platform == "darwin" else 1024e-6


class Children:
    """The processes of tasks that run under this one, so that they can be stopped together."""

    def __init__(self):
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self.stopped = False

    def start(self, *args, **kwargs) -> subprocess.Popen:
        """Popen, unless all have been stopped.

        Raises:
            TaskError: they have been
        """
        with self._lock:
            if self.stopped:
                raise TaskError("Stopped")
            process = subprocess.Popen(*args, **kwargs)
            self._running.add(process)
            return process

    def wait(self, process: subprocess.Popen) -> tuple[int, float]:
        """(exit code, most memory in Mbyte that it or a worker of it had), once the process has ended
        and nothing of it is left."""
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss * _MAXRSS_UNIT
        finally:
            _kill_group(process)
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """Kill all, and let no more start."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                _kill_group(process)


def _kill_group(process: subprocess.Popen) -> None:
    """Kill the task's process with all workers that it started or left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _run_once(
    task: Task, nproc: int | None, children: Children, inherit: tuple[int, ...]
) -> tuple[int, float, str]:
    """Exit code (negative: signal), memory in Mbyte, and what was written to stderr."""
    with tempfile.TemporaryFile() as errors:
        process = children.start(
            task.command(nproc),
            cwd=task.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            pass_fds=inherit,
        )
        code, memory = children.wait(process)
        errors.seek(0)
        return code, memory, errors.read().decode(errors="replace")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("Sorry: ") if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def run_task(
    task: Task, retries: int = 1, children: Children | None = None, inherit: tuple[int, ...] = ()
) -> TaskResult:
    """Run a task to its end.

    A process that is killed by a signal (out of memory, usually), or loses one of its workers, is
    started again, the last time without workers, which takes the least memory.

    Args:
        retries: how often
        children: among which its process is
        inherit: file descriptors that the process shall keep open

    Raises:
        TaskError: the command failed, or was killed too often.
    """
    if task.phil_file is not None:
        with replacing(task.path(task.phil_file)) as temporary:
            Path(temporary).write_text(task.phil)
    children = children or Children()
    start = time.monotonic()
    where = f" (see {task.path(task.log)})" if task.log else ""
    for attempt in range(1, retries + 2):
        nproc = task.nproc if attempt <= retries or task.nproc is None else 1
        task.remove_leftovers()
        code, memory, errors = _run_once(task, nproc, children, inherit)
        if code == 0:
            missing = [name for name in task.outputs if not task.path(name).is_file()]
            if missing:
                raise TaskError(f"{task.name} ended well but did not write {missing[0]}{where}")
            return TaskResult(
                task.name,
                time.monotonic() - start,
                attempt,
                memory,
                outputs={name: identity_of(task.path(name))[1:] for name in task.outputs},
            )
        if code == NOTHING_LEFT and task.may_be_empty:
            return TaskResult(
                task.name,
                time.monotonic() - start,
                attempt,
                memory,
                empty=True,
                reason=_last_line(errors),
            )
        if code < 0:
            why = f"its process was killed by {_signal_name(-code)}"
        elif code == KILLED_WORKER:
            why = "one of its worker processes was killed"
        else:
            why = None
        if why is None:
            raise TaskError(
                f"{task.name} failed: {_last_line(errors) or f'exit code {code}'}{where}"
            )
        if attempt <= retries:
            logger.warning("Warning: %s: %s, trying again", task.name, why)
    raise TaskError(
        f"{task.name} failed: {why}, {retries + 1} times. Out of memory? Try a smaller batch_size or "
        f"mp.nproc{where}"
    )
