from __future__ import annotations

import numpy as np
import pytest

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Experiment, Scan

from dials_diffuse.simulation.comparison import (
    Images,
    _position_in,
    best_possible_merge,
    correlation,
    true_scales,
    without_shell_mean,
)


def test_shell_means_vanish_and_the_rest_stays():
    rng = np.random.default_rng(1)
    q = rng.uniform(0.1, 0.5, 20000)
    anisotropic = rng.normal(size=20000)
    found = without_shell_mean(100 * np.exp(-10 * q) + anisotropic, q, n_shells=500)
    assert correlation(found, anisotropic) > 0.95
    shell = np.digitize(q, np.quantile(q, np.linspace(0, 1, 501)[1:-1]))
    assert np.abs(np.bincount(shell, found)).max() < 1e-6


def test_positions_match_a_dictionary():
    rng = np.random.default_rng(2)
    voxels = np.unique(rng.integers(-5, 6, (300, 3)), axis=0)
    wanted = rng.integers(-7, 8, (1000, 3))
    lookup = {tuple(v): i for i, v in enumerate(voxels)}
    expected = [lookup.get(tuple(w), -1) for w in wanted]
    assert _position_in(voxels, wanted).tolist() == expected


def test_best_merge_is_unbiased_and_has_the_least_variance():
    rng = np.random.default_rng(3)
    n_voxels, n_stills = 4000, 12
    truth = rng.uniform(1, 3, n_voxels)
    scales = rng.uniform(0.3, 2, n_stills)
    voxel = np.tile(np.arange(n_voxels), n_stills)
    still = np.repeat(np.arange(n_stills), n_voxels)
    exposure = rng.uniform(0.05, 0.4, n_voxels * n_stills)
    background = 0.5 * exposure
    counts = rng.poisson(exposure * scales[still] * truth[voxel] + background)
    rows = {
        "voxel": voxel,
        "image": still,
        "counts": counts,
        "background": background,
        "exposure": exposure,
    }
    best = best_possible_merge(rows, scales, truth, n_voxels)
    assert best.mean() == pytest.approx(truth.mean(), rel=0.02)
    eb = exposure * scales[still]
    plain = np.bincount(voxel, counts - background) / np.bincount(voxel, eb)
    assert np.var(best - truth) < np.var(plain - truth)
    # The Cramer-Rao bound of Poisson counts
    information = np.bincount(voxel, eb**2 / (eb * truth[voxel] + background))
    assert np.mean((best - truth) ** 2 * information) == pytest.approx(1, abs=0.07)


def images_of(*stills):
    """Images of stills (identifier, name of the image)"""
    return Images(
        [
            Experiment(
                identifier=identifier,
                imageset=ImageSetFactory.make_imageset([f"/data/{name}.cbf"], check_format=False),
            )
            for identifier, name in stills
        ]
    )


def test_images_of_sweeps_and_stills():
    scan = Scan((6, 9), (0.0, 0.1), [0.1] * 4, [0.0] * 4)
    images = Images([Experiment(), Experiment(scan=scan), Experiment()])
    assert images.first.tolist() == [0, 1, 5, 6]
    number = images.number(np.array([0, 1, 1, 1, 2]), np.array([7.5, 5.5, 8.9, 9.0, 3.5]))
    assert number.tolist() == [0, 1, 4, 4, 5]
    assert [(i, z) for _, i, z in images][1:5] == [(0, 5.5), (1, 6.5), (2, 7.5), (3, 8.5)]


def test_scales_follow_the_identifier_or_the_image_and_another_simulation_is_refused():
    record = {
        "stills": [
            {"image": 0, "identifiers": ["simulated-1-0"], "scales": [1.0]},
            {"image": 1, "identifiers": ["simulated-1-1"], "scales": [3.0]},
            {"image": 2, "identifiers": ["simulated-1-2", "simulated-1-3"], "scales": [3.0, 1.0]},
        ]
    }
    found = true_scales(record, images_of(("simulated-1-1", "a"), ("simulated-1-0", "b")))
    assert found.tolist() == [1.5, 0.5]
    # what dials.sequence_to_stills has made of the images has new identifiers, or none
    found = true_scales(record, images_of(("a-hash", "still_00001"), ("", "still_00002")))
    assert found.tolist() == [0.5, 1.5]
    for other in (
        ("simulated-2-0", "still_00001"),
        ("a-hash", "still_00004"),
        ("a-hash", "still_00003"),
    ):
        with pytest.raises(ValueError, match=f"{other[0]} is not of this simulation"):
            true_scales(record, images_of(("simulated-1-0", "still_00001"), other))
