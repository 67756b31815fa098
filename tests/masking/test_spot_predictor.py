from __future__ import annotations

import pickle

import numpy as np
import pytest

from dials_diffuse.adapters.stills import stills_of
from dials_diffuse.masking.spot_predictor import (
    DEFAULT_N_SIGMA,
    BraggMaskSettings,
    SpotPredictor,
    log_size,
)
from dials_diffuse.masking.spots.shape import SpotShape, shape_of_model
from dials_diffuse.masking.spots.size import SizeFit
from dials_diffuse.phil.defaults import default_settings

# Full width at half maximum of a normal distribution, in standard deviations
FWHM = 2.3548


def fit(reliable=True) -> SizeFit:
    """Spots that are 100 times as high as their surroundings at 0.1/A, and e times at 0.3/A."""
    values = np.array([1e-3, 1e-3])
    return SizeFit(
        shape=SpotShape.isotropic(1e-3, 2e-3, source="images"),
        q=np.array([0.1, 0.3]),
        radial=values,
        tangential=values,
        excitation=values,
        nodes=np.array([100.0, 200.0]),
        contrast=np.array([100.0, np.e]),
        level=np.array([8.0, 4.0]),
        pixel=values,
        reliable=reliable,
    )


def predictor(measured=None, **changes) -> SpotPredictor:
    return SpotPredictor.from_fit(default_settings(BraggMaskSettings, **changes), measured, 0.02)


def test_spots_are_masked_to_the_residual_where_their_height_is_known():
    q = np.array([0.1, 0.3])
    extent = predictor(fit()).extent.n_sigma_at(q)
    assert extent == pytest.approx(np.sqrt(2 * np.log([100 / 0.02, np.e / 0.02])))
    assert predictor(fit()).residual_level.at(q) == pytest.approx([0.16, 0.08])
    for known in (predictor(None), predictor(fit(), n_sigma=3.0)):
        assert known.residual_level is None
    assert predictor(None).extent == DEFAULT_N_SIGMA
    assert predictor(fit(), n_sigma=3.0).extent == 3.0


def test_what_is_measured_and_needed():
    settings = default_settings(BraggMaskSettings)
    assert settings.predicts and settings.needs_size
    for changes in (
        {"method": "none"},
        {"method": "shoebox"},
        {"size": "model"},
        {"mosaicity": 0.1, "domain_size": 500.0},
    ):
        assert not default_settings(BraggMaskSettings, **changes).needs_size
    assert default_settings(BraggMaskSettings, mosaicity=0.1).needs_size
    with pytest.raises(ValueError, match="bragg.size=model"):
        predictor(None, size="images")


def test_the_shape_is_from_the_parameters_else_the_images_else_the_model(pair):
    experiment = pair[0][0]
    model = shape_of_model(experiment)
    assert predictor(fit()).shape(experiment).source == "images"
    assert model.source != "images"
    for known in (predictor(fit(), size="model"), predictor(fit(reliable=False))):
        shape = known.shape(experiment)
        assert (shape.source, shape.size) == (model.source, model.size)
    assert predictor(fit(reliable=False), size="images").shape(experiment).source == "images"
    given = predictor(fit(), mosaicity=0.2).shape(experiment)
    assert given.source == "parameters" and given.size == pytest.approx(1e-3)
    assert given.angle == pytest.approx(np.radians(0.2) / FWHM, rel=1e-4)
    given = predictor(fit(), domain_size=500.0).shape(experiment)
    assert given.size == pytest.approx(0.8859 / 500 / FWHM, rel=1e-4)
    assert given.angle == pytest.approx(2e-3)
    assert predictor(fit(), bandwidth=0.01).shape(experiment).along == 0.01


def without_mosaicity(experiment):
    crystal = type(experiment.crystal).__mro__[1](experiment.crystal)
    assert shape_of_model(type("", (), {"profile": None, "crystal": crystal})) is None
    experiment.crystal = crystal
    return experiment


def test_the_size_may_be_unknown(pair, caplog):
    experiment = without_mosaicity(pair[0][0])
    with pytest.raises(ValueError, match="bragg.mosaicity"):
        predictor(None).shape(experiment)
    # Nothing to log, and no error
    log_size(predictor(None), None, 0.02, stills_of(pair[0])[0])
    assert predictor(None, mosaicity=0.2).shape(experiment).size == 0.0


def test_predicted_spots(pair):
    still = stills_of(pair[0])[0]
    known = predictor(None, n_sigma=3.0)
    rows = known.predict(still)
    assert len(rows.panel) > 50
    again = pickle.loads(pickle.dumps(known)).predict(still)
    assert np.array_equal(rows.ellipse, again.ellipse)

    def areas(rows):
        """Miller index -> area of its ellipse, pixels"""
        a, b, c = rows.ellipse.T
        return dict(zip(map(tuple, rows.miller_index), np.pi / np.sqrt(a * c - b * b)))

    wider = areas(predictor(None, n_sigma=3.0, padding=2.0).predict(still))
    assert all(wider[hkl] > area for hkl, area in areas(rows).items())
    assert len(predictor(None, n_sigma=3.0, method="halo").predict(still).panel) > len(rows.panel)
    assert predictor(None, n_sigma=3.0, d_min=8.0).predict(still).q.max() <= 1 / 8.0


def test_spots_that_were_integrated_with_many_counts_are_masked_further_out(pair):
    still = stills_of(pair[0])[0]
    known = predictor(fit())
    rows = known.predict(still)
    bright = rows.miller_index[:1]
    further = known.predict(still, (bright, np.array([1e7])))
    before = {tuple(hkl): e for hkl, e in zip(rows.miller_index, rows.ellipse)}
    changed = {
        tuple(hkl)
        for hkl, ellipse in zip(further.miller_index, further.ellipse)
        if not np.array_equal(before[tuple(hkl)], ellipse)
    }
    assert changed == {tuple(bright[0])}
