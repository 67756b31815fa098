"""The process of a task: its exit codes, and its end with the process that started it."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

import pytest

from dials_diffuse.adapters.stills import NothingLeft
from dials_diffuse.pipeline import child


@pytest.fixture
def run_main(monkeypatch):
    """run_main(function, *args) calls child.main for a module whose run() is the function."""
    # The thread that ends the process group with its parent is not for this process
    monkeypatch.setattr(os, "getpgrp", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def call(function, *args):
        monkeypatch.setitem(sys.modules, "a.command", SimpleNamespace(run=function))
        child.main([str(os.getppid()), "a.command", *args])

    return call


def test_the_command_gets_its_arguments(run_main):
    calls = []
    run_main(calls.append, "in.expt", "d_min=2")
    assert calls == [["in.expt", "d_min=2"]]
    assert sys.argv == ["command", "in.expt", "d_min=2"]


@pytest.mark.parametrize(
    "cause, code",
    [
        (ChildProcessError("a worker was killed"), child.KILLED_WORKER),
        (NothingLeft("all dark"), child.NOTHING_LEFT),
        (ValueError("no such crystal"), "Sorry: the message"),
        (None, "Sorry: the message"),
    ],
)
def test_exit_codes_tell_the_cause(run_main, capsys, cause, code):
    def run(args):
        try:
            # as handle_errors does: the cause is not the direct one
            raise RuntimeError("between") from cause
        except RuntimeError as error:
            raise SystemExit("Sorry: the message") from error

    with pytest.raises(SystemExit) as caught:
        run_main(run)
    assert caught.value.code == code
    # an exit code of its own leaves the message to be printed here
    assert capsys.readouterr().err == ("Sorry: the message\n" if isinstance(code, int) else "")


def test_an_error_of_the_program_is_not_hidden(run_main):
    def run(args):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(run)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_children_end_with_their_parent(make_task, tmp_path):
    """Also when the parent is killed, and with workers that they have started"""
    import signal
    import subprocess

    make_task(
        "child = os.fork()\nopen(f'pid{child > 0}', 'w').write(str(os.getpid()))\ntime.sleep(60)",
        name="slow",
    )
    program = (
        "from dials_diffuse.pipeline.tasks import Task, run_task\n"
        f"run_task(Task('slow', 'mask', 'command_of_slow', {str(tmp_path)!r}, (), ()))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    end = time.monotonic() + 60
    names = [tmp_path / "pidTrue", tmp_path / "pidFalse"]
    while not all(path.is_file() and path.read_text() for path in names) and time.monotonic() < end:
        time.sleep(0.02)
    pids = [int(path.read_text()) for path in names]
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def alive(pid):
        try:
            with open(f"/proc/{pid}/stat") as handle:
                return handle.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, pids))
