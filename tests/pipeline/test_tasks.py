from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import textwrap
import time

import pytest

from dials_diffuse.pipeline.executors import DaskExecutor, LocalExecutor
from dials_diffuse.pipeline.tasks import Children, Task, TaskError, run_task


@pytest.fixture
def make_task(tmp_path, monkeypatch):
    """make_task(body of run(args)) is a task whose command is that"""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def make(body, name="step", **more):
        module = f"command_of_{name}"
        text = "import os, pathlib, signal, sys, time\ndef run(args):\n" + textwrap.indent(
            textwrap.dedent(body), "    "
        )
        (tmp_path / f"{module}.py").write_text(text)
        return Task(name, "mask", module, str(tmp_path), (), (f"{name}.out",), **more)

    return make


WRITES = "pathlib.Path(f'{__name__[11:]}.out').write_text(' '.join(args))"


def test_arguments_parameters_and_outputs(make_task, tmp_path):
    task = make_task(WRITES, arguments=("a=1",), phil="x = 2\n", phil_file="step.phil", nproc=3)
    result = run_task(task)
    assert (tmp_path / "step.out").read_text() == "step.phil a=1 nproc=3"
    assert (tmp_path / "step.phil").read_text() == "x = 2\n"
    assert result.attempts == 1 and 1 < result.memory < 10000 and result.seconds > 0
    assert result.outputs["step.out"][0] == len("step.phil a=1 nproc=3")


def test_an_error_is_one_line_and_is_not_tried_again(make_task, tmp_path):
    task = make_task("open('tries', 'a').write('x'); raise SystemExit('Sorry: no such crystal')")
    with pytest.raises(TaskError, match="^step failed: no such crystal$"):
        run_task(task, retries=3)
    assert (tmp_path / "tries").read_text() == "x"


def test_a_missing_output_is_an_error(make_task):
    with pytest.raises(TaskError, match="did not write step.out"):
        run_task(make_task("pass"))


def test_a_killed_process_is_tried_again_without_workers(make_task, tmp_path):
    task = make_task(
        """
        first = not os.path.exists('tries')
        open('tries', 'a').write(args[-1] + ' ')
        if first:
            pathlib.Path('.step-abcdefgh.out').write_text('half')
            os.kill(os.getpid(), signal.SIGKILL)
        """
        + "pathlib.Path('step.out').write_text('done')",
        nproc=2,
    )
    assert run_task(task).attempts == 2
    assert (tmp_path / "tries").read_text() == "nproc=2 nproc=1 "
    assert not (tmp_path / ".step-abcdefgh.out").exists()


def test_a_process_that_is_always_killed(make_task):
    with pytest.raises(TaskError, match=r"killed by SIGKILL, 3 times.*Out of memory\?"):
        run_task(make_task("os.kill(os.getpid(), signal.SIGKILL)"), retries=2)


def test_a_killed_worker_is_told_from_other_errors(make_task):
    task = make_task("raise SystemExit('Sorry') from ChildProcessError('a worker was killed')")
    with pytest.raises(TaskError, match="one of its worker processes was killed, 1 times"):
        run_task(task, retries=0)


def test_nothing_left_is_an_error_only_where_it_may_not_be(make_task):
    task = make_task(
        "from dials_diffuse.adapters.stills import NothingLeft; raise SystemExit('Sorry: all dark') from NothingLeft('all dark')",
        may_be_empty=True,
    )
    result = run_task(task)
    assert result.empty and result.reason == "all dark"
    with pytest.raises(TaskError, match="all dark"):
        run_task(dataclasses.replace(task, may_be_empty=False))


def dask_executor(nproc):
    pytest.importorskip("distributed")
    return DaskExecutor(None, nproc)


@pytest.mark.parametrize("executor_of", [LocalExecutor, dask_executor])
def test_the_first_error_ends_the_others(make_task, tmp_path, executor_of):
    slow = make_task("open('pid', 'w').write(str(os.getpid())); time.sleep(60)", name="slow")
    bad = make_task(
        "\nwhile not os.path.exists('pid'): time.sleep(.01)\nraise SystemExit('Sorry: bad')",
        name="bad",
    )
    with contextlib.closing(executor_of(2)) as executor:
        start = time.monotonic()
        with pytest.raises(TaskError, match="bad"):
            list(executor.run([slow, bad]))
        pid = int((tmp_path / "pid").read_text())
        while time.monotonic() - start < 45:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the other task goes on")


def test_nothing_starts_after_a_stop(make_task):
    children = Children()
    children.stop()
    with pytest.raises(TaskError, match="Stopped"):
        run_task(make_task(WRITES), children=children)


def test_key_follows_inputs_and_parameters(make_task, tmp_path):
    task = make_task(WRITES)
    (tmp_path / "input").write_text("1")
    task = dataclasses.replace(task, inputs=("input",))
    key = task.key()
    assert task.key() == key
    assert dataclasses.replace(task, nproc=7).key() == key
    assert dataclasses.replace(task, phil="d_min = 2").key() != key
    assert dataclasses.replace(task, watched=("image",)).key() != key
    os.utime(tmp_path / "input", ns=(1, 1))
    changed = task.key()
    assert changed != key
    (tmp_path / "input").unlink()
    assert task.key() not in (key, changed)


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
