"""Crystals, orientations and doses that are drawn for the stills."""

from __future__ import annotations

import numpy as np
import pytest
from simulations import few_stills

from cctbx import sgtbx, uctbx

from dials_diffuse.simulation.crystals import (
    StillState,
    draw_stills,
    during_exposure,
    empty_stills,
    make_crystal,
    random_rotation,
    random_stream,
)


def scales_of(stills):
    return np.array([lattice.scale for still in stills for lattice in still.lattices])


def test_orientations_are_uniform():
    generator = np.random.default_rng(1)
    rotations = np.array([random_rotation(generator) for _ in range(3000)])
    assert np.allclose(np.linalg.det(rotations), 1)
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3))
    # uniform: any vector ends anywhere, the trace has mean 0
    assert np.abs(rotations.mean(axis=0)).max() < 0.05


def test_a_rotation_series_turns_about_the_goniometer():
    stills = draw_stills(
        few_stills(stills=3, crystal={"orientation": "rotation", "rotation_step": 2.0})
    )
    settings = [still.lattices[0].setting for still in stills]
    turn = settings[2] @ np.linalg.inv(settings[0])
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(4.0)
    assert turn[0] == pytest.approx([1, 0, 0], abs=1e-9)
    assert [still.start_angle for still in stills] == [0, 2, 4]
    # the crystal of a still is that in the middle of its rotation
    at_zero = np.array(stills[0].lattices[0].at_zero.get_A()).reshape(3, 3)
    half = settings[0] @ np.linalg.inv(at_zero)
    assert np.degrees(np.arccos((np.trace(half) - 1) / 2)) == pytest.approx(1.0)


def test_a_crystal_has_its_cell_and_mosaicity():
    group = sgtbx.space_group_info("P 1 21 1").group()
    cell = uctbx.unit_cell((40, 50, 60, 90, 105, 90))
    rotation = random_rotation(np.random.default_rng(3))
    crystal = make_crystal(cell, group, rotation, 0.4, 800.0)
    assert crystal.get_unit_cell().parameters() == pytest.approx(cell.parameters())
    assert crystal.get_half_mosaicity_deg() == pytest.approx(0.2)
    assert crystal.get_domain_size_ang() == 800
    assert crystal.get_space_group() == group
    # unrotated, a lies along x and b in the plane of x and y
    direct = np.array(crystal.get_real_space_vectors()) @ rotation
    assert direct[0] == pytest.approx([40, 0, 0], abs=1e-9)
    assert direct[1] == pytest.approx([0, 50, 0], abs=1e-9)


def test_streams_are_independent_of_each_other():
    again = [random_stream(5, 3, 1).normal(size=4) for _ in range(2)]
    assert (again[0] == again[1]).all()
    for other in (random_stream(6, 3, 1), random_stream(5, 3, 2), random_stream(5, 4, 1)):
        assert not np.allclose(other.normal(size=4), again[0])


def test_scales_have_the_mean_one_and_the_spread_asked_for():
    scales = scales_of(draw_stills(few_stills(stills=300, scale={"spread": 0.3})))
    assert scales.mean() == pytest.approx(1.0)
    assert np.log(scales).std() == pytest.approx(0.3, rel=0.15)
    assert scales_of(draw_stills(few_stills(scale={"spread": 0.0}))) == pytest.approx(1.0)
    given = few_stills(scale={"values": [0.5, 2.0, 0.1]})
    assert scales_of(draw_stills(given)).tolist() == [0.5, 2.0, 0.1]


def test_a_bell_of_scales():
    bell = scales_of(draw_stills(few_stills(stills=5, scale={"spread": 0.0, "profile": "bell"})))
    expected = np.exp(-((np.array([-1, -0.5, 0, 0.5, 1]) / 0.6) ** 2))
    assert bell == pytest.approx(expected / expected.mean())


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
def test_scales_that_can_not_be(values):
    with pytest.raises(ValueError, match="scale.values holds"):
        draw_stills(few_stills(scale={"values": values}))


def test_cells_of_the_stills_obey_the_symmetry():
    settings = few_stills(stills=200, crystal={"cell_spread": 0.01, "space_group": "P 43 21 2"})
    cells = np.array(
        [still.lattices[0].crystal.get_unit_cell().parameters() for still in draw_stills(settings)]
    )
    assert cells[:, 0] == pytest.approx(cells[:, 1]) and cells[:, 3:] == pytest.approx(90)
    # a is the mean of two lengths, c one of them
    assert (cells[:, 0] / 40).std() == pytest.approx(0.01 / np.sqrt(2), rel=0.2)
    assert (cells[:, 2] / 60).std() == pytest.approx(0.01, rel=0.2)


def test_offsets_reach_from_zero_to_one():
    offsets = [still.offset for still in draw_stills(few_stills(stills=5, scale={"offset": 0.2}))]
    assert min(offsets) == 0 and max(offsets) == 1
    assert not any(still.offset for still in draw_stills(few_stills(scale={"offset": 0.0})))


def test_a_turning_crystal_at_several_moments():
    (still, *_) = draw_stills(few_stills(crystal={"orientation": "rotation", "rotation_step": 3.0}))
    assert during_exposure(still, 1) is still.lattices
    moments = during_exposure(still, 3)
    assert [m.scale for m in moments] == pytest.approx([still.lattices[0].scale / 3] * 3)
    # one degree apart about x, the middle one as the still has it
    assert moments[1].setting == pytest.approx(still.lattices[0].setting)
    angle = np.radians(1.0)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    assert moments[2].setting == pytest.approx(turn @ moments[1].setting)
    assert moments[0].setting == pytest.approx(turn.T @ moments[1].setting)


def test_empty_shots():
    settings = few_stills(background={"empty_shots": 2, "empty_time": 0.7})
    shots = empty_stills(settings)
    transmission = settings.exposure.transmission
    assert shots == [StillState(i, settings.beam.wavelength, 0.7, transmission) for i in (0, 1)]
    with pytest.raises(ValueError, match="must be positive"):
        empty_stills(few_stills(background={"empty_time": 0.0}))
