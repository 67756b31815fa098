"""Contents of unit cells and tables of atomic scattering, with the defaults of the parameters."""

from __future__ import annotations

from dials_diffuse.absolute.contents.composition import CompositionSettings, unit_cell_inventory
from dials_diffuse.absolute.contents.form_factors import AtomicTables, TableSettings
from dials_diffuse.phil.defaults import default_settings


def tables(wavelength=1.0, **changes):
    return AtomicTables(default_settings(TableSettings, **changes), wavelength)


def inventory(symmetry, **composition):
    """The contents of a unit cell from fields of CompositionSettings."""
    return unit_cell_inventory(default_settings(CompositionSettings, **composition), symmetry)
