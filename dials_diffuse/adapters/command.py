"""The frame of all commands: parse the command line, start the log, report errors in one line."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from libtbx.utils import Sorry

import dials.util.log
from dials.util import enable_faulthandler, make_sys_exit_red
from dials.util.options import ArgumentParser
from dials.util.version import dials_version

import dials_diffuse
from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.system import keep_freed_memory, one_thread_of_algebra

logger = logging.getLogger("dials.diffuse")

# 128 and the number of the signal, as shells count
INTERRUPTED = 128 + signal.SIGINT


@contextlib.contextmanager
def _errors_to_the_right_address():
    try:
        yield
    except (Sorry, KeyboardInterrupt):
        raise
    except (ValueError, OSError) as error:
        # What a user can act on gets one line; -vv shows where it came from
        logger.debug("The error came from here:", exc_info=True)
        raise Sorry(str(error)) from error
    except Exception as error:
        text = f"Please report this error to {dials_diffuse.BUG_REPORTS}:"
        error.args = (f"{text} {error.args[0]}", *error.args[1:]) if error.args else (text,)
        raise


def handle_errors() -> Callable:
    """Decorator of a command's run(): user errors become one line and exit code 1, Ctrl-C one line and 130."""

    def decorate(run):
        @functools.wraps(run)
        def wrapped(*args, **kwargs):
            with enable_faulthandler(), make_sys_exit_red(), one_thread_of_algebra():
                try:
                    with _errors_to_the_right_address():
                        return run(*args, **kwargs)
                except Sorry as error:
                    raise SystemExit(f"Sorry: {error}") from error
                except KeyboardInterrupt as error:
                    print("\nInterrupted. Files are written whole or not at all.", file=sys.stderr)
                    raise SystemExit(INTERRUPTED) from error

        return wrapped

    return decorate


def check_outputs(output) -> None:
    """Find out before the work, not after it, that a file can't be written.

    Args:
        output: extracted output scope

    Raises:
        ValueError: names the file.
    """
    for name, value in vars(output).items():
        if name.startswith("__") or not isinstance(value, str):
            continue
        path = Path(value).absolute()
        if not path.parent.is_dir():
            raise ValueError(f"Can't write {value}: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise ValueError(f"Can't write {value}: no permission to write to {path.parent}")


# Of the command that runs, or has run, in this process: (logger, handler)
_handlers: list[tuple[logging.Logger, logging.Handler]] = []


def _start_handlers(verbosity: int, logfile: str | None) -> None:
    """Start the log as DIALS does, and end that of a command that ran before in this process.

    Otherwise a program that calls several commands gets each line as often as it has called some.
    """
    while _handlers:
        log, handler = _handlers.pop()
        log.removeHandler(handler)
        handler.close()
    loggers = [logging.getLogger(name) for name in ("dials", "dxtbx", "xfel", "py.warnings")]
    before = {log: list(log.handlers) for log in loggers}
    dials.util.log.config(verbosity=verbosity, logfile=logfile)
    for log in loggers:
        _handlers.extend((log, new) for new in log.handlers if new not in before[log])


@dataclass
class Command:
    """A parsed command line.

    Attributes:
        params: extracted PHIL parameters
        inputs: the files that were named
    """

    params: object
    inputs: Inputs
    modified: str
    verbosity: int

    def start_log(self) -> None:
        """Start console and file log, and say who runs with which parameters.

        Raises:
            ValueError: a file of the output scope can't be written.
        """
        check_outputs(self.params.output)
        _start_handlers(self.verbosity, self.params.output.log)
        logger.info(dials_version())
        logger.info("dials_diffuse %s", dials_diffuse.__version__)
        if self.modified:
            logger.info("The following parameters have been modified:\n\n%s\n", self.modified)


def name_choices_of_none(scope, params) -> None:
    """Set choices that have the word none, and were given it, to "none": for PHIL an unquoted none is None.

    Args:
        scope: PHIL scope
        params: an extract of it, changed
    """
    for item in scope.objects:
        value = getattr(params, item.name, None)
        if item.is_scope:
            for part in value if isinstance(value, list) else [value]:
                if part is not None:
                    name_choices_of_none(item, part)
        elif value is None and item.type.phil_type == "choice":
            if any(word.value.lstrip("*") == "none" for word in item.words):
                setattr(params, item.name, "none")


# What PHIL gives a meaning to, in a value that is no file name
_OF_PHIL = re.compile(r"""[{};#"'\\$]|\s""")
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.]*)\s*=(.*)", re.DOTALL)


def quote_names(args: list[str], phil) -> list[str]:
    """Quote the values of arguments that are names or texts, so that PHIL takes them as they are.

    The shell has removed the user's own quotes, and a folder may be called "it's; a=b" or "cell {x}".

    Args:
        args: of the command line
        phil: scope of the command

    Returns:
        the arguments; those whose value is quoted already, or of another type, as they were
    """
    texts, others = set(), set()
    for item in phil.all_definitions():
        kind = item.object.type.phil_type if item.object.type is not None else None
        (texts if kind in ("path", "str") else others).add(item.path)
    quoted = []
    for arg in args:
        match = _ASSIGNMENT.fullmatch(arg)
        if match is not None and not os.path.isfile(arg):
            name, value = match.groups()
            whole = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            is_text = name in texts or (_ends_with(texts, name) and not _ends_with(others, name))
            if is_text and not whole and _OF_PHIL.search(value):
                escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                arg = f"{name}='{escaped}'"
        quoted.append(arg)
    return quoted


def _ends_with(paths: set[str], name: str) -> bool:
    return any(path == name or path.endswith(f".{name}") for path in paths)


def parse_command(
    args: list[str] | None,
    phil,
    usage: str,
    epilog: str | None,
    other_suffixes: tuple[str, ...] | None = (".json",),
    needs_input: bool = True,
    extra_reflections: bool = False,
) -> Command | None:
    """Parse the command line of a dials.diffuse_* command.

    Args:
        args: arguments, None for those of the process
        phil: the command's scope; must hold output.log
        usage, epilog: for -h
        other_suffixes: file types the command takes besides .expt and .refl; None: all (images)
        needs_input: without any input file, print the help and return None
        extra_reflections: tables without experiments (merged ones) are expected too: all .refl
            files are then in others, and no pair has one

    Raises:
        Sorry: unknown argument or parameter, bad value, missing file, .expt and .refl that
            can't be paired.
    """
    if args is None:
        # the process is ours, and nobody else's work suffers
        keep_freed_memory()
        args = sys.argv[1:]
    parser = ArgumentParser(usage=usage, phil=phil, epilog=epilog)
    try:
        params, options, names = parser.parse_args(
            args=quote_names(args, phil), show_diff_phil=False, return_unhandled=True
        )
    except (RuntimeError, ValueError) as error:
        raise Sorry(" ".join(str(error).split())) from error
    name_choices_of_none(phil, params)
    if needs_input and not names:
        parser.print_help()
        return None
    experiments, reflections, others = [], [], []
    for name in names:
        path = Path(name)
        known = (".expt", ".refl", *(other_suffixes or ()))
        if path.suffix not in known and not (other_suffixes is None and path.is_file()):
            raise Sorry(
                f"Unable to handle the argument {name!r}: neither a parameter nor a file of type "
                + ", ".join(known)
                + (", nor an image that is there" if other_suffixes is None else "")
            )
        if not path.is_file():
            raise Sorry(f"No such file: {name}")
        {".expt": experiments, ".refl": reflections}.get(path.suffix, others).append(path)
    if extra_reflections:
        others += reflections
        reflections = []
    if reflections and len(experiments) != len(reflections):
        raise Sorry(
            f"There are {len(experiments)} .expt and {len(reflections)} .refl files: "
            "give them in pairs, in the same order"
        )
    pairs = [
        DataPair(expt, refl)
        for expt, refl in zip(experiments, reflections or [None] * len(experiments))
    ]
    return Command(
        params, Inputs(pairs, others), parser.diff_phil.as_str().strip(), options.verbose
    )
