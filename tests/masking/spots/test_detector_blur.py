"""The point spread of a detector is found on images that plain numpy made photon by photon."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment

from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.spots.prediction import detector_d_min
from dials_diffuse.masking.spots.size import fit_spot_size, normal_variance
from dials_diffuse.masking.spots.sums import SpotSums
from dials_diffuse.masking.survey import ImageSummer, count_orientations

CELL = np.array([35.0, 40.0, 45.0])
DOMAIN, MOSAICITY = 1000.0, 0.1  # Angstrom, degrees


def still_image(rng, strength, hkl, panel, s0, blur):
    """(A, image): a crystal of random orientation, and its spots and background on the panel.

    Each photon is drawn on its own: a deviation from its node, of a domain of normal shape and of
    mosaicity, on the Ewald sphere; then the blur of the detector, in pixels.
    """
    setting = Rotation.random(random_state=rng).as_matrix() @ np.diag(1 / CELL)
    node = hkl @ setting.T
    excitation = np.linalg.norm(node + s0, axis=1) - 1
    near = np.abs(excitation) < 0.01
    node, excitation = node[near], excitation[near]
    q2 = (node**2).sum(axis=1)
    size2, angle2 = (0.376 / DOMAIN) ** 2, np.radians(MOSAICITY / 2.3548) ** 2
    spread = (size2 + angle2 * q2)[:, None, None] * np.eye(3)
    spread -= angle2 * node[:, :, None] * node[:, None, :]
    normal = (node + s0) / np.linalg.norm(node + s0, axis=1)[:, None]
    along = np.einsum("nij,nj->ni", spread, normal)
    depth2 = (along * normal).sum(axis=1)
    photons = rng.poisson(strength[near] * np.exp(-(excitation**2) / 2 / depth2 - 10 * q2))
    widths, axes = np.linalg.eigh(
        spread - along[:, :, None] * along[:, None, :] / depth2[:, None, None]
    )
    root = axes * np.sqrt(np.maximum(widths, 0))[:, None, :]
    of = np.repeat(np.arange(len(node)), photons)
    s1 = s0 + node[of] - (excitation / depth2)[of, None] * along[of]
    s1 += np.einsum("nij,nj->ni", root[of], rng.normal(size=(len(of), 3)))
    ray = s1 @ np.linalg.inv(np.reshape(panel.get_d_matrix(), (3, 3))).T
    ray = ray[ray[:, 2] > 0]
    x, y = (
        ray[:, :2] / ray[:, 2:] / panel.get_pixel_size() + blur * rng.normal(size=(len(ray), 2))
    ).T
    edges = [np.arange(size + 1) for size in panel.get_image_size()[::-1]]
    image = np.histogram2d(y, x, bins=edges)[0]
    return setting, image + rng.poisson(5.0, image.shape)


def measured(blur: float, pixel: float):
    """The fit to the spots of 40 stills of 150 x 150 pixels (mm) at 100 mm."""
    rng = np.random.default_rng(1)
    beam = BeamFactory.make_beam(sample_to_source=(0, 0, 1), wavelength=1.0)
    detector = DetectorFactory.simple(
        "PAD", 100.0, (75 * pixel, 75 * pixel), "+x", "-y", (pixel, pixel), (150, 150), (-1, 1e9)
    )
    hkl = np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij"), -1).reshape(-1, 3)
    hkl = hkl[hkl.any(axis=1)]
    strength = rng.exponential(2000.0, len(hkl))
    q_max, window = 1 / detector_d_min(detector, beam), 0.5 / CELL.max()
    summer = ImageSummer([np.ones((150, 150), bool)], q_max, window, measure_spots=True)
    sums, stills = SpotSums(q_max, window), []
    for i in range(40):
        s0 = np.array(beam.get_s0())
        setting, image = still_image(rng, strength, hkl, detector[0], s0, blur)
        crystal = Crystal(*map(tuple, np.linalg.inv(setting)), "P1")
        stills.append(Still(i, Experiment(beam=beam, detector=detector, crystal=crystal)))
        sums.add(summer.add([image], [(-1, 1e9)], stills[-1:]))
    sums.orientations = count_orientations(stills)
    return fit_spot_size(sums)


@pytest.mark.parametrize(
    "blur, pixel, allowed", [(0.5, 0.8, 0.1), (0.3, 0.8, 0.1), (1.0, 0.8, 0.15), (0.5, 0.172, 0.12)]
)
def test_blur_is_found_also_where_it_fills_the_distance_of_spots(blur, pixel, allowed):
    """At 0.8 mm, nodes along the longest axis are 2.8 pixels apart."""
    shape = measured(blur, pixel).shape
    assert shape.point_spread == pytest.approx(blur, abs=allowed)
    # What the detector adds is not taken for a small domain
    assert 0.376 / shape.size == pytest.approx(DOMAIN, rel=0.1)


def test_normal_variance_of_a_profile_that_is_cut_short():
    x = np.linspace(0, 1.4, 21)
    height = 2 + 5 * np.exp(-(x**2) / 2)
    noisy = height + 0.02 * np.random.default_rng(3).normal(size=21)
    assert normal_variance(x, height) == pytest.approx(1.0, rel=0.03)
    assert normal_variance(x, noisy) == pytest.approx(1.0, rel=0.3)
    assert np.isnan(normal_variance(x, 0 * x))
