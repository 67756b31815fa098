from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.masking.spots.sums import EXCITATION_BINS, Q_BINS, WIDEST, WIDEST_SIGMA, SpotSums


def test_sums_of_images_add_up():
    rng = np.random.default_rng(2)
    sums, other = SpotSums(0.5, 0.01, stills=2), SpotSums(0.5, 0.01, stills=3)
    arrays = {name: a for name, a in vars(other).items() if isinstance(a, np.ndarray)}
    for array in arrays.values():
        array[:] = rng.random(array.shape)
    sums.add(other)
    sums.add(other)
    assert sums.stills == 8 and len(arrays) == 8
    for name, array in arrays.items():
        assert np.array_equal(getattr(sums, name), 2 * array), name


def test_independent_spots():
    """n equal spots count as n, one strong spot among weak ones as one, the same crystal twice as once."""
    sums = SpotSums(0.5, 0.01, orientations=1, stills=1)
    sums.strength[0] = 12 * 5.0, 12 * 25.0
    sums.strength[1] = 1000.0 + 12, 1000.0**2 + 12
    assert sums.independent_spots()[:3] == pytest.approx([12, 1.02, 0], rel=0.01)
    sums.stills = 2
    assert sums.independent_spots()[0] == pytest.approx(6)


def test_middles_of_bins():
    sums = SpotSums(0.4, 0.01)
    q, excitation = sums.q_of_bins(), sums.excitation_of_bins()
    assert q[0] == pytest.approx(0.2 / Q_BINS) and np.diff(q) == pytest.approx(0.4 / Q_BINS)
    largest = WIDEST_SIGMA * np.hypot(WIDEST.size, WIDEST.angle * q)
    assert excitation[:, -1] == pytest.approx(largest * (1 - 0.5 / EXCITATION_BINS))
