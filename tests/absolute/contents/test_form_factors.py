from __future__ import annotations

import numpy as np
import pytest
import xraylib
from unit_cells import tables

from dials_diffuse.absolute.contents.form_factors import (
    check_element,
    form_factor,
    incoherent_factor,
    recoil_factor,
)

PROTEIN = {"C": 613, "H": 959, "N": 193, "O": 185, "S": 10}


def of_xraylib(function, q, power):
    return sum(
        n * np.array([function(xraylib.SymbolToAtomicNumber(e), x / 2) for x in q]) ** power
        for e, n in PROTEIN.items()
    )


@pytest.mark.parametrize("table", ["it1992", "wk1995"])
def test_sum_f_squared_against_hubbell(table):
    q = np.linspace(0.01, 1.2, 60)
    ours = sum(
        n * np.abs(form_factor(e, q, tables(form_factor=table))) ** 2 for e, n in PROTEIN.items()
    )
    assert ours == pytest.approx(of_xraylib(xraylib.FF_Rayl, q, 2), rel=0.01)


@pytest.mark.parametrize("element, z", [("H", 1), ("C", 6), ("S", 16), ("Zn", 30), ("U", 92)])
def test_limits(element, z):
    assert abs(form_factor(element, [0.0], tables())[0]) ** 2 == pytest.approx(z**2, rel=0.01)
    assert incoherent_factor(element, [0.0], tables())[0] == 0
    assert incoherent_factor(element, [0.0005], tables())[0] < 1e-3 * z


@pytest.mark.parametrize("element, z", [("H", 1), ("C", 6), ("O", 8), ("S", 16)])
def test_incoherent_reaches_z(element, z):
    far = incoherent_factor(element, [60.0], tables())[0]
    assert far == pytest.approx(z, rel=0.01)


def test_incoherent_against_hubbell():
    q = np.linspace(0.01, 1.8, 91)
    ours = sum(n * incoherent_factor(e, q, tables()) for e, n in PROTEIN.items())
    assert ours == pytest.approx(of_xraylib(xraylib.SF_Compt, q, 1), rel=0.002)


def test_recoil_is_the_klein_nishina_energy_ratio():
    q = np.array([0.2, 1.0, 2.0])
    energy = 12.398419843 / 0.7
    ratio = [xraylib.ComptonEnergy(energy, 2 * np.arcsin(0.7 * x / 2)) / energy for x in q]
    assert recoil_factor(q, tables(0.7, recoil=2)) == pytest.approx(np.array(ratio) ** 2, rel=1e-5)
    assert (recoil_factor(q, tables()) == 1).all()


def test_threshold_cuts_what_lost_too_much_energy():
    q = np.linspace(0, 1.9, 200)
    lost = np.array([xraylib.ComptonEnergy(12.398419843, 2 * np.arcsin(x / 2)) < 12.2 for x in q])
    assert lost.any() and not lost.all()
    assert (recoil_factor(q, tables(threshold=12.2)) == ~lost).all()


@pytest.mark.parametrize("source", ["sasaki", "henke"])
def test_anomalous(source):
    f = form_factor("Se", [0.3], tables(0.9795, anomalous=source))[0]
    # at the Se edge: tables differ in detail, xraylib gives the magnitude
    assert f.imag > 0.3 and f.real < form_factor("Se", [0.3], tables())[0].real - 4
    f = form_factor("S", [0.3], tables(1.2, anomalous=source))[0]
    energy = 12.398419843 / 1.2
    assert f.imag == pytest.approx(-xraylib.Fii(16, energy), abs=0.03)
    assert f.real - form_factor("S", [0.3], tables())[0].real == pytest.approx(
        xraylib.Fi(16, energy), abs=0.05
    )


@pytest.mark.parametrize("symbol", ["Xx", "Q", "", "Carbon"])
def test_unknown_element(symbol):
    with pytest.raises(ValueError, match="Unknown element"):
        check_element(symbol)


def test_deuterium_scatters_like_hydrogen():
    assert check_element("D") == "H"
    assert check_element("zn") == "Zn"
