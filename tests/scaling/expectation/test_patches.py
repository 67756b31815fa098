"""Patches that deviate, with random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.scaling.expectation.patches import (
    N_PATCHES,
    N_RINGS,
    N_SECTORS,
    chi2_of_patches,
    deviating_patches,
)


def test_only_what_rings_and_stills_do_not_share_deviates():
    rng = np.random.default_rng(2)
    information = np.full((9, N_PATCHES), 1e4)
    deviation = rng.normal(0, 0.01, information.shape)
    deviation += np.repeat(rng.normal(0, 0.5, (9, N_RINGS)), N_SECTORS, axis=1)
    deviation += rng.normal(0, 0.5, N_PATCHES)
    assert not deviating_patches(deviation * information, information, 0.05).any()
    deviation[4, 50:52] += 0.3
    found = deviating_patches(deviation * information, information, 0.05)
    assert np.argwhere(found).tolist() == [[4, 50], [4, 51]]
    # too few photons, too small, too uncertain
    information[4, 50] = 20
    assert deviating_patches(deviation * information, information, 0.05).sum() == 1
    assert not deviating_patches(deviation * information, information, 0.4).any()
    assert not deviating_patches(deviation * information / 100, information / 100, 0.05).any()


def test_chi2_of_patches_is_one_for_counting_statistics():
    rng = np.random.default_rng(3)
    information = rng.uniform(100, 1e4, (200, N_PATCHES))
    excess = rng.normal(0, 1, information.shape) * np.sqrt(information)
    factor = chi2_of_patches(excess, information)
    assert factor.min() == 1 and factor.mean() < 1.02
    more = chi2_of_patches(2 * excess, information)
    assert more.mean() == pytest.approx(4 - 2 * 2.33 / np.sqrt(N_PATCHES), rel=0.03)
    assert (chi2_of_patches(2 * excess, information / 1e6) == 1).all()
