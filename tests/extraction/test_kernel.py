"""The compiled sums against the same sums written with numpy, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import uctbx
from dxtbx.model import BeamFactory, DetectorFactory

from dials_diffuse.extraction.kernel import VoxelSums
from dials_diffuse.extraction.photons import PanelPixels
from dials_diffuse.geometry.panel import compute_panel
from dials_diffuse.geometry.settings import GeometrySettings
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.rows import grid_rows
from dials_diffuse.phil.defaults import default_settings


@pytest.fixture(scope="module")
def panel():
    detector = DetectorFactory.simple(
        "PAD", 100.0, (12.0, 10.0), "+x", "-y", (0.3, 0.3), (90, 70), (-1, 1000)
    )
    return compute_panel(detector[0], BeamFactory.simple(1.0), default_settings(GeometrySettings))


@pytest.fixture
def image():
    generator = np.random.default_rng(3)
    raw = generator.poisson(2.0, (70, 90)).astype(np.int32)
    raw[5, 6], raw[40, 20], raw[41, 3:9] = 5000, -1, -2
    use = generator.random(raw.shape) > 0.1
    use[:3] = False
    use[30:34, 40:60] = False
    bragg = generator.random(raw.shape) > 0.9
    return raw, use, bragg


# a cell of about 40 Angstrom, not aligned with anything
A = np.array([[0.021, 0.011, -0.004], [-0.010, 0.022, 0.003], [0.006, -0.001, 0.019]])
MATRIX = np.diag([3, 3, 2]) @ np.linalg.inv(A)


def sum_panel(raw, use, trusted, panel, matrix, bragg=None, dose=1.0, seconds=1.0, **others):
    """Columns of a still that has this panel only."""
    sums = VoxelSums()
    sums.start(dose)
    bragg = np.zeros(raw.shape, dtype=bool) if bragg is None else bragg
    sums.add_panel(0, PanelPixels(raw, use, bragg, trusted, **others), panel, matrix)
    return sums.columns(seconds, 0.5)


def brute_force(
    raw, use, trusted, panel, matrix, bragg, background, variance, shared, gain, pedestal
):
    voxel = np.floor(np.einsum("ij,abj->abi", matrix, panel.q.astype(float)) + 0.5).astype(int)
    with np.errstate(invalid="ignore"):
        good = use & (raw >= trusted[0]) & (raw <= trusted[1])
    sums = {}
    for i, j in zip(*np.nonzero(good)):
        key = (*voxel[i, j], bool(bragg[i, j]))
        e = float(panel.acceptance[i, j])
        sums.setdefault(key, np.zeros(8))
        sums[key] += (
            1,
            (raw[i, j] - pedestal) / gain,
            background[i, j],
            variance[i, j],
            shared[i, j],
            e,
            e * (j + 0.5),
            e * (i + 0.5),
        )
    return sums


@pytest.mark.parametrize("kind", [np.int32, np.float64])
@pytest.mark.parametrize("gain, pedestal", [(1.0, 0.0), (2.5, 10.0)])
@pytest.mark.parametrize("finer", [1, 200])
def test_sums_are_those_of_a_plain_loop(panel, image, kind, gain, pedestal, finer):
    matrix = finer * MATRIX
    raw, use, bragg = image
    raw = raw.astype(kind)
    if kind is np.float64:
        raw[20, 20:25] = np.nan
    generator = np.random.default_rng(4)
    background, variance, shared = generator.random((3, 70, 90)).astype(np.float32)
    found = sum_panel(
        raw,
        use,
        (0, 1000),
        panel,
        matrix,
        bragg,
        dose=2.0,
        seconds=3.0,
        background=(background, variance, shared),
        gain=gain,
        pedestal=pedestal,
    )
    expected = brute_force(
        raw,
        use,
        (0, 1000),
        panel,
        matrix,
        bragg,
        2 * background,
        4 * variance,
        2 * shared,
        gain,
        pedestal,
    )
    keys = [(*map(int, v), bool(b)) for v, b in zip(found["voxel"], found["bragg"])]
    assert len(set(keys)) == len(keys) == len(expected)
    assert set(keys) == set(expected)
    table = np.array([expected[key] for key in keys])
    assert np.array_equal(found["num_pixels.valid"], table[:, 0])
    # relative to the sums of a row of pixels, from which these are told apart
    assert np.allclose(found["counts"], table[:, 1], rtol=1e-12)
    assert np.allclose(found["background"], table[:, 2], rtol=1e-12)
    assert np.allclose(found["background.variance"], table[:, 3] + table[:, 4] ** 2, rtol=1e-12)
    assert np.allclose(found["exposure"], 3.0 * table[:, 5], rtol=1e-12)
    position = np.column_stack(
        [table[:, 6] / table[:, 5], table[:, 7] / table[:, 5], [0.5] * len(table)]
    )
    assert np.allclose(found["xyzobs.px.value"], position, rtol=1e-12)
    assert not found["panel"].any()


def test_the_largest_indices(panel):
    """Indices up to the limit, of both signs, are unpacked as they were packed."""
    raw = np.ones((70, 90), dtype=np.int32)
    matrix = np.eye(3) * (0.99 * ((1 << 19) - 2) / panel.largest_q)
    found = sum_panel(raw, np.ones(raw.shape, dtype=bool), (0, 10), panel, matrix)
    expected = np.floor(np.einsum("ij,abj->abi", matrix, panel.q.astype(float)) + 0.5).astype(int)
    assert np.array_equal(found["voxel"], expected.reshape(-1, 3))
    assert found["voxel"].max() > 2e5 and found["voxel"].min() < -2e5


def test_coarser_voxels_are_those_extracted_so(panel, image):
    """All of it, the error of a background included that neighbouring pixels share"""
    raw, use, bragg = image
    background, shared = np.random.default_rng(5).random((2, 70, 90)).astype(np.float32)
    extracted = [
        sum_panel(
            raw,
            use,
            (0, 1000),
            panel,
            n * np.linalg.inv(A),
            bragg,
            background=(background, None, shared),
        )
        for n in (3, 1)
    ]
    grids = [
        VoxelGrid(
            (n, n, n), uctbx.unit_cell((40, 40, 50, 90, 90, 90)), laue_group_from_symbol("P 1")
        )
        for n in (3, 1)
    ]
    found = [
        grid_rows(columns | {"id": np.zeros(len(columns["counts"]), np.int32)}, own, grids[1])
        for columns, own in zip(extracted, grids)
    ]
    order = [np.lexsort((*columns["voxel"].T, columns["bragg"])) for columns in found]
    assert len(order[0]) < 0.5 * len(extracted[0]["counts"])
    for name in found[0]:
        joined, direct = (columns[name][rows] for columns, rows in zip(found, order))
        assert np.allclose(joined, direct, rtol=1e-9), name


def test_without_masks_every_pixel_is_counted_once(panel, image):
    raw = np.ones((70, 90), dtype=np.int32)
    found = sum_panel(raw, np.ones(raw.shape, dtype=bool), (0, 10), panel, MATRIX)
    assert found["num_pixels.valid"].sum() == found["counts"].sum() == raw.size
    assert found["exposure"].sum() == pytest.approx(panel.acceptance.sum(dtype=np.float64))
    assert not found["bragg"].any() and not found["background"].any()


def test_many_more_voxels_than_the_table_starts_with(panel):
    raw = np.ones((70, 90), dtype=np.int32)
    found = sum_panel(raw, np.ones(raw.shape, dtype=bool), (0, 10), panel, 40 * MATRIX)
    assert len(found["counts"]) > 6000
    assert found["num_pixels.valid"].sum() == raw.size
    assert len(np.unique(found["voxel"], axis=0)) == len(found["counts"])


def test_trusted_bounds_are_inclusive(panel):
    raw = np.tile(np.arange(90, dtype=np.int32), (70, 1))
    found = sum_panel(raw, np.ones(raw.shape, dtype=bool), (3, 10), panel, MATRIX)
    assert found["num_pixels.valid"].sum() == 70 * 8
    assert found["counts"].sum() == 70 * sum(range(3, 11))


def test_intensity_limits(panel):
    raw = np.zeros((70, 90), dtype=np.int32)
    raw[10, 10], raw[20, 20] = 5, 50
    use = np.ones(raw.shape, dtype=bool)
    limit = 20 / panel.acceptance[20, 20]
    assert (
        sum_panel(raw, use, (0, 100), panel, MATRIX, intensity=(-np.inf, limit))["counts"].sum()
        == 5
    )
    assert (
        sum_panel(raw, use, (0, 100), panel, MATRIX, intensity=(limit, np.inf))["counts"].sum()
        == 50
    )
    # a background brings the pixel below the limit
    background = (np.full(raw.shape, 40, dtype=np.float32), None, None)
    found = sum_panel(
        raw, use, (0, 100), panel, MATRIX, background=background, intensity=(-np.inf, limit)
    )
    assert found["counts"].sum() == 55


def test_a_fully_masked_panel_has_no_rows(panel):
    raw = np.ones((70, 90), dtype=np.int32)
    found = sum_panel(raw, np.zeros(raw.shape, dtype=bool), (0, 10), panel, MATRIX)
    assert found["counts"].shape == (0,) and found["voxel"].shape == (0, 3)


def test_indices_that_do_not_fit_are_refused(panel):
    raw = np.ones((70, 90), dtype=np.int32)
    with pytest.raises(ValueError, match="subdivide"):
        sum_panel(raw, raw > 0, (0, 10), panel, 1e5 * MATRIX)


def test_panels_and_stills_do_not_mix(panel, image):
    raw, use, bragg = image
    pixels = PanelPixels(raw, use, bragg, (0, 1000))
    sums = VoxelSums()
    alone = sum_panel(raw, use, (0, 1000), panel, MATRIX, bragg)
    other = sum_panel(raw, use, (0, 1000), panel, 20 * MATRIX, bragg)
    # the second has more voxels than there was memory for
    for _ in range(2):
        sums.start(1.0)
        sums.add_panel(3, pixels, panel, MATRIX)
        sums.add_panel(5, pixels, panel, 20 * MATRIX)
        sums.add_panel(6, pixels, panel, MATRIX)
        columns = sums.columns(1.0, 0.5)
        for number, expected in ((3, alone), (5, other), (6, alone)):
            rows = columns["panel"] == number
            for name in set(columns) - {"panel"}:
                assert np.array_equal(columns[name][rows], expected[name])


def test_an_infinite_pixel_leaves_its_neighbours_alone(panel):
    raw = np.ones((70, 90))
    raw[20, 30] = np.inf
    found = sum_panel(raw, raw > 0, (-np.inf, np.inf), panel, MATRIX)
    assert found["counts"].sum() == raw.size - 1
