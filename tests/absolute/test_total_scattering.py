"""The scale recovered from a crystal whose structure factors are summed atom by atom."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import unit_cells

import iotbx.pdb
from cctbx import crystal

from dials_diffuse.absolute.contents.atomic_model import read_model
from dials_diffuse.absolute.profile import RadialProfile
from dials_diffuse.absolute.settings import TotalScatteringSettings
from dials_diffuse.absolute.total_scattering import find_scale
from dials_diffuse.phil.defaults import default_settings

# the direct summation of structure factors takes 10 s; by FFT they are not accurate enough
pytestmark = pytest.mark.slow

SCALE = 37.0
B_FACTOR = 18.0
Q_MAX = 0.84


@pytest.fixture(scope="module")
def crystal_profile(extra_data):
    """(inventory, function that makes a profile): staphylococcal nuclease without solvent.

    |F|^2 by direct summation in cctbx, all atoms with one B. If they move independently, the diffuse
    scattering is sum f^2 (1 - exp(-B q^2/2)) exactly, which is b_relative = B.
    """
    path = extra_data / "models" / "1stn.pdb"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    structure = iotbx.pdb.input(file_name=str(path)).xray_structure_simple()
    structure.scattering_type_registry(table="it1992")
    structure.set_b_iso(B_FACTOR)
    structure.convert_to_isotropic()
    f_calc = structure.structure_factors(d_min=1 / Q_MAX, algorithm="direct").f_calc()
    multiplicity = np.array(f_calc.multiplicities().data(), dtype=float)
    intensity = np.abs(np.array(f_calc.data())) ** 2
    q_node = 1 / np.array(f_calc.d_spacings().data())
    symmetry = read_model(path).symmetry
    inventory = unit_cells.inventory(
        symmetry, model=str(path), solvent_content=0.0, hydrogens="as_is"
    )

    def profile(q_min, q_max, background=0.0, width=0.01, b_relative=B_FACTOR):
        edges = np.arange(round(q_min / width), round(q_max / width) + 1) * width
        q = 0.5 * (edges[1:] + edges[:-1])
        number, _ = np.histogram(q_node, edges, weights=multiplicity)
        summed, _ = np.histogram(q_node, edges, weights=multiplicity * intensity)
        bragg = summed / number
        # what pairs of atoms scatter if they stood still, damped by their relative motion
        f_squared = inventory.sum_f_squared(q, unit_cells.tables())
        pairs = bragg * np.exp(B_FACTOR * q**2 / 2) - f_squared
        total = f_squared + pairs * np.exp(-b_relative * q**2 / 2)
        diffuse = total - bragg + inventory.incoherent(q, unit_cells.tables())
        measured = (bragg + diffuse) / SCALE
        measured = measured + background * measured[-1]
        return RadialProfile(
            q,
            edges,
            measured,
            diffuse / SCALE,
            (0.003 * measured) ** 2,
            np.repeat(measured[None], 20, axis=0),
            q**2,
        )

    return inventory, profile


def scale_of(profile, inventory, **settings):
    settings = default_settings(TotalScatteringSettings, **settings)
    return find_scale(profile, inventory, unit_cells.tables(), settings)


def by_name(found):
    return {estimate.name: estimate for estimate in found.estimates}


def covers(estimate):
    return abs(estimate.scale - SCALE) < 2.5 * estimate.error


def test_all_the_way(crystal_profile):
    inventory, profile = crystal_profile
    found = scale_of(profile(0.04, 0.83), inventory)
    estimates = by_name(found)
    assert found.used.name == "high_q" and found.used.scale == estimates["high_q"].scale
    assert estimates["high_q"].scale == pytest.approx(SCALE, rel=0.005)
    assert estimates["krogh_moe"].scale == pytest.approx(SCALE, rel=0.01)
    assert estimates["fit"].scale == pytest.approx(SCALE, rel=0.01)
    assert all(covers(estimate) for estimate in found.estimates)
    assert found.warnings == []
    # without its neighbours' overlap Krogh-Moe's scale is wrong by several percent
    assert estimates["krogh_moe"].details["without_pairs"] < 0.96 * SCALE


@pytest.mark.parametrize("q_max", [0.7, 0.6, 0.5])
def test_ends_early(crystal_profile, q_max):
    inventory, profile = crystal_profile
    found = scale_of(profile(0.04, q_max), inventory)
    assert found.used.name == "fit"
    estimates = by_name(found)
    assert estimates["krogh_moe"].scale == pytest.approx(SCALE, rel=0.025)
    assert estimates["fit"].scale == pytest.approx(SCALE, rel=0.005)
    assert all(covers(estimate) for estimate in found.estimates)
    assert any("no high-q estimate" in warning for warning in found.warnings)


def test_motion_of_pairs(crystal_profile):
    inventory, profile = crystal_profile
    # atoms that move independently damp their pair by half of B from each
    free = scale_of(profile(0.04, 0.83), inventory)
    assert free.b_relative == pytest.approx(B_FACTOR, abs=1.5)
    known = scale_of(profile(0.04, 0.83), inventory, b_relative=B_FACTOR)
    assert by_name(known)["krogh_moe"].scale == pytest.approx(SCALE, rel=0.01)
    rigid = scale_of(profile(0.04, 0.83), inventory, b_relative=0.0)
    chi_squared = [by_name(found)["fit"].details["chi_squared"] for found in (free, rigid)]
    assert chi_squared[1] > 5 * chi_squared[0]


@pytest.mark.parametrize("q_max", [0.83, 0.6, 0.5])
@pytest.mark.parametrize("b_relative", [0.0, 3.0])
def test_neighbours_that_move_together(crystal_profile, q_max, b_relative):
    """As in a real crystal: then their interference lasts, and all of the neighbourhood matters."""
    inventory, profile = crystal_profile
    found = scale_of(profile(0.04, q_max, b_relative=b_relative), inventory)
    assert found.b_relative == pytest.approx(b_relative, abs=0.6)
    estimates = by_name(found)
    assert estimates["fit"].scale == pytest.approx(SCALE, rel=0.01)
    assert estimates["krogh_moe"].scale == pytest.approx(SCALE, rel=0.025)
    assert all(covers(estimate) for estimate in found.estimates)
    assert not any("background" in warning for warning in found.warnings)


@pytest.mark.parametrize("background", [0.1, 0.3])
def test_background_left_in_is_reported(crystal_profile, background):
    inventory, profile = crystal_profile
    left = profile(0.04, 0.83, background)
    found = scale_of(left, inventory)
    assert abs(found.used.scale / SCALE - 1) > 0.05
    assert any("background" in warning.lower() for warning in found.warnings)
    fitted = scale_of(left, inventory, estimate="fit", background="constant")
    assert fitted.used.scale == pytest.approx(SCALE, rel=0.04)
    assert abs(fitted.used.scale / SCALE - 1) < 0.4 * abs(found.used.scale / SCALE - 1)


def test_air_at_low_q_is_reported(crystal_profile):
    inventory, profile = crystal_profile
    measured = profile(0.04, 0.83)
    # scattering by air is strong at low |q| only: the scale at high |q| does not feel it
    air = 12 * measured.total[-1] * np.exp(-(measured.q**2) / (2 * 0.12**2))
    left = dataclasses.replace(measured, total=measured.total + air, groups=measured.groups + air)
    found = scale_of(left, inventory)
    assert found.used.scale == pytest.approx(SCALE, rel=0.01)
    assert any("krogh_moe" in warning and "ackground" in warning for warning in found.warnings)


def test_cap_is_reported(crystal_profile):
    inventory, profile = crystal_profile
    small = by_name(scale_of(profile(0.04, 0.8), inventory))["krogh_moe"]
    large = by_name(scale_of(profile(0.15, 0.8), inventory))["krogh_moe"]
    assert small.details["cap_share"] < 0.01 < large.details["cap_share"]
    assert large.parts["cap"] > 2 * small.parts["cap"]
    assert covers(large)


def test_too_short(crystal_profile):
    inventory, profile = crystal_profile
    with pytest.raises(ValueError, match="too short a range"):
        scale_of(profile(0.04, 0.35), inventory)
    with pytest.raises(ValueError, match="estimate=high_q needs"):
        scale_of(profile(0.04, 0.6), inventory, estimate="high_q")
    with pytest.raises(ValueError, match="too short a range"):
        scale_of(profile(0.04, 0.8), inventory, q_max=0.3)


def test_more_background_than_signal(crystal_profile):
    inventory, profile = crystal_profile
    with pytest.raises(ValueError, match="not positive"):
        scale_of(profile(0.04, 0.8, background=-1.2), inventory)


def test_formula_has_no_pairs(crystal_profile):
    inventory, profile = crystal_profile
    atoms = " ".join(f"{e} {n / 4}" for e, n in inventory.atoms.items())
    symmetry = crystal.symmetry((48.5, 48.5, 63.5, 90, 90, 90), "P41")
    formula = unit_cells.inventory(symmetry, formula=atoms, copies=4)
    found = scale_of(profile(0.04, 0.83), formula)
    # where interference has died out the formula is enough
    assert found.used.scale == pytest.approx(SCALE, rel=0.01)
    assert any("neighbours" in warning for warning in found.warnings)
    krogh_moe = by_name(found)["krogh_moe"]
    assert krogh_moe.scale < 0.96 * SCALE and covers(krogh_moe)
