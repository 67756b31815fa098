from __future__ import annotations

import types

import numpy as np
import pytest

from dxtbx.model import Crystal, MosaicCrystalKabsch2010, MosaicCrystalSauter2014

from dials_diffuse.masking.spots.shape import SpotShape, shape_of_model

CELL = (50, 0, 0), (0, 60, 0), (0, 0, 70), "P 1"


def test_size_and_angle_of_an_isotropic_shape():
    shape = SpotShape.isotropic(2e-4, 3e-3, along=1e-3)
    assert shape.size == pytest.approx(2e-4) and shape.angle == pytest.approx(3e-3)
    assert shape.largest_sigma(0.5) == pytest.approx(np.hypot(2e-4, 1.5e-3))
    assert shape.changed(along=0.01).largest_sigma(0.5) == pytest.approx(np.hypot(2e-4, 5e-3))


def test_no_direction_has_a_larger_variance_than_the_bound():
    rng = np.random.default_rng(1)
    root = rng.normal(0, 1e-3, (3, 3))
    shape = SpotShape(root @ root.T, (4e-6, -3e-6, 9e-6), along=2e-3)
    angular = np.array([[4e-6, -3e-6, 0], [-3e-6, 9e-6, 0], [0, 0, 4e-6]])
    constant, factor = shape.largest_variances()
    n = rng.normal(size=(1000, 3))
    n /= np.linalg.norm(n, axis=1)[:, None]
    for q in (0.1, 0.7):
        variance = np.einsum("ni,ij,nj->n", n, shape.constant + q**2 * angular, n)
        assert (variance <= constant + factor * q**2).all()


def test_shapes_of_crystal_models():
    sauter = MosaicCrystalSauter2014(*CELL)
    sauter.set_domain_size_ang(1000.0)
    sauter.set_half_mosaicity_deg(0.05)
    shape = shape_of_model(types.SimpleNamespace(profile=None, crystal=sauter))
    assert shape.size == pytest.approx(0.8859 / 2.3548 / 1000, rel=1e-4)
    assert shape.angle == pytest.approx(np.radians(0.1) / 2.3548, rel=1e-4)
    kabsch = MosaicCrystalKabsch2010(*CELL)
    kabsch.set_mosaicity(0.2)
    shape = shape_of_model(types.SimpleNamespace(profile=None, crystal=kabsch))
    assert shape.size == 0 and shape.angle == pytest.approx(np.radians(0.2))
    assert shape_of_model(types.SimpleNamespace(profile=None, crystal=Crystal(*CELL))) is None
