"""Observations of gridded tables."""

from __future__ import annotations

import numpy as np

from dials_diffuse.scaling.observations.source import observations_of, projected_direction


def test_projected_direction_has_twice_sin_theta_as_length():
    rng = np.random.default_rng(2)
    s0 = np.array([0.1, -0.2, -0.9])
    s1 = rng.normal(size=(50, 3))
    x, y = projected_direction(s1, s0)
    cosine = s1 @ s0 / np.linalg.norm(s1, axis=1) / np.linalg.norm(s0)
    np.testing.assert_allclose(np.hypot(x, y), 2 * np.sin(np.arccos(cosine) / 2))
    # x of the laboratory is x for a beam along z
    x, y = projected_direction(np.array([[1.0, 0.0, -10.0]]), np.array([0.0, 0.0, -1.0]))
    assert x[0] > 0.09 and abs(y[0]) < 1e-12


def test_q_of_observations_is_that_of_their_pixels(make_truth):
    truth = make_truth(n_stills=3, n_obs=50, panels=(3, 2))
    obs = observations_of(truth.experiments, truth.columns)
    expected = []
    for panel, xyz in zip(truth.table["panel"], truth.table["xyzobs.px.value"]):
        q = (
            truth.experiments[0]
            .detector[int(panel)]
            .get_resolution_at_pixel(truth.experiments[0].beam.get_s0(), xyz[:2])
        )
        expected.append(1 / q)
    np.testing.assert_allclose(obs.q, expected, rtol=1e-5)
