"""The engines of DIALS."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of
from synthetic_scaling import ONLY_SCALES, scale_settings

from dials_diffuse.scaling.scale import scale


def scales_of(scaled):
    return scaled.merger.tables.b


@pytest.mark.parametrize("engine", ["LevMar", "GaussNewton"])
def test_least_squares_engines_agree_with_lbfgs(make_truth, tmp_path, engine, monkeypatch):
    truth = make_truth(n_stills=8, n_obs=500, n_voxels=150, panels=(2, 2), panel_spread=0.05)
    model = {"offset": False, "panel": True, "sensitivity": False}
    source = source_of(truth, tmp_path)
    lbfgs = scale(source, scale_settings(model=model))
    other = scale(source, scale_settings(model=model, fit={"engine": engine}))
    sigma = np.array([m.components["scale"].parameter_esds[0] for m in other.fit.models])
    assert np.max(abs(scales_of(other) - scales_of(lbfgs)) / sigma) < 0.1
    approximate = np.array([m.components["scale"].parameter_esds[0] for m in lbfgs.fit.models])
    # those of L-BFGS take the other stills for known
    assert (approximate < 1.2 * sigma).all() and (approximate > 0.85 * sigma).all()
    big = make_truth(n_stills=8, n_obs=500, n_voxels=150)
    with pytest.raises(ValueError, match="too many for this engine"):
        monkeypatch.setattr("dials_diffuse.scaling.refinement.target.MOST_ELEMENTS", 10)
        scale(source_of(big, tmp_path), scale_settings(model=ONLY_SCALES, fit={"engine": engine}))


@pytest.mark.parametrize("engine", ["LevMar", "GaussNewton"])
def test_least_squares_engines_leave_out_stills_too(make_truth, tmp_path, engine):
    truth = make_truth(n_stills=6, n_obs=500, n_voxels=100, mean_counts=60, offset=0.3)
    model = {"scale": True, "offset": True, "panel": False, "sensitivity": False}
    stills = {"exclude": ("2",)}
    found, expected = (
        scale(
            source_of(truth, tmp_path),
            scale_settings(model=model, fit={"engine": name}, stills=stills),
        ).merger.tables.b
        for name in (engine, "SimpleLBFGS")
    )
    used = np.arange(6) != 2
    np.testing.assert_allclose(found[used], expected[used], rtol=2e-3)
