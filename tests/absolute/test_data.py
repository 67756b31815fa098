from __future__ import annotations

import numpy as np
import pytest
import synthetic_crystal

from dials_diffuse.absolute import data as module
from dials_diffuse.absolute.data import read_data, separate_tables, symmetry_of
from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.inputs import DataPair, Inputs


@pytest.fixture(scope="module")
def crystal():
    return synthetic_crystal.SyntheticCrystal(rows=20000, n_stills=3)


@pytest.fixture
def inputs(crystal, tmp_path):
    expt, scaled, merged = crystal.save(tmp_path)
    paths = [module.Path(path) for path in (scaled, merged)]
    return Inputs([DataPair(module.Path(expt))], paths)


def test_tables_are_known_by_their_columns(inputs, crystal):
    inputs.others.reverse()
    (pair,), merged = separate_tables(inputs)
    assert pair.reflections.name == "diffuse_scaled.refl"
    assert merged.size() == crystal.merged.size()


def test_symmetry_is_that_of_grid_and_crystal(inputs, crystal):
    pairs, _ = separate_tables(inputs)
    symmetry = symmetry_of(pairs[0], [])
    assert symmetry.unit_cell().parameters() == pytest.approx(synthetic_crystal.CELL)
    assert str(symmetry.space_group_info()) == "P 41 21 2"


def test_rows_in_parts_give_the_same(inputs, monkeypatch):
    pairs, merged = separate_tables(inputs)
    whole = read_data(pairs, merged, [], 0.02)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 7000)
    parts = read_data(pairs, merged, [], 0.02)
    assert parts.profile.total == pytest.approx(whole.profile.total)
    assert parts.nodes.intensity == pytest.approx(whole.nodes.intensity)
    times = parts.times.relative(parts.experiments)
    assert np.nanmean(times) == pytest.approx(1.0)
    assert len(parts.experiments) == 3 and parts.wavelength == 1.0


@pytest.mark.parametrize("wavelength", [0.0197, 0.0251])
def test_electrons_have_no_absolute_scale_yet(inputs, wavelength):
    pairs, merged = separate_tables(inputs)
    experiments = load_experiments(pairs[0].experiments, check_format=False)
    for beam in experiments.beams():
        beam.set_wavelength(wavelength)
    experiments.as_file(pairs[0].experiments)
    for read in (lambda: symmetry_of(pairs[0], []), lambda: read_data(pairs, merged, [], 0.02)):
        with pytest.raises(ValueError, match="taken with electrons") as error:
            read()
        assert "\n" not in str(error.value)
