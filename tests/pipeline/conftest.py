from __future__ import annotations

import os
import textwrap

import pytest

from dials_diffuse.pipeline.tasks import Task


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
