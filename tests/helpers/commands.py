"""Commands in this process, with what a process of their own would give: three seconds less a call."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import subprocess
import traceback


def run_command(folder, name: str, *arguments) -> subprocess.CompletedProcess:
    """Run a command in a folder.

    Warnings of Python are not seen in stderr: a test of each command runs it as a process.

    Args:
        folder: working directory
        name: such as dials.diffuse_grid
        arguments: of the command line
    """
    module = importlib.import_module(f"dials_diffuse.command_line.{name.removeprefix('dials.')}")
    arguments, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    code, here = 0, os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            module.run(arguments)
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
            err.write(f"{code}\n")
            code = 1
    except Exception:
        err.write(traceback.format_exc())
        code = 1
    finally:
        os.chdir(here)
    return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), err.getvalue())
