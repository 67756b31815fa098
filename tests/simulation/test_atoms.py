"""Scattering of free atoms, against cctbx, formulas and NIST's tables."""

from __future__ import annotations

import numpy as np
import pytest
import xraylib

from cctbx.eltbx import xray_scattering

from dials_diffuse.simulation import atoms


def test_form_factors_agree_with_cctbx():
    q = np.array([0.0, 0.1, 0.4, 0.8, 1.1])
    for element in ("C", "N", "O", "S"):
        gaussians = xray_scattering.wk1995(element).fetch()
        expected = np.array([gaussians.at_stol(x / 2) for x in q])
        found = np.sqrt(atoms.sum_f_squared({element: 1.0}, q))
        assert np.abs(found - expected).max() < 0.02 * expected[0]
    # the hydrogen atom has a formula; a0 = 0.529177 Angstrom
    exact = (1 + (np.pi * 0.529177 * q) ** 2) ** -2
    assert np.abs(np.sqrt(atoms.sum_f_squared({"H": 1.0}, q)) - exact).max() < 2e-3


def test_compton_scattering_of_a_sum_of_atoms():
    q = np.array([0.0, 0.3, 1.1, 2.3])
    found = atoms.sum_incoherent({"C": 2.0, "O": 1.0}, q)
    expected = [2 * xraylib.SF_Compt(6, x / 2) + xraylib.SF_Compt(8, x / 2) for x in q[1:]]
    assert found[0] == 0 and found[1:] == pytest.approx(expected, rel=1e-4)
    # never more than the electrons, and nearly all of them at high angle
    assert 0.7 * 20 < found[-1] < 20


def test_composition_is_read_with_and_without_spaces():
    assert atoms.parse_composition("C 6 H12O6 Cl C") == {"C": 7, "H": 12, "O": 6, "Cl": 1}


@pytest.mark.parametrize("text", ["C 6 + water", "", "6"])
def test_compositions_that_can_not_be_read(text):
    with pytest.raises(ValueError, match="cannot be read"):
        atoms.parse_composition(text)


def test_an_element_that_does_not_exist():
    with pytest.raises(ValueError, match="Xy is no element"):
        atoms.sum_f_squared({"Xy": 1.0}, np.array([0.1]))


def test_air_attenuation_agrees_with_nist():
    # NIST's table of dry air: mu/rho 5.120 cm^2/g at 10 keV, density 1.205e-3 g/cm^3
    assert atoms.air_attenuation(12.398419843 / 10) == pytest.approx(5.120 * 1.205e-4, rel=0.02)


def test_silicon_attenuation_agrees_with_nist():
    # NIST's table of silicon: mu/rho 33.89 cm^2/g at 10 keV, density 2.33 g/cm^3
    found = atoms.silicon_attenuation(12.398419843 / 10)
    assert found == pytest.approx(33.89 * 2.33 / 10, rel=0.02)
