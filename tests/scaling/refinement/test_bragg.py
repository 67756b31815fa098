from __future__ import annotations

import logging

import numpy as np
import pytest
from scaling_problems import source_of
from synthetic_scaling import ONLY_SCALES, scale_settings

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import (
    as_numpy,
    double_column,
    int_column,
    miller_index_column,
    size_t_column,
    vec3_column,
)
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.scaling.expectation.patches import NO_PATCH
from dials_diffuse.scaling.expectation.tables import NO_OFFSET
from dials_diffuse.scaling.observations.overview import read_observations
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement.bragg import read_bragg
from dials_diffuse.scaling.scale import scale


def integrated(truth, partiality_known, n_each=300, seed=9):
    """A table of integrated reflections of the stills of a truth"""
    rng = np.random.default_rng(seed)
    n_stills = len(truth.b)
    hkl = rng.integers(1, 7, (120, 3))
    full = 2000 * rng.exponential(1, len(hkl))
    which = rng.integers(0, len(hkl), n_stills * n_each)
    still = np.repeat(np.arange(n_stills), n_each)
    partiality = rng.uniform(0.1, 1, len(which))
    lp = rng.uniform(1.0, 1.3, len(which))
    expected = truth.b[still] * full[which] * partiality / lp
    counts = rng.poisson(expected + 40) - 40.0
    # equivalent indices, which the Laue group makes one
    signs = rng.choice([-1, 1], (len(which), 3))
    table = flex.reflection_table()
    table["id"] = int_column(still)
    table["panel"] = size_t_column(np.zeros(len(which)))
    table["miller_index"] = miller_index_column(hkl[which] * signs)
    table["xyzobs.px.value"] = vec3_column(rng.uniform(50, 250, (len(which), 3)))
    table["intensity.sum.value"] = double_column(counts)
    table["intensity.sum.variance"] = double_column(np.maximum(counts, 0) + 80)
    table["partiality"] = double_column(partiality if partiality_known else np.ones(len(which)))
    table["lp"] = double_column(lp)
    for i, experiment in enumerate(truth.experiments):
        table.experiment_identifiers()[i] = experiment.identifier
    return table


def error_of_scales(truth, folder, files=(), **settings):
    truth.experiments.as_file(str(folder / "g.expt"))
    truth.table.as_file(str(folder / "g.refl"))
    source = ObservationSource([DataPair(folder / "g.expt", folder / "g.refl")])
    bragg = {"reflections": tuple(map(str, files)), **settings}
    b = scale(source, scale_settings(model=ONLY_SCALES, bragg=bragg)).merger.tables.b
    return float(np.std(b / truth.b))


def test_reflections_are_rows_sorted_by_index(make_truth, tmp_path):
    truth = make_truth(n_stills=5, n_obs=200, n_voxels=60)
    path = tmp_path / "integrated.refl"
    table = integrated(truth, True, n_each=80)
    table.as_file(str(path))
    source = source_of(truth, tmp_path)
    overview = read_observations(source, 0.0, 10**8).without([3])
    settings = scale_settings(bragg={"reflections": (str(path),)}).bragg
    bragg = read_bragg(source, overview, settings, truth.b)
    columns = {name: as_numpy(table[name]) for name in table.keys()}
    keep = (columns["id"] != 3) & (columns["partiality"] >= settings.min_partiality)
    assert len(bragg.rows) == bragg.n_obs.sum() == keep.sum()
    # equivalent indices are one
    index = np.unique(pack_voxels(abs(columns["miller_index"][keep])), return_counts=True)
    assert len(bragg.n_obs) == len(index[0])
    np.testing.assert_array_equal(np.sort(bragg.n_obs), np.sort(index[1]))
    assert set(bragg.rows["still"].tolist()) == {0, 1, 2, 4}
    first = 0
    for n in bragg.n_obs:
        assert (np.diff(bragg.rows["still"][first : first + n].astype(int)) >= 0).all()
        first += n
    # reflections have no offset, and belong to no patch
    assert (bragg.rows["radial"] == NO_OFFSET).all() and (bragg.rows["patch"] == NO_PATCH).all()
    assert bragg.mean_intensity.mean() == pytest.approx(2000, rel=0.2)
    assert read_bragg(source, overview, scale_settings().bragg, truth.b) is None


@pytest.mark.parametrize("partiality_known", [True, False])
def test_reflections_improve_the_scales_of_weak_stills(
    make_truth, tmp_path, partiality_known, caplog
):
    truth = make_truth(n_stills=15, n_obs=300, n_voxels=80, mean_counts=0.3)
    path = tmp_path / "integrated.refl"
    integrated(truth, partiality_known).as_file(str(path))
    alone = error_of_scales(truth, tmp_path)
    error = 0.05 if partiality_known else 0.5
    with caplog.at_level(logging.WARNING, logger="dials.diffuse"):
        joint = error_of_scales(truth, tmp_path, (path,), partiality_error=error)
    assert joint < (0.25 if partiality_known else 0.6) * alone
    assert ("partialities" in caplog.text) == (not partiality_known)
    # with a small weight they hardly count
    ignored = error_of_scales(truth, tmp_path, (path,), weight=1e-6)
    assert ignored == pytest.approx(alone, rel=0.05)


def test_wrong_reflection_files_are_refused(make_truth, tmp_path):
    truth = make_truth(n_stills=4, n_obs=200, n_voxels=60)
    table = integrated(truth, True)
    path = tmp_path / "integrated.refl"
    for name in list(table.experiment_identifiers().keys()):
        table.experiment_identifiers()[name] = f"stranger-{name}"
    table.as_file(str(path))
    with pytest.raises(ValueError, match="does not match the experiments"):
        error_of_scales(truth, tmp_path, (path,))
    table = integrated(truth, True)
    table["partiality"] = flex.double(len(table), 0.01)
    table.as_file(str(path))
    with pytest.raises(ValueError, match="No Bragg reflection"):
        error_of_scales(truth, tmp_path, (path,))
    del table["intensity.sum.variance"]
    table.as_file(str(path))
    with pytest.raises(ValueError, match="no integrated intensities"):
        error_of_scales(truth, tmp_path, (path,))
