from __future__ import annotations

import dataclasses
import os

import pytest

from dials_diffuse.pipeline.tasks import Children, TaskError, run_task

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
