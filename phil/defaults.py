"""Settings of the library as the parameters' defaults give them, for scripts and tests."""

from __future__ import annotations

import dataclasses
import importlib

from dials_diffuse.adapters.parameters import settings_from


def default_scope(kind: type):
    """The PHIL scope, and its extract, that a class of settings is filled from.

    Args:
        kind: a dataclass with the class variable ``scope``, such as "scale.model"

    Returns:
        (scope, extract)
    """
    module, *names = kind.scope.split(".")
    scope = importlib.import_module(f"dials_diffuse.phil.{module}").phil_scope
    extract = scope.extract()
    for name in names:
        (scope,) = (item for item in scope.objects if item.name == name)
        extract = getattr(extract, name)
    return scope, extract


def default_settings(kind: type, **changes):
    """Settings with the defaults of their parameters.

    Args:
        kind: a dataclass with the class variable ``scope``
        changes: fields with another value
    """
    return dataclasses.replace(settings_from(kind, default_scope(kind)[1]), **changes)
