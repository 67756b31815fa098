from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import i0

from cctbx import sgtbx, uctbx
from dxtbx.model import Beam, Crystal, Detector, Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    as_numpy,
    bool_column,
    double_column,
    int_column,
    miller_index_column,
    size_t_column,
    vec3_column,
)
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid
from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.scaling.refinement.settings import ScaleSettings

WAVELENGTH = 1.0


SIDE = 120.0  # of the whole detector, mm
DISTANCE = 100.0


def make_detector(n_x, n_y, n_pixels=300):
    """n_x times n_y panels side by side across the beam"""
    distance = DISTANCE
    detector = Detector()
    for j in range(n_y):
        for i in range(n_x):
            panel = detector.add_panel()
            panel.set_name(f"p{j}{i}")
            panel.set_frame(
                (1, 0, 0), (0, -1, 0), ((i / n_x - 0.5) * SIDE, (0.5 - j / n_y) * SIDE, -distance)
            )
            panel.set_pixel_size((SIDE / n_x / n_pixels, SIDE / n_y / n_pixels))
            panel.set_image_size((n_pixels, n_pixels))
            panel.set_trusted_range((-0.5, 1e6))
    return detector


def scale_settings(**changes) -> ScaleSettings:
    """Default settings of scaling with changes, such as fit={"n_cycles": 2}, seed=1."""
    settings = default_settings(ScaleSettings)
    for name, change in changes.items():
        if isinstance(change, dict):
            change = dataclasses.replace(getattr(settings, name), **change)
        settings = dataclasses.replace(settings, **{name: change})
    return settings


# Model settings for which b alone is refined
ONLY_SCALES = {"offset": False, "panel": False, "sensitivity": False}


def model_factors(model, panel, q, x, y):
    """Inverse scale factor g = a d b and offset h = a d c (N,) from the components of one still's model.

    Args:
        panel, q, x, y: (N,) panel number, |q| in 1/Angstrom and projected direction of s1
    """
    g = np.ones(len(q))
    if "panel" in model.components:
        g *= model.components["panel"].values()[panel]
    if "sensitivity" in model.components:
        sensitivity = model.components["sensitivity"]
        g *= (sensitivity.table_weights() @ sensitivity.values())[sensitivity.bin_of(x, y)]
    h = np.zeros(len(q))
    if "offset" in model.components:
        offset = model.components["offset"]
        h = g * (offset.table_weights() @ offset.values())[offset.bin_of(q)]
    return g * model.components["scale"].values()[0], h


@dataclasses.dataclass
class Truth:
    """A table of observations and what it was made from"""

    experiments: ExperimentList
    table: object
    grid: VoxelGrid
    b: np.ndarray
    d: np.ndarray
    voxel: np.ndarray
    intensity: np.ndarray
    c_of: object
    a_of: object
    wild: np.ndarray
    arc: np.ndarray

    @property
    def columns(self):
        return {name: as_numpy(self.table[name]) for name in self.table.keys()}


@dataclasses.dataclass
class Recipe:
    """What a truth is made of.

    Attributes:
        n_stills, n_obs: stills, and observations of each
        mean_counts: mean photons of the crystal in an observation
        n_voxels: different voxels
        panels: along x and y
        spread, panel_spread: of ln b and of d
        background: in units of mean_counts
        offset, sensitivity: amplitudes of c and of ln a
        wild_fraction: of observations with wrong counts
        arc_stills: stills that have two arcs in addition, as a fibre of a loop makes them
        one_orientation: every voxel has one position on the detector
    """

    n_stills: int = 30
    n_obs: int = 2000
    mean_counts: float = 5.0
    n_voxels: int = 600
    panels: tuple[int, int] = (1, 1)
    spread: float = 0.6
    background: float = 0.3
    offset: float = 0.0
    sensitivity: float = 0.0
    panel_spread: float = 0.0
    wild_fraction: float = 0.0
    arc_stills: tuple[int, ...] = ()
    one_orientation: bool = False
    seed: int = 1

    @property
    def n_all(self) -> int:
        return self.n_stills * self.n_obs


def _make_intensities(recipe, rng):
    """Grid, voxels (V, 3) of the asymmetric unit, their |q| and intensities (V,)"""
    group = sgtbx.space_group_info("P222").group().build_derived_laue_group()
    grid = VoxelGrid((2, 2, 2), uctbx.unit_cell((20, 24, 28, 90, 90, 90)), group, d_min=2.0)
    everything = np.stack(np.meshgrid(*[np.arange(0, 29)] * 3, indexing="ij"), -1).reshape(-1, 3)
    everything = everything[grid.contains(everything) & (everything.sum(axis=1) > 4)]
    voxel = grid.to_asu(everything[rng.permutation(len(everything))[: recipe.n_voxels]])
    q = np.linalg.norm(grid.q_of_voxel(voxel), axis=1)
    # anisotropic intensities on a falling curve
    return grid, voxel, q, 1000 * np.exp(-4 * q**2) * rng.gamma(6, 1 / 6, len(voxel))


def _make_experiments(recipe, grid):
    detector = make_detector(*recipe.panels)
    beam = Beam((0, 0, 1), WAVELENGTH)  # s0 = (0, 0, -1)
    experiments = ExperimentList()
    for i in range(recipe.n_stills):
        crystal = Crystal((20, 0, 0), (0, 24, 0), (0, 0, 28), "P222")
        experiments.append(
            Experiment(identifier=f"still-{i}", beam=beam, detector=detector, crystal=crystal)
        )
    attach_grid(experiments, grid)
    return experiments


def _positions(recipe, two_theta, phi):
    """Panels, pixels (N, 3) and projected directions (2, N)"""
    radius = DISTANCE * np.tan(two_theta)
    n_x, n_y = recipe.panels
    # in panels from the detector's upper left corner
    across = (radius * np.cos(phi) / SIDE + 0.5) * n_x
    down = (0.5 - radius * np.sin(phi) / SIDE) * n_y
    column, row = np.floor(across).astype(int), np.floor(down).astype(int)
    half = np.full(len(phi), 0.5)
    px = np.stack(((across - column) * 300, (down - row) * 300, half), axis=1)
    # seen along the beam, x to the right and y downwards
    return row * n_x + column, px, 2 * np.sin(two_theta / 2) * np.array([np.cos(phi), -np.sin(phi)])


def make_truth(**values):
    """Poisson counts of stills with known scales, as dials.diffuse_grid would write them.

    Positions on the detector and voxels are drawn independently: all that scaling
    uses of a position is its panel, |q| and direction. |q| of the position is the voxel's.

    Args:
        values: fields of Recipe
    """
    recipe = Recipe(**values)
    rng = np.random.default_rng(recipe.seed)
    grid, voxel, q_voxel, intensity = _make_intensities(recipe, rng)
    b = np.exp(rng.uniform(-recipe.spread, recipe.spread, recipe.n_stills) * 2)
    b /= b.mean()
    d = 1 + recipe.panel_spread * rng.uniform(-1, 1, recipe.panels[0] * recipe.panels[1])
    d /= np.exp(np.log(d).mean())
    amount = rng.uniform(0, 1, recipe.n_stills)
    amount -= amount.min()

    def c_of(still, q):
        return recipe.offset * 400 * amount[still] * (np.exp(-(((q - 0.3) / 0.1) ** 2)) + 0.3)

    def a_of(x, y):
        # the mean over each ring is 1: what depends on the radius alone can't be told from the intensities
        phi, amplitude = np.arctan2(y, x), recipe.sensitivity * np.hypot(x, y) / 0.4
        return np.exp(amplitude * np.sin(2 * phi + 4 * np.hypot(x, y))) / i0(amplitude)

    n = recipe.n_all
    still = np.repeat(np.arange(recipe.n_stills), recipe.n_obs)
    number = rng.integers(0, len(voxel), n)
    q = q_voxel[number]
    phi = rng.uniform(0, 2 * np.pi, len(voxel) if recipe.one_orientation else n)
    if recipe.one_orientation:
        phi = phi[number]
    # a direction at this |q|: 2 sin(theta) = q lambda
    panel, px, (x, y) = _positions(recipe, 2 * np.arcsin(q * WAVELENGTH / 2), phi)
    exposure = rng.uniform(0.5, 1.5, n)
    exposure *= recipe.mean_counts / np.mean(exposure * b[still] * intensity[number])
    offset = c_of(still, q)
    arc = np.isin(still, recipe.arc_stills) & (abs(q - 0.3) < 0.06) & (np.cos(2 * (phi - 1)) > 0.8)
    offset[arc] += 300
    signal = exposure * a_of(x, y) * d[panel] * (b[still] * intensity[number] + offset)
    bkg = np.full(n, recipe.background * recipe.mean_counts)
    counts = rng.poisson(signal + bkg).astype(float)
    wild = rng.uniform(size=n) < recipe.wild_fraction
    counts[wild] = np.where(
        rng.uniform(size=wild.sum()) < 0.7,
        counts[wild] + rng.uniform(5, 20, wild.sum()) * (recipe.mean_counts + 10),
        0,
    )
    experiments = _make_experiments(recipe, grid)
    table = flex.reflection_table()
    table["id"] = int_column(still)
    table["panel"] = size_t_column(panel)
    table["voxel"] = miller_index_column(voxel[number])
    table["asu_voxel"] = miller_index_column(voxel[number])
    table["xyzobs.px.value"] = vec3_column(px)
    table["bragg"] = bool_column(np.zeros(n))
    table["num_pixels.valid"] = int_column(np.ones(n))
    table["counts"] = double_column(counts)
    table["background"] = double_column(bkg)
    table["background.variance"] = double_column(np.zeros(n))
    table["exposure"] = double_column(exposure)
    for i, experiment in enumerate(experiments):
        table.experiment_identifiers()[i] = experiment.identifier
    return Truth(experiments, table, grid, b, d, voxel, intensity, c_of, a_of, wild, arc)
