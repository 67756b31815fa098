from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic_crystal
import unit_cells

from dials_diffuse.absolute.data import read_data, separate_tables, symmetry_of
from dials_diffuse.absolute.workflow import find_absolute_scale
from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.phil.absolute import phil_scope


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """Scaled data, the merged table and the inventory."""
    crystal = synthetic_crystal.SyntheticCrystal()
    expt, *tables = crystal.save(tmp_path_factory.mktemp("absolute"))
    pairs, merged = separate_tables(Inputs([DataPair(Path(expt))], list(map(Path, tables))))
    inventory = unit_cells.inventory(symmetry_of(pairs[0], []), formula=synthetic_crystal.FORMULA)
    return SimpleNamespace(data=read_data(pairs, merged, [], 0.01), merged=merged, cell=inventory)


def found(scaled, **changes):
    params = phil_scope.extract()
    for name, value in changes.items():
        setattr(params, name, value)
    return find_absolute_scale(scaled.data, scaled.merged, scaled.cell, None, params)


def test_scale_and_map(scaled):
    result = found(scaled)
    assert result.absolute.scale == pytest.approx(5.0, rel=0.01)
    assert result.absolute.method == "high_q"
    assert [e.name for e in result.estimates] == ["high_q", "krogh_moe", "fit", "wilson"]
    expected = result.absolute.scale * as_numpy(scaled.merged["intensity"])
    expected -= as_numpy(result.table["incoherent"])
    assert as_numpy(result.table["intensity"]) == pytest.approx(expected)


def test_scale_by_hand_needs_no_estimate(scaled):
    params = phil_scope.extract().total_scattering
    params.q_max = 0.3
    with pytest.raises(ValueError, match="too short a range"):
        found(scaled, total_scattering=params)
    result = found(scaled, total_scattering=params, scale=2.5)
    assert (result.absolute.scale, result.absolute.method) == (2.5, "by hand")
    assert np.isnan(result.absolute.error) and result.total is None
    assert any("too short a range" in warning for warning in result.warnings)


def test_wilson(scaled):
    result = found(scaled, method="wilson")
    assert result.absolute.scale == result.wilson.scale == pytest.approx(5.0, rel=0.05)
