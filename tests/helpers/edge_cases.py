"""Gridded tables of observations made with plain numpy, and what dials.diffuse_scale makes of them.

A Scene says which still sees which voxel, where and how long. A test makes the photons of it. Nothing
here comes from the forward model of the library, nor from its reduction: only the grid does, and the
reading and writing of files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging

import numpy as np
from commands import run_command
from synthetic_scaling import DISTANCE, SIDE, WAVELENGTH, make_detector

from cctbx import sgtbx, uctbx
from dxtbx.model import Beam, Crystal, Experiment
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

PIXELS = 300  # of a panel along each side
SHELLS = np.linspace(0.1, 0.5, 7)  # edges in |q|, 1/Angstrom


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a scene is made of.

    Attributes:
        n_stills, n_voxels: numbers; no more voxels than the grid has
        seen: range of the number of stills that see a voxel, ends included; or one range a voxel (V, 2)
        photons: mean photons of the crystal in an observation, for a scale of 1
        contrast: standard deviation of the intensities around their mean at their |q|, over that mean
        space_group, cell: of the crystal
        panels: of the detector, along x and y
        seed: of all choices
    """

    n_stills: int = 40
    n_voxels: int = 2500
    seen: object = (20, 28)
    photons: float = 30.0
    contrast: float = 0.35
    space_group: str = "P222"
    cell: tuple = (20, 24, 28, 90, 90, 90)
    panels: tuple = (1, 1)
    seed: int = 1


class Scene:
    """Voxels with intensities, and observations without photons, sorted by still.

    Attributes:
        layout: what it was made of
        grid: VoxelGrid
        voxel: (V, 3) of the asymmetric unit
        q_voxel, level, intensity: (V,) |q|, mean intensity at this |q|, intensity in photons/(s sr)
        still, number: (N,) still and voxel of each observation
        q, exposure: (N,)
        panel, px: (N,), (N, 3) place on the detector, in a random direction around the beam
    """

    def __init__(self, **values):
        self.layout = layout = Layout(**values)
        self.rng = rng = np.random.default_rng(layout.seed)
        self._make_voxels()
        seen = np.broadcast_to(np.asarray(layout.seen), (len(self.voxel), 2))
        n_seen = rng.integers(seen[:, 0], seen[:, 1] + 1)
        dealt = rng.random((len(self.voxel), layout.n_stills)).argsort(axis=1)
        number, still = np.nonzero(dealt < n_seen[:, None])
        order = np.argsort(still, kind="stable")
        self.still, self.number = still[order], number[order]
        self.q = self.q_voxel[self.number]
        exposure = rng.uniform(0.5, 1.5, len(self.q))
        self.exposure = exposure * layout.photons / np.mean(exposure * self.level[self.number])
        self._place()

    def _make_voxels(self):
        layout, rng = self.layout, self.rng
        group = sgtbx.space_group_info(layout.space_group).group().build_derived_laue_group()
        self.grid = VoxelGrid((2, 2, 2), uctbx.unit_cell(layout.cell), group, d_min=2.0)
        reach = int(max(layout.cell[:3])) + 1
        everything = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3), -1).reshape(-1, 3)
        q = np.linalg.norm(self.grid.q_of_voxel(everything), axis=1)
        everything = everything[(q > SHELLS[0]) & (q < SHELLS[-1])]
        voxel = np.unique(self.grid.to_asu(everything), axis=0)
        assert len(voxel) >= layout.n_voxels
        voxel = voxel[rng.permutation(len(voxel))[: layout.n_voxels]]
        self.voxel = voxel[np.argsort(_key(voxel))]
        self.q_voxel = np.linalg.norm(self.grid.q_of_voxel(self.voxel), axis=1)
        self.level = 1000 * np.exp(-4 * self.q_voxel**2)
        # at least 0.4 of the level for a contrast of 0.35: something may be taken away
        share = layout.contrast * np.sqrt(3)
        self.intensity = self.level * (1 - share + share * rng.gamma(3, 1 / 3, len(self.voxel)))

    def _place(self):
        n_x, n_y = self.layout.panels
        two_theta = 2 * np.arcsin(self.q * WAVELENGTH / 2)
        phi = self.rng.uniform(0, 2 * np.pi, len(self.q))
        across = (DISTANCE * np.tan(two_theta) * np.cos(phi) / SIDE + 0.5) * n_x
        down = (0.5 - DISTANCE * np.tan(two_theta) * np.sin(phi) / SIDE) * n_y
        column, row = np.floor(across).astype(int), np.floor(down).astype(int)
        self.panel = row * n_x + column
        half = np.full(len(phi), 0.5)
        self.px = np.stack(((across - column) * PIXELS, (down - row) * PIXELS, half), axis=1)

    def signal(self, g, h=0.0):
        """(N,) expected photons for inverse scale factors g and offsets h, a number or (N,) each"""
        return self.exposure * (g * self.intensity[self.number] + h)

    def first_stills(self, n):
        """The scene with its first n stills only, and where their observations end"""
        part, end = object.__new__(Scene), np.searchsorted(self.still, n)
        part.__dict__.update(self.__dict__)
        part.layout = dataclasses.replace(self.layout, n_stills=n)
        for name in ("still", "number", "q", "exposure", "panel", "px"):
            setattr(part, name, getattr(self, name)[:end])
        return part, end

    def lattices(self, n):
        """n stills on each image, which see the same voxels: still k * images + image is lattice k of it"""
        parts, n_images = object.__new__(Scene), self.layout.n_stills
        parts.__dict__.update(self.__dict__)
        parts.layout = dataclasses.replace(self.layout, n_stills=n * n_images)
        for name in ("number", "q", "exposure", "panel", "px"):
            setattr(parts, name, np.concatenate([getattr(self, name)] * n))
        parts.still = np.concatenate([self.still + k * n_images for k in range(n)])
        return parts

    def sums(self, values):
        """(V,) sums of values (N,) of observations in each voxel"""
        return np.bincount(self.number, values, len(self.voxel))


def _key(voxel):
    return ((voxel[:, 0] + 512) * 1024 + voxel[:, 1] + 512) * 1024 + voxel[:, 2] + 512


def scales(n, spread, seed=7):
    """(n,) factors with mean 1, by up to exp(spread) from each other's geometric mean"""
    b = np.exp(np.random.default_rng(seed).uniform(-spread, spread, n))
    return b / b.mean()


def evenly(n, seed=8):
    """(n,) numbers between 0 and 1, evenly spread, in random order: quantiles without luck"""
    return np.random.default_rng(seed).permutation((np.arange(n) + 0.5) / n)


@dataclasses.dataclass
class Scaled:
    """What dials.diffuse_scale left.

    Attributes:
        log: the command's log
        warnings: messages of level WARNING and above
        intensity, variance, n_obs, n_stills, exposure, half_1, half_2: (V,) the map at the voxels of
            the scene, NaN where it has none
        rows: columns of diffuse_scaled.refl, (N,) each in the order of the scene
        b: (S,) scales of the models
        numbers: content of output.json
    """

    log: str = dataclasses.field(repr=False)
    warnings: list
    intensity: np.ndarray
    variance: np.ndarray
    n_obs: np.ndarray
    n_stills: np.ndarray
    exposure: np.ndarray
    half_1: np.ndarray
    half_2: np.ndarray
    rows: dict = dataclasses.field(repr=False)
    b: np.ndarray
    numbers: dict = dataclasses.field(repr=False)

    def warned(self, word):
        """True if a warning holds the word"""
        return any(word in message.lower() for message in self.warnings)


class _Warnings(logging.Handler):
    """Keeps the messages of warnings. The command starts logs of its own, above the logger of this one."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record):
        self.messages.append(record.getMessage())

    @contextlib.contextmanager
    def listening(self):
        logger = logging.getLogger("dials.diffuse")
        logger.addHandler(self)
        try:
            yield self.messages
        finally:
            logger.removeHandler(self)


def write_pairs(scene, folder, counts, background=0.0, n_pairs=1, images=None):
    """Write the scene with photons as pairs of gridded files.

    Args:
        counts, background: photons, a number or (N,) each
        images: (S,) path of the image and index in it of each still; None: no imagesets

    Returns:
        names of the files
    """
    counts, background = (np.broadcast_to(v, len(scene.q)) for v in (counts, background))
    beam, detector = Beam((0, 0, 1), WAVELENGTH), make_detector(*scene.layout.panels, PIXELS)
    a, b, c = np.array(scene.grid.unit_cell.orthogonalization_matrix()).reshape(3, 3).T.tolist()
    names = []
    for part in np.array_split(np.arange(scene.layout.n_stills), n_pairs):
        experiments = ExperimentList()
        for i in part:
            crystal = Crystal(a, b, c, scene.layout.space_group)
            experiments.append(
                Experiment(identifier=f"still-{i}", beam=beam, detector=detector, crystal=crystal)
            )
        attach_grid(experiments, scene.grid)
        rows = slice(*np.searchsorted(scene.still, [part[0], part[-1] + 1]))
        number = scene.number[rows]
        table = flex.reflection_table()
        table["id"] = int_column(scene.still[rows] - part[0])
        table["panel"] = size_t_column(scene.panel[rows])
        table["voxel"] = miller_index_column(scene.voxel[number])
        table["asu_voxel"] = miller_index_column(scene.voxel[number])
        table["xyzobs.px.value"] = vec3_column(scene.px[rows])
        table["bragg"] = bool_column(np.zeros(len(number)))
        table["num_pixels.valid"] = int_column(np.ones(len(number)))
        table["counts"] = double_column(counts[rows].astype(float))
        table["background"] = double_column(background[rows].astype(float))
        table["background.variance"] = double_column(np.zeros(len(number)))
        table["exposure"] = double_column(scene.exposure[rows])
        for position, experiment in enumerate(experiments):
            table.experiment_identifiers()[position] = experiment.identifier
        stem = f"gridded_{len(names) // 2}"
        experiments.as_file(str(folder / f"{stem}.expt"))
        if images is not None:
            _add_images(folder / f"{stem}.expt", [images[i] for i in part])
        table.as_file(str(folder / f"{stem}.refl"))
        names += [f"{stem}.expt", f"{stem}.refl"]
    return names


def _add_images(path, images):
    """Give the experiments of a file imagesets, one an image: those of one image share it"""
    contents = json.loads(path.read_text())
    distinct = list(dict.fromkeys(images))
    contents["imageset"] = [
        {
            "__id__": "ImageSet",
            "images": [name],
            "single_file_indices": [index],
            "mask": None,
            "gain": None,
            "pedestal": None,
            "dx": None,
            "dy": None,
            "params": {},
        }
        for name, index in distinct
    ]
    for experiment, image in zip(contents["experiment"], images):
        experiment["imageset"] = distinct.index(image)
    path.write_text(json.dumps(contents))


def run_scale(scene, folder, counts, *options, background=0.0, n_pairs=1, images=None):
    """Write the scene with photons, run dials.diffuse_scale and read what it wrote.

    Args:
        counts, background, n_pairs, images: as for write_pairs
        options: of the command
    """
    folder.mkdir(exist_ok=True)
    names = write_pairs(scene, folder, counts, background, n_pairs, images)
    quiet = ["output.html=None", "output.map=None", "output.json=scale.json", "nproc=2"]
    with _Warnings().listening() as warnings:
        done = run_command(folder, "dials.diffuse_scale", *names, *quiet, *options)
    if done.returncode:
        raise AssertionError(f"dials.diffuse_scale failed: {done.stderr}")
    merged = columns_of(folder / "diffuse_merged.refl")
    place = np.searchsorted(_key(scene.voxel), _key(merged["voxel"]))
    aligned = {}
    for name in ("intensity", "variance", "n_obs", "n_stills", "exposure", "half_1", "half_2"):
        aligned[name] = np.full(len(scene.voxel), 0.0 if name.startswith("n_") else np.nan)
        aligned[name][place] = merged[name]
    suffixes = [""] if n_pairs == 1 else [f"_{n:04d}" for n in range(1, n_pairs + 1)]
    tables = [columns_of(folder / f"diffuse_scaled{suffix}.refl") for suffix in suffixes]
    models = [
        experiment.scaling_model
        for suffix in suffixes
        for experiment in ExperimentList.from_file(
            str(folder / f"diffuse_scaled{suffix}.expt"), check_format=False
        )
    ]
    return Scaled(
        log=(folder / "dials.diffuse_scale.log").read_text(),
        warnings=warnings,
        rows={name: np.concatenate([table[name] for table in tables]) for name in tables[0]},
        b=np.array([model.components["scale"].parameters[0] for model in models]),
        numbers=json.loads((folder / "scale.json").read_text()),
        **aligned,
    )


def columns_of(path):
    """Columns of a .refl file as arrays"""
    table = flex.reflection_table.from_file(str(path))
    return {name: as_numpy(table[name]) for name in table.keys()}


def isotropic(scene, found, truth, weight):
    """The isotropic part of a map over that of the truth.

    Args:
        found, truth: (V,) maps; voxels where found is NaN are left out
        weight: (V,), such as the sum of exposure times the true scales

    Returns:
        over all voxels, and (n,) in shells of |q|
    """
    use = np.isfinite(found)
    shell = np.digitize(scene.q_voxel[use], SHELLS) - 1
    n = len(SHELLS) - 1
    over = np.bincount(shell, (weight * found)[use], n)
    under = np.bincount(shell, (weight * truth)[use], n)
    return over.sum() / under.sum(), over / under


def merged_with(scene, counts, g, h=0.0, background=0.0):
    """What a test should find: the map (V,) made with true factors, weighted by true variances.

    Args:
        counts, background: photons; g, h: true inverse scale factors and offsets; a number or (N,) each

    Returns:
        intensity, variance, (V,) each
    """
    variance = np.maximum(scene.signal(g, h) + background, 1e-9)
    slope = scene.exposure * g
    net = counts - background - scene.exposure * h
    information = scene.sums(slope**2 / variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        return scene.sums(slope * net / variance) / information, 1 / information
