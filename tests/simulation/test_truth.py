from __future__ import annotations

import json

import numpy as np
import pytest

from cctbx import sgtbx, uctbx

from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.simulation.settings import TruthSettings
from dials_diffuse.simulation.truth import DiffuseTruth

CRYSTALS = {
    "P 43 21 2": (79.1, 79.1, 37.9, 90, 90, 90),
    "P 1": (40, 50, 60, 80, 95, 103),
    "C 1 2 1": (80, 50, 60, 90, 104, 90),
    "P 61": (60, 60, 90, 90, 90, 120),
    "R 3 :H": (70, 70, 100, 90, 90, 120),
    "P 21 3": (70, 70, 70, 90, 90, 90),
}


def make_truth(space_group, **settings):
    return DiffuseTruth(
        CRYSTALS[space_group], space_group, default_settings(TruthSettings, **settings), 11
    )


@pytest.mark.parametrize("space_group", CRYSTALS)
def test_laue_symmetry_by_operators_of_cctbx(space_group):
    truth = make_truth(space_group, halo=0.5)
    hkl = np.random.default_rng(1).uniform(-12, 12, (300, 3))
    # some in the halo, where it is strongest
    hkl[:20] = np.rint(hkl[:20])
    here = truth.intensity(hkl)
    group = sgtbx.space_group_info(space_group).group().build_derived_laue_group()
    for operator in group.all_ops():
        rotation = np.array(operator.r().as_double()).reshape(3, 3)
        assert np.allclose(truth.intensity(hkl @ rotation), here, rtol=1e-9)
    # and no symmetry beyond the Laue group: the intensity is not isotropic
    turned = truth.intensity(hkl[:, ::-1] * [1, -1, 1])
    assert np.abs(turned / here - 1).max() > 0.1


def test_shell_mean_is_the_envelope():
    truth = make_truth("P 43 21 2", anisotropy=0.15)
    generator = np.random.default_rng(4)
    points = generator.normal(size=(200000, 3))
    points /= np.linalg.norm(points, axis=1)[:, None]
    fractional = np.array(uctbx.unit_cell(truth.unit_cell).orthogonalization_matrix()).reshape(3, 3)
    for q in (0.15, 0.3, 0.5):
        intensity = truth.intensity(q * points @ fractional)
        envelope = truth.envelope(np.array([q]))[0]
        assert intensity.mean() / envelope == pytest.approx(1.0, abs=0.003)
        assert 0.08 < intensity.std() / envelope < 0.25


def test_q_is_the_reciprocal_of_d():
    truth = make_truth("P 1")
    cell = uctbx.unit_cell(truth.unit_cell)
    for index in ((1, 2, 3), (-4, 0, 2), (0, 0, 1)):
        assert truth.q(np.array([index]))[0] == pytest.approx(1 / cell.d(index))


def test_smooth_on_the_scale_of_a_third_of_a_node():
    truth = make_truth("P 43 21 2")
    centres = np.random.default_rng(2).integers(-45, 45, (400, 3)) / 3.0
    inside = np.random.default_rng(3).uniform(-1 / 6, 1 / 6, (100, 3))
    mean = np.mean([truth.intensity(centres + offset) for offset in inside], axis=0)
    far = truth.q(centres) > 0.1
    assert np.corrcoef(mean[far], truth.intensity(centres)[far])[0, 1] > 0.999


def test_halo_is_on_allowed_nodes_only():
    truth = make_truth("C 1 2 1", halo=1.0)
    nodes = np.array([[2, 0, 1], [1, 1, 5], [1, 0, 1], [2, 1, 0]], dtype=float)
    halo = truth.halo(nodes)
    assert halo[:2] == pytest.approx(1.0)
    assert halo[2:] == pytest.approx(0.0, abs=1e-12)


def test_halo_width_is_in_reciprocal_angstrom():
    truth = make_truth("P 21 3", halo=1.0, halo_width=0.002)
    step = truth.q(np.array([[0.1, 0, 0]]))[0]
    found = truth.halo(np.array([[3.1, 4, 5]]))[0]
    assert found == pytest.approx(np.exp(-0.5 * (step / 0.002) ** 2), rel=0.03)


def test_compton_goes_from_nothing_to_the_number_of_electrons():
    truth = make_truth("P 1", composition="C 10 O 2", copies=3)
    q = np.array([0.0, 0.05, 0.5, 1.0, 2.2])
    found = truth.compton(q)
    assert found[0] == 0
    assert (np.diff(found) > 0).all()
    assert found[-1] < 3 * (60 + 16)
    import xraylib

    expected = 3 * (10 * xraylib.SF_Compt(6, 0.25) + 2 * xraylib.SF_Compt(8, 0.25))
    assert found[2] == pytest.approx(expected, rel=1e-4)
    assert make_truth("P 1", compton=False).compton(q).sum() == 0


def test_bragg_and_diffuse_share_all_of_the_scattering():
    truth = make_truth("P 1")
    q = np.linspace(0.05, 1.0, 20)
    assert np.allclose(truth.envelope(q) + truth.bragg_envelope(q), truth.sum_f_squared(q))


def test_file_holds_all_that_is_needed(tmp_path):
    truth = make_truth("P 61", halo=0.1)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"truth": truth.to_dict()}))
    again = DiffuseTruth.from_file(path)
    hkl = np.random.default_rng(1).uniform(-9, 9, (50, 3))
    assert (again.total(hkl) == truth.total(hkl)).all()
    other = DiffuseTruth(truth.unit_cell, truth.space_group, truth.settings, 12)
    assert not np.allclose(other.total(hkl), truth.total(hkl))


def test_bad_input_says_so(tmp_path):
    with pytest.raises(ValueError, match="does not fit space group"):
        DiffuseTruth((40, 50, 60, 90, 90, 90), "P 43 21 2", default_settings(TruthSettings), 1)
    path = tmp_path / "truth.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no simulated truth"):
        DiffuseTruth.from_file(path)


def test_friedels_law():
    """f' and f'' are not simulated: h and -h scatter alike, so they may be merged."""
    truth = DiffuseTruth(
        (40, 45, 60, 90, 100, 90), "P 1 21 1", default_settings(TruthSettings, halo=0.5), 5
    )
    h = np.random.default_rng(6).uniform(-8, 8, (200, 3))
    np.testing.assert_allclose(truth.intensity(h), truth.intensity(-h), rtol=1e-10)
