from __future__ import annotations

import importlib
import pathlib
import re

import pytest

from iotbx.phil import parse

PHIL = pathlib.Path(__file__).resolve().parent.parent / "phil"
COMMANDS = PHIL.parent / "command_line"
MODULES = sorted(path.stem for path in PHIL.glob("*.py") if path.stem != "__init__")
STEPS = sorted(path.stem.removeprefix("diffuse_") for path in COMMANDS.glob("diffuse_*.py"))


def definitions(scope, prefix=""):
    """(full name, definition) of every parameter below a PHIL scope."""
    for item in scope.objects:
        name = f"{prefix}{item.name}"
        if item.is_definition:
            yield name, item
        else:
            yield from definitions(item, f"{name}.")


def flaws(scope):
    """Names of the parameters of a scope that lack help or type."""
    return {
        name
        for name, definition in definitions(scope)
        if not (definition.help or "").strip() or definition.type is None
    }


def flaws_of_included_scopes(module_path):
    """Those that come with scopes of DIALS that the module includes as they are."""
    text = module_path.read_text()
    found = set()
    for scope in re.findall(r"include scope (\S+)", text):
        if not scope.startswith("dials_diffuse."):
            found |= flaws(parse(f"include scope {scope}", process_includes=True))
    return found


@pytest.mark.parametrize("name", sorted({*MODULES, *STEPS} - {"common", "defaults"}))
def test_every_parameter_has_help_and_type(name):
    scope = importlib.import_module(f"dials_diffuse.phil.{name}").phil_scope
    assert list(definitions(scope))
    not_ours = {
        included for stem in MODULES for included in flaws_of_included_scopes(PHIL / f"{stem}.py")
    }
    assert [
        flaw
        for flaw in sorted(flaws(scope))
        if not any(f".{flaw}".endswith(f".{included}") for included in not_ours)
    ] == []


@pytest.mark.parametrize("name", STEPS)
def test_no_scope_is_shown_empty(name):
    # As -c shows them: without the parameters of experts
    scope = importlib.import_module(f"dials_diffuse.phil.{name}").phil_scope
    assert re.findall(r"^ *(\w+) *\{\s*\}", scope.as_str(expert_level=0), re.MULTILINE) == []


@pytest.mark.parametrize("step", ["extract", "grid", "scale", "absolute"])
def test_help_tells_where_lost_models_can_be_had(step):
    scope = importlib.import_module(f"dials_diffuse.phil.{step}").phil_scope
    assert "copy of the grid and scaling models" in dict(definitions(scope))["output.json"].help
