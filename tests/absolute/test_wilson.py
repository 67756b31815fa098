from __future__ import annotations

import numpy as np
import pytest
import synthetic_crystal
import unit_cells
import xraylib

from cctbx import crystal, miller

from dials.array_family import flex

from dials_diffuse.absolute.wilson import NodeIntegrator, Nodes, WilsonSettings, wilson_scale
from dials_diffuse.adapters.stills import stills_of
from dials_diffuse.adapters.tables import as_numpy, bool_column, miller_index_column
from dials_diffuse.phil.defaults import default_settings


@pytest.fixture(scope="module")
def data():
    return synthetic_crystal.SyntheticCrystal(scale=5.0, b_factor=12.0, n_stills=8)


@pytest.fixture(scope="module")
def inventory():
    symmetry = crystal.symmetry(synthetic_crystal.CELL, "P41212")
    return unit_cells.inventory(
        symmetry, formula=synthetic_crystal.FORMULA, copies=synthetic_crystal.COPIES
    )


def estimated(nodes, inventory):
    return wilson_scale(nodes, inventory, unit_cells.tables(), default_settings(WilsonSettings))


def integrate(data, part=None):
    integrator = NodeIntegrator(data.grid)
    stills = stills_of(data.experiments)
    step = part or data.table.size()
    for start in range(0, data.table.size(), step):
        integrator.add(stills, data.table[start : start + step])
    return integrator.nodes()


def test_scale_and_b_of_wilsons_statistics(data, inventory):
    estimate, plot = estimated(integrate(data), inventory)
    assert estimate.scale == pytest.approx(5.0, rel=0.05)
    assert abs(estimate.scale - 5.0) < 2.5 * estimate.error
    assert plot.b_factor == pytest.approx(12.0, abs=1.5)
    assert plot.used.sum() > 5


def test_cells_cut_beside_their_peaks_count(inventory):
    """Few rows: of many cells that are seen, the voxel of the peak is not."""
    data = synthetic_crystal.SyntheticCrystal(scale=5.0, b_factor=12.0, n_stills=40, seed=3)
    rng = np.random.default_rng(2)
    rows = np.zeros(data.table.size(), dtype=bool)
    rows[rng.permutation(len(rows))[:20000]] = True
    data.table = data.table.select(bool_column(rows))
    nodes = integrate(data)
    assert 0.2 < (nodes.intensity == 0).mean() < 0.5
    estimate, _ = estimated(nodes, inventory)
    assert estimate.scale == pytest.approx(5.0, rel=0.12)


def test_parts_of_a_table_add_up(data):
    whole, parts = integrate(data), integrate(data, 50000)
    assert (whole.miller_index == parts.miller_index).all()
    assert parts.intensity == pytest.approx(whole.intensity)
    assert parts.weight == pytest.approx(whole.weight)
    # every node once
    packed = {tuple(index) for index in whole.miller_index.tolist()}
    assert len(packed) == len(whole.miller_index)


def test_nodes_of_a_large_cell_keep_their_indices(data):
    bragg = as_numpy(data.table["bragg"])
    first = (np.flatnonzero(bragg)[0], np.flatnonzero(~bragg)[0])
    table = data.table.select(flex.size_t([int(row) for row in first]))
    # the second and the third index beyond 2048
    table["voxel"] = miller_index_column([[2, 5000, 6000]] * 2)
    integrator = NodeIntegrator(data.grid.replace(d_min=None))
    integrator.add(stills_of(data.experiments), table)
    assert {
        tuple(sorted(abs(i) for i in index)) for index in integrator.nodes().miller_index.tolist()
    } == {(1, 2500, 3000)}


def test_nodes_against_a_plain_loop(data):
    """The intensity of a node, from its rows one by one."""
    nodes = integrate(data)
    table, grid = data.table, data.grid
    node = grid.node_of_voxel(as_numpy(table["voxel"]))
    wanted = nodes.miller_index[7]
    wanted = tuple(int(x) for x in wanted)
    equivalents = {e.h() for e in miller.sym_equiv_indices(grid.laue_group, wanted).indices()}
    rows = np.array([tuple(index) in equivalents for index in node.tolist()])
    g = as_numpy(table["inverse_scale_factor"])[rows] * as_numpy(table["exposure"])[rows]
    signal = (
        as_numpy(table["counts"])[rows]
        - as_numpy(table["background"])[rows]
        - as_numpy(table["offset"])[rows] * as_numpy(table["exposure"])[rows]
    )
    bragg = as_numpy(table["bragg"]).astype(bool)[rows]
    expected = signal.sum() / g.sum() - signal[~bragg].sum() / g[~bragg].sum()
    assert nodes.intensity[7] == pytest.approx(expected)


def test_range_too_short(inventory):
    rng = np.random.default_rng(0)
    q = rng.uniform(0.1, 0.3, 500)
    nodes = Nodes(np.zeros((500, 3), int), np.ones(500), np.ones(500), np.ones(500), q)
    with pytest.raises(ValueError, match="needs a range"):
        estimated(nodes, inventory)


def test_no_bragg_peaks(data, inventory):
    table = data.table.copy()
    table["bragg"] = bool_column(np.zeros(table.size(), dtype=bool))
    integrator = NodeIntegrator(data.grid)
    integrator.add(stills_of(data.experiments), table)
    with pytest.raises(ValueError, match="No Bragg peak"):
        estimated(integrator.nodes(), inventory)


def test_bragg_that_does_not_stand_out(inventory):
    rng = np.random.default_rng(0)
    n = 4000
    nodes = Nodes(
        np.zeros((n, 3), int), rng.normal(size=n), np.ones(n), np.ones(n), rng.uniform(0.1, 0.8, n)
    )
    with pytest.raises(ValueError, match="less than 3 shells"):
        estimated(nodes, inventory)


CENTRINGS = {
    "P": [(0, 0, 0)],
    "I": [(0, 0, 0), (0.5, 0.5, 0.5)],
    "C": [(0, 0, 0), (0.5, 0.5, 0)],
    "F": [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
}


def scale_of_a_centred_lattice(lattice, rng):
    """Of structure factors of carbon atoms at random places, summed by plain numpy, with a scale of 10 and B 10;
    only reflections that the centring allows are in the list, as of an integration program."""
    shifts = np.array(CENTRINGS[lattice])
    cell = np.array([24.0, 26.0, 28.0])
    atoms = (rng.random((60, 1, 3)) + shifts).reshape(-1, 3)
    axes = np.meshgrid(*3 * [np.arange(-24, 25)], indexing="ij")
    indices = np.stack(axes, axis=-1).reshape(-1, 3)
    q = np.linalg.norm(indices / cell, axis=1)
    indices = indices[(q > 0.05) & (q < 0.85) & (indices[:, 0] > 0)]
    allowed = np.isclose(np.exp(2j * np.pi * indices @ shifts.T).sum(axis=1), len(shifts))
    indices = indices[allowed][rng.permutation(allowed.sum())[:6000]]
    q = np.linalg.norm(indices / cell, axis=1)
    known = np.linspace(0.0, 0.9, 200)
    form = np.interp(q, known, [xraylib.FF_Rayl(6, max(0.5 * x, 0.001)) for x in known])
    amplitude = form * np.exp(-10.0 * q**2 / 4)
    intensity = np.abs(amplitude * np.exp(2j * np.pi * indices @ atoms.T).sum(axis=1)) ** 2
    ones = np.ones(len(q))
    nodes = Nodes(indices, intensity / 10.0, 0.01 * ones, ones, q, len(shifts))
    symbol = "P 1" if lattice == "P" else f"{lattice} 2 2 2"
    symmetry = crystal.symmetry((*cell, 90, 90, 90), symbol)
    contents = unit_cells.inventory(symmetry, formula="C 60", copies=len(shifts))
    return estimated(nodes, contents)


@pytest.mark.parametrize("lattice", CENTRINGS)
def test_reflections_of_a_centred_lattice(lattice):
    """Sixty atoms are few: one structure departs from Wilson's mean by 4 %, which the stated error covers."""
    rng = np.random.default_rng(5)
    found = [scale_of_a_centred_lattice(lattice, rng) for _ in range(6)]
    assert np.mean([estimate.scale for estimate, _ in found]) == pytest.approx(10.0, rel=0.05)
    assert np.mean([plot.b_factor for _, plot in found]) == pytest.approx(10.0, abs=0.5)
    for estimate, _ in found:
        assert abs(estimate.scale - 10.0) < 3 * estimate.error
