"""Ctrl-C, which a terminal sends to a command and to all of its processes"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize("nproc", [1, 2])
def test_one_line_and_no_half_written_file(tmp_path, nproc):
    command = ["-m", "dials_diffuse.command_line.diffuse_simulate", "stills=2000", f"nproc={nproc}"]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 120
        while len(list(tmp_path.glob("images/*.cbf"))) < 3:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "Interrupted." in errors and "Traceback" not in errors, errors
    assert not list(tmp_path.glob("simulated.*")) and not list(tmp_path.glob("*.html"))
    # none of its processes goes on
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
