"""Radial profiles against sums written with numpy."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.extraction.profile import PROFILE_STEP, radial_profile


def test_sums_by_length_of_q():
    rng = np.random.default_rng(2)
    n = 500
    columns = {
        "voxel": rng.integers(-20, 20, (n, 3)).astype(np.int32),
        "bragg": rng.random(n) > 0.8,
        "num_pixels.valid": rng.integers(1, 9, n).astype(np.int32),
        "counts": rng.poisson(9.0, n).astype(float),
        "background": rng.random(n),
        "exposure": 0.5 + rng.random(n),
    }
    matrix = np.diag([0.01, 0.012, 0.009]) + 0.001
    profile = radial_profile(columns, matrix)
    bins = (np.linalg.norm(columns["voxel"] @ matrix.T, axis=1) / PROFILE_STEP).astype(int)
    assert len(profile.q) == bins.max() + 1
    assert profile.q[3] == pytest.approx(3.5 * PROFILE_STEP)
    diffuse = ~columns["bragg"]
    assert profile.num_pixels == columns["num_pixels.valid"][diffuse].sum()

    def sums(name, where):
        return np.bincount(bins[where], columns[name][where], bins.max() + 1)

    everywhere = np.ones(n, dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for values, where in ((profile.diffuse, diffuse), (profile.total, everywhere)):
            net = sums("counts", where) - sums("background", where)
            assert values == pytest.approx(net / sums("exposure", where), nan_ok=True)
        assert profile.unsubtracted == pytest.approx(
            sums("counts", diffuse) / sums("exposure", diffuse), nan_ok=True
        )
    assert profile.photons == pytest.approx(sums("counts", diffuse))
    assert profile.exposure == pytest.approx(sums("exposure", diffuse))
