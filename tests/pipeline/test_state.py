from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from dials_diffuse.pipeline.state import LOCK_FILE, State, folder_lock
from dials_diffuse.pipeline.tasks import Task, TaskResult, identity_of


@pytest.fixture
def task(tmp_path):
    (tmp_path / "out").write_text("result")
    return Task("mask", "mask", "module", str(tmp_path), (), ("out",))


def finish(state, task):
    result = TaskResult(task.name, 1.5, outputs={"out": identity_of(task.path("out"))[1:]})
    state.add(result, "key")


def test_finished_tasks_are_known_again(task, tmp_path):
    finish(State(tmp_path), task)
    found = State(tmp_path).finished(task, "key")
    assert found.skipped and found.seconds == 1.5 and found.outputs["out"][0] == 6


def test_not_finished_with_other_key_or_other_outputs(task, tmp_path):
    finish(State(tmp_path), task)
    state = State(tmp_path)
    assert state.finished(task, "other") is None
    more = Task("mask", "mask", "module", str(tmp_path), (), ("out", "more"))
    assert state.finished(more, "key") is None
    (tmp_path / "out").write_text("resul7")
    os.utime(tmp_path / "out", ns=(5, 5))
    assert state.finished(task, "key") is None
    (tmp_path / "out").unlink()
    assert state.finished(task, "key") is None


def test_forgotten_tasks(task, tmp_path):
    state = State(tmp_path)
    finish(state, task)
    state.forget("mask")
    assert State(tmp_path).finished(task, "key") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tasks": {}}', '{"tasks": 3, "pairs": {}}'])
def test_a_broken_state_is_no_state(task, tmp_path, text):
    (tmp_path / "diffuse_process.state.json").write_text(text)
    state = State(tmp_path)
    assert state.finished(task, "key") is None
    finish(state, task)
    assert State(tmp_path).finished(task, "key") is not None


def test_files_of_steps(tmp_path):
    state = State(tmp_path)
    assert state.pairs("grid") == [("diffuse_gridded.expt", "diffuse_gridded.refl")]
    state.set_pairs("grid", [("a", "b"), ("c", "d")])
    assert State(tmp_path).pairs("grid") == [("a", "b"), ("c", "d")]
    state.forget_steps(["grid"])
    assert len(State(tmp_path).pairs("grid")) == 1


def test_lock(tmp_path):
    program = (
        "from pathlib import Path; from dials_diffuse.pipeline.state import folder_lock\n"
        f"with folder_lock(Path({str(tmp_path)!r})): print('have it')"
    )
    with folder_lock(tmp_path):
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert other.returncode
        message = other.stderr.strip().splitlines()[-1]
        assert f"running in {tmp_path} (process {os.getpid()} on {socket.gethostname()})" in message
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert other.stdout == "have it\n", other.stderr


def test_lock_of_a_dead_run_is_waited_for(tmp_path):
    """Its children hold the lock a moment longer"""
    program = (
        "import fcntl, json, os, socket, subprocess, sys\n"
        f"handle = os.open({str(tmp_path / LOCK_FILE)!r}, os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(handle, fcntl.LOCK_EX)\n"
        "os.write(handle, json.dumps({'pid': os.getpid(), 'host': socket.gethostname()}).encode())\n"
        "subprocess.Popen(['sleep', '2'], pass_fds=[handle], stdout=subprocess.DEVNULL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with folder_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_lock_in_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="Can't write in .*nowhere: No such file or directory"):
        with folder_lock(tmp_path / "nowhere"):
            pass
