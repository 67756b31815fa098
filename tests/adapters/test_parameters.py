"""Settings filled from PHIL extracts; tests/test_settings.py looks at those of the library."""

from __future__ import annotations

import dataclasses
import types

import pytest

from iotbx.phil import parse
from libtbx import Auto

from dials_diffuse.adapters.parameters import settings_from


@dataclasses.dataclass(frozen=True)
class Inner:
    width: float | None


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    names: tuple[str, ...]


def test_scopes_auto_and_lists():
    extract = types.SimpleNamespace(inner=types.SimpleNamespace(width=Auto), names=["a"], more=1)
    assert settings_from(Outer, extract) == Outer(Inner(None), ("a",))
    assert settings_from(Outer, extract, names=()) == Outer(Inner(None), ())
    with pytest.raises(AttributeError, match="names"):
        settings_from(Outer, types.SimpleNamespace(inner=extract.inner))


def test_settings_from_a_real_scope():
    scope = parse(
        """
names = a b
  .type = strings
inner {
  width = 2.5
    .type = float
}
"""
    )
    assert settings_from(Outer, scope.extract()) == Outer(Inner(2.5), ("a", "b"))
