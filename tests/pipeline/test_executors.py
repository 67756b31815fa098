"""Tasks as children of a process and on a dask cluster."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from dials_diffuse.pipeline.executors import DaskExecutor, LocalExecutor
from dials_diffuse.pipeline.tasks import TaskError


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


@pytest.mark.parametrize("executor_of", [LocalExecutor, dask_executor])
def test_tasks_run_at_the_same_time(make_task, executor_of):
    """Each of two tasks waits for the file that the other one writes."""
    body = """
        name, other = __name__[11:], {'one': 'two', 'two': 'one'}[__name__[11:]]
        open(f'{name}.out', 'w').write('done')
        end = time.monotonic() + 60
        while not os.path.exists(f'{other}.out'):
            assert time.monotonic() < end
            time.sleep(0.01)
        """
    tasks = [make_task(body, name=name) for name in ("one", "two")]
    with contextlib.closing(executor_of(2)) as executor:
        results = {result.name: result for result in executor.run(tasks)}
    assert set(results) == {"one", "two"}
    assert [results[name].outputs[f"{name}.out"][0] for name in results] == [4, 4]


def test_processes_are_shared_by_the_tasks_that_run_together():
    executor = LocalExecutor(8)
    assert [executor.processes_for(n) for n in (0, 1, 3, 8, 100)] == [8, 8, 2, 1, 1]
