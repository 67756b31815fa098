"""Settings of the library from PHIL parameters: the one place where the two meet.

Defaults stand in phil/ and nowhere else. A class of settings is a frozen dataclass without defaults.
Its fields have the names of the parameters of one PHIL scope, and its class variable ``scope`` says
which: "scale.model" is the scope ``model`` of dials_diffuse.phil.scale, "grid" all of
dials_diffuse.phil.grid.
"""

from __future__ import annotations

import dataclasses
import typing

from libtbx import Auto


def settings_from(kind: type, extract, **values):
    """Fill a dataclass of settings from a PHIL extract, field by field, by name.

    A field whose type is a dataclass is filled from the PHIL scope of its name. Auto becomes None,
    and lists become tuples.

    Args:
        kind: the dataclass
        extract: of the PHIL scope with a parameter or scope for each field
        values: fields that are not to be taken from the extract

    Returns:
        an instance of kind

    Raises:
        AttributeError: the extract has no parameter of a field's name.
    """
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in values:
            continue
        value = getattr(extract, field.name)
        if dataclasses.is_dataclass(types[field.name]):
            value = settings_from(types[field.name], value)
        elif value is Auto:
            value = None
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return kind(**values)
