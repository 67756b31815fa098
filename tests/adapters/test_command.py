"""What all commands do alike."""

from __future__ import annotations

import logging

import pytest

from iotbx.phil import parse
from libtbx.utils import Sorry

import dials_diffuse
from dials_diffuse.adapters.command import (
    handle_errors,
    name_choices_of_none,
    parse_command,
    quote_names,
)

SCOPE = """
number = 3
  .type = int(value_min=1)
  .help = "A number."
output {
  log = command.log
    .type = path
    .help = "The log."
}
"""


@pytest.fixture
def phil():
    return parse(SCOPE)


@pytest.fixture
def files(run_in_tmp_path):
    for name in ("a.expt", "a.refl", "b.expt", "b.refl", "c.json", "notes.txt", "model.pdb"):
        (run_in_tmp_path / name).write_text("")
    return run_in_tmp_path


def parsed(args, phil, **options):
    return parse_command(args, phil, "usage", "epilog", **options)


def test_files_are_paired_in_their_order(files, phil):
    command = parsed(["a.expt", "b.expt", "number=5", "a.refl", "c.json", "b.refl"], phil)
    assert [(p.experiments.name, p.reflections.name) for p in command.inputs.pairs] == [
        ("a.expt", "a.refl"),
        ("b.expt", "b.refl"),
    ]
    assert command.params.number == 5
    assert [path.name for path in command.inputs.model_copies()] == ["c.json"]
    assert command.modified == "number = 5"


def test_experiments_alone_and_tables_apart(files, phil):
    command = parsed(["a.expt", "b.expt"], phil)
    assert [pair.reflections for pair in command.inputs.pairs] == [None, None]
    command = parsed(["a.expt", "a.refl", "b.refl"], phil, extra_reflections=True)
    assert [pair.reflections for pair in command.inputs.pairs] == [None]
    assert [path.name for path in command.inputs.others] == ["a.refl", "b.refl"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["absent.expt"], "No such file: absent.expt"),
        (
            ["a.expt", "notes.txt"],
            "'notes.txt'.*neither a parameter nor a file of type .expt, .refl, .json",
        ),
        (["a.expt", "model.pdb"], "model.pdb"),
        (["a.expt", "colour=red"], "colour=red"),
        (["a.expt", "b.expt", "a.refl"], "2 .expt and 1 .refl files"),
        (["a.refl"], "0 .expt and 1 .refl files"),
    ],
)
def test_what_can_not_be_meant(files, phil, args, message):
    with pytest.raises(Sorry, match=message):
        parsed(args, phil)


@pytest.mark.parametrize("value", ["many", "0"])
def test_bad_values_end_with_one_message(files, phil, value, capsys):
    """Newer DIALS leaves by itself, older ones raise what becomes a Sorry."""
    with pytest.raises((Sorry, SystemExit)) as caught:
        parsed(["a.expt", f"number={value}"], phil)
    assert "number" in str(caught.value) + capsys.readouterr().err


def test_other_files_where_the_command_takes_them(files, phil):
    command = parsed(["a.expt", "model.pdb"], phil, other_suffixes=(".json", ".pdb"))
    assert [path.name for path in command.inputs.others] == ["model.pdb"]
    assert command.inputs.model_copies() == []


def test_no_input(run_in_tmp_path, phil, capsys):
    assert parsed([], phil) is None
    assert "epilog" in capsys.readouterr().out
    assert parsed([], phil, needs_input=False).inputs.pairs == []


@pytest.mark.parametrize(
    "error, message",
    [
        (ValueError("what to do"), "Sorry: what to do"),
        (FileNotFoundError(2, "No such file or directory", "x.h5"), "x.h5"),
        (Sorry("already one"), "Sorry: already one"),
    ],
)
def test_user_errors_become_one_line(error, message):
    @handle_errors()
    def run():
        raise error

    with pytest.raises(SystemExit) as caught:
        run()
    # a string makes the exit code 1
    assert message in str(caught.value.code) and "Please report" not in str(caught.value.code)


@pytest.mark.parametrize("error", [KeyError("voxel"), RuntimeError(), RuntimeError("odd", 3)])
def test_our_errors_go_to_our_address(error):
    @handle_errors()
    def run():
        raise error

    with pytest.raises(type(error)) as caught:
        run()
    assert dials_diffuse.BUG_REPORTS in str(caught.value.args[0])
    assert "dials-support" not in str(caught.value.args)


def test_log_tells_versions_and_parameters(files, phil):
    command = parsed(["a.expt", "number=5"], phil)
    root = logging.getLogger("dials")
    before = list(root.handlers)
    try:
        command.start_log()
        logging.getLogger("dials.diffuse.some.room").info("a line of ours")
    finally:
        # others write to the screen, which after earlier tests is a closed one
        for handler in root.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.flush()
        root.handlers[:] = before
    text = (files / "command.log").read_text()
    assert "DIALS" in text and dials_diffuse.__version__ in text
    assert "number = 5" in text and "a line of ours" in text


def test_result_is_passed_on():
    assert handle_errors()(lambda x: x + 1)(2) == 3


@pytest.mark.parametrize("name", ["nowhere/a.log", "a.expt/a.log"])
def test_outputs_that_can_not_be_written_are_found_before_the_work(files, phil, name):
    command = parsed(["a.expt", f"output.log={name}"], phil)
    with pytest.raises(ValueError, match=f"Can't write {name}"):
        command.start_log()


CHOICES = """
method = none *radial adaptive
  .type = choice
  .help = "A method."
group
  .multiple = True
  .help = "Some."
{
  kind = *one two
    .type = choice
    .help = "No none among them."
  other = *none some
    .type = choice
    .help = "One."
}
"""


@pytest.mark.parametrize("text", ["none", "None", '"none"'])
def test_the_word_none_of_a_choice_is_that_word(files, tmp_path, text):
    """PHIL takes it for None, as if nothing were chosen"""
    command = parsed(["a.expt", f"method={text}"], parse(SCOPE + CHOICES))
    assert command.params.method == "none"
    (tmp_path / "more.phil").write_text(
        "group { kind = None\n other = none }\ngroup { other = some }"
    )
    command = parsed(["a.expt", str(tmp_path / "more.phil")], parse(SCOPE + CHOICES))
    assert command.params.method == "radial"
    assert [(part.kind, part.other) for part in command.params.group[-2:]] == [
        (None, "none"),
        ("one", "some"),
    ]


def test_every_choice_of_a_command_can_be_none():
    """Those of the parameters that have the word"""
    from dials_diffuse.phil import absolute, extract, mask

    for module, name in (
        (extract, "background_smoothing"),
        (extract, "corrections.lorentz"),
        (mask, "bragg.method"),
        (absolute, "pairs"),
    ):
        scope = module.phil_scope
        path = next(item.path for item in scope.all_definitions() if item.path.endswith(name))
        interpreter = scope.command_line_argument_interpreter()
        params = scope.fetch(interpreter.process(f"{path}=none")).extract()
        name_choices_of_none(scope, params)
        value = params
        for part in path.split("."):
            value = getattr(value, part)
        assert value == "none", path


def test_a_second_command_of_a_program_logs_once(files, phil, capsys):
    for _ in range(3):
        parsed(["a.expt", "a.refl"], phil).start_log()
        # as where the stream of the first command is gone, as that of a notebook's cell
        capsys.readouterr()
        logging.getLogger("dials.diffuse.test").info("only once")
        output = capsys.readouterr()
        assert output.out.count("only once") == 1 and not output.err
    text = (files / "command.log").read_text()
    assert text.count("only once") == 1


NAMES = ["cell {x}", "it's; a=b", "run #3", 'say "hi"', "back\\slash", "two  spaces", "$(nobody)"]


@pytest.mark.parametrize("folder", NAMES)
@pytest.mark.parametrize("name", ["background", "output.log", "log"])
def test_names_of_files_are_taken_as_they_are(folder, name):
    scope = parse(
        """
        background = None
          .type = str
        output { log = x
          .type = path
        }
        part { background = True
          .type = bool
        }
        """
    )
    value = f"/data/{folder}/file"
    (argument,) = quote_names([f"{name}={value}"], scope)
    params = scope.fetch(scope.command_line_argument_interpreter().process(argument)).extract()
    assert (params.background if name == "background" else params.output.log) == value


def test_other_arguments_stay_as_they_are():
    scope = parse("size = 1 2\n  .type = ints\nname = None\n  .type = str\nscope { x = 1 }")
    args = ["size='1 2'", "name='in quotes; yes'", "scope { x=2 }", "a b.expt", "name=plain", "-v"]
    assert quote_names(args, scope) == args
