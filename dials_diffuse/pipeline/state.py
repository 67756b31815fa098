"""The state of a run in its folder: which tasks are finished, and which process holds the folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from dials_diffuse.io.atomic import remove_leftovers
from dials_diffuse.io.json_file import write_json
from dials_diffuse.pipeline.step_parameters import STEP_FILES, Files
from dials_diffuse.pipeline.tasks import Task, TaskResult, identity_of

logger = logging.getLogger("dials.diffuse.pipeline.state")

STATE_FILE = "diffuse_process.state.json"
LOCK_FILE = ".diffuse_process.lock"
_PATIENCE = 10.0  # s, for what a killed run has left behind to end


class State:
    """The finished tasks of a folder, in a file that is rewritten after each.

    Args:
        folder: working directory of the run
    """

    def __init__(self, folder: Path):
        self.path = Path(folder, STATE_FILE)
        self._tasks: dict[str, dict] = {}
        self._pairs: dict[str, list[list[str]]] = {}
        remove_leftovers(self.path)
        try:
            contents = json.loads(self.path.read_text())
            self._tasks = {k: dict(v) for k, v in contents["tasks"].items()}
            self._pairs = {k: [list(pair) for pair in v] for k, v in contents["pairs"].items()}
        except FileNotFoundError:
            logger.debug("Nothing has been run in this folder")
        except (ValueError, KeyError, TypeError, AttributeError):
            logger.warning("Warning: %s is not readable: what was finished is run again", self.path)

    def pairs(self, step: str) -> list[Files]:
        """The .expt and .refl files that a step has left; those of its command by default"""
        known = self._pairs.get(step) or [STEP_FILES[step]]
        return [tuple(pair) for pair in known]

    def set_pairs(self, step: str, pairs: list[Files]) -> None:
        """Record the files that a step has written."""
        self._pairs[step] = [list(pair) for pair in pairs]
        self._write()

    def forget_steps(self, steps: list[str]) -> None:
        """These are going to be run again."""
        for step in steps:
            self._pairs.pop(step, None)
        self._write()

    def finished(self, task: Task, key: str) -> TaskResult | None:
        """The result of an earlier run, if nothing has changed that it depends on and its outputs are
        still what it wrote."""
        record = self._tasks.get(task.name)
        if record is None or record.get("key") != key:
            return None
        outputs = record["outputs"]
        if not record["empty"] and sorted(outputs) != sorted(task.outputs):
            return None
        if any(identity_of(task.path(name))[1:] != found for name, found in outputs.items()):
            return None
        return TaskResult(
            task.name,
            record["seconds"],
            record["attempts"],
            record["memory"],
            record["empty"],
            record["reason"],
            outputs,
            skipped=True,
        )

    def add(self, result: TaskResult, key: str) -> None:
        """Record a task as finished."""
        self._tasks[result.name] = {
            "key": key,
            "seconds": round(result.seconds, 3),
            "attempts": result.attempts,
            "memory": round(result.memory, 1),
            "empty": result.empty,
            "reason": result.reason,
            "outputs": result.outputs,
        }
        self._write()

    def forget(self, name: str) -> None:
        """A task that is about to run again is not finished."""
        if self._tasks.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        write_json(self.path, {"pairs": self._pairs, "tasks": self._tasks}, indent=1)


def _holder(text: str) -> dict:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}


def _is_gone(holder: dict) -> bool:
    """The run that took the lock has ended, and only its children may be left."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[int]:
    """Hold the folder; the kernel lets go of it when the last process that has the descriptor ends,
    however it ends.

    Yields:
        the descriptor, for children to inherit

    Raises:
        ValueError: the folder can't be written to, or another run holds it.
    """
    path = Path(folder, LOCK_FILE)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ValueError(f"Can't write in {folder}: {error.strerror}") from error
    try:
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                holder = _holder(os.pread(handle, 4096, 0).decode(errors="replace"))
                if not isinstance(error, BlockingIOError):
                    raise ValueError(f"Can't lock {path}: {error.strerror}") from error
                if not _is_gone(holder) or time.monotonic() > give_up:
                    raise ValueError(
                        f"Another dials.diffuse_process is running in {folder} (process {holder.get('pid', '?')} on "
                        f"{holder.get('host', '?')}): wait until it has ended, or work in another folder"
                    ) from error
                time.sleep(0.2)
        os.ftruncate(handle, 0)
        os.pwrite(
            handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0
        )
        yield handle
    finally:
        os.close(handle)
