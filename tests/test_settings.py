"""Every default stands once, in phil/: settings have the names and types of their parameters."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import types
import typing
from pathlib import Path

import pytest

from libtbx import Auto

from dials_diffuse.phil.defaults import default_scope, default_settings

LIBRARY = Path(__file__).resolve().parent.parent / "dials_diffuse"

# What a PHIL type extracts to
TYPES = {
    "bool": {bool},
    "int": {int},
    "float": {float},
    "str": {str},
    "path": {str},
    "choice": {str},
    "ints": {tuple},
    "floats": {tuple},
    "strings": {tuple},
    "unit_cell": {"unit_cell"},
    "space_group": {"space_group_info"},
}


def settings_classes() -> list[type]:
    """All dataclasses of the library whose name ends in Settings."""
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
                name = ".".join(("dials_diffuse", *path.relative_to(LIBRARY).with_suffix("").parts))
                found.append(getattr(importlib.import_module(name), node.name))
    return found


CLASSES = settings_classes()
IDS = [f"{kind.__module__}.{kind.__name__}" for kind in CLASSES]


def plain_types(annotation) -> set:
    """The types of an annotation without None: {float} for float | None, {tuple} for tuple[int, int]."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return set().union(*(plain_types(part) for part in typing.get_args(annotation)))
    origin = typing.get_origin(annotation) or annotation
    if origin is type(None):
        return set()
    return {origin if origin in (bool, int, float, str, tuple) else origin.__name__}


def test_there_are_settings():
    assert len(CLASSES) > 30


@pytest.mark.parametrize("kind", CLASSES, ids=IDS)
def test_settings_have_no_defaults_of_their_own(kind):
    assert dataclasses.is_dataclass(kind)
    for field in dataclasses.fields(kind):
        assert field.default is dataclasses.MISSING, field.name
        assert field.default_factory is dataclasses.MISSING, field.name


@pytest.mark.parametrize("kind", CLASSES, ids=IDS)
def test_names_and_types_are_those_of_the_parameters(kind):
    scope, extract = default_scope(kind)
    objects = {item.name: item for item in scope.objects}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        item, hint = objects[field.name], hints[field.name]
        if item.is_scope:
            assert dataclasses.is_dataclass(hint), field.name
            continue
        expected = {tuple} if item.multiple or getattr(item.type, "multi", False) else None
        assert plain_types(hint) == (expected or TYPES[item.type.phil_type]), field.name
        value = getattr(extract, field.name)
        if value is None or value is Auto:
            assert type(None) in typing.get_args(hint), f"{field.name} may be None"


@pytest.mark.parametrize("kind", CLASSES, ids=IDS)
def test_settings_are_filled_by_name(kind):
    settings = default_settings(kind)
    extract = default_scope(kind)[1]
    for field in dataclasses.fields(kind):
        value, given = getattr(settings, field.name), getattr(extract, field.name)
        if dataclasses.is_dataclass(value):
            continue
        assert value == (
            None if given is Auto else tuple(given) if isinstance(given, list) else given
        )
