"""Gridded observations as numpy arrays, one .expt/.refl pair at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dxtbx.model import ExperimentList

from dials_diffuse.adapters.identifiers import matched_ids
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills import check_given_once
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.voxel_grid import VoxelGrid, grid_of
from dials_diffuse.io.model_copy import restore_models
from dials_diffuse.io.table_file import Columns, read_columns
from dials_diffuse.scaling.observations.sorting import order_by_voxel

logger = logging.getLogger("dials.diffuse.scaling.observations")

COLUMNS = (
    "id",
    "panel",
    "voxel",
    "asu_voxel",
    "xyzobs.px.value",
    "bragg",
    "num_pixels.valid",
    "counts",
    "background",
    "background.variance",
    "exposure",
)


@dataclass
class Observations:
    """Observations of one pair (or of a subset of all pairs).

    Attributes:
        still: (N,) number of the still among all pairs
        panel: (N,)
        voxel: (N,) packed voxel of the asymmetric unit
        counts, background, background_variance: (N,) photons
        exposure: (N,) s sr
        n_pixels: (N,)
        q: (N,) 1/Angstrom; x, y: (N,) direction of s1 around the beam, projected
        usable: (N,) bool: finite, exposed, not under the Bragg mask
        bragg, finite: (N,) bool
        net: (N,) counts less background, photons
    """

    still: np.ndarray
    panel: np.ndarray
    voxel: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    background_variance: np.ndarray
    exposure: np.ndarray
    n_pixels: np.ndarray
    q: np.ndarray
    x: np.ndarray
    y: np.ndarray
    usable: np.ndarray
    bragg: np.ndarray
    finite: np.ndarray

    @property
    def net(self) -> np.ndarray:
        return self.counts - self.background

    @property
    def n_bragg(self) -> int:
        return int(np.count_nonzero(self.bragg))

    @property
    def n_not_finite(self) -> int:
        return int(np.count_nonzero(~self.finite))

    def __len__(self) -> int:
        return len(self.still)

    def variance_floor(self, readout_noise: float) -> np.ndarray:
        """(N,) variance of the counts without that of the signal, photons^2.

        Args:
            readout_noise: per pixel, photons
        """
        background = np.maximum(self.background, 0.0) + self.background_variance
        return background + self.n_pixels * readout_noise**2

    def select(self, selection: np.ndarray) -> Observations:
        """The observations of a selection (bool or indices)."""
        rows = np.flatnonzero(selection) if selection.dtype == bool else selection
        return Observations(**{k: v.take(rows) for k, v in vars(self).items()})

    @classmethod
    def concatenate(cls, tables: Sequence[Observations]) -> Observations:
        """The observations of several tables, in their order."""
        if len(tables) == 1:
            return tables[0]
        names = vars(tables[0])
        return cls(**{name: np.concatenate([getattr(t, name) for t in tables]) for name in names})


def projected_direction(s1: np.ndarray, s0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Direction of s1 around the beam, projected on a plane: (x, y) with |(x, y)| = 2 sin(theta).

    Lambert's equal-area projection, which is unique over all scattering angles and independent of
    the panels of the detector. x is the laboratory's x as seen along the beam.

    Args:
        s1: (N, 3), any length
        s0: (3,), any length
    """
    beam = np.asarray(s0) / np.linalg.norm(s0)
    start = np.array([1.0, 0.0, 0.0])
    if abs(beam @ start) > 0.9:
        start = np.array([0.0, 1.0, 0.0])
    e1 = start - (start @ beam) * beam
    e1 /= np.linalg.norm(e1)
    e2 = np.cross(beam, e1)
    direction = s1 / np.linalg.norm(s1, axis=1)[:, None]
    transverse = np.stack((direction @ e1, direction @ e2), axis=1)
    cosine = np.clip(direction @ beam, -1.0, 1.0)
    # sin(2 theta) -> 2 sin(theta)
    factor = np.sqrt(2.0 / np.maximum(1.0 + cosine, 1e-12))
    return transverse[:, 0] * factor, transverse[:, 1] * factor


def _lab_coordinates(detector, panels: np.ndarray, px: np.ndarray) -> np.ndarray:
    """Laboratory coordinates (mm) of pixel positions (N, 2) on panels (N,).

    Without parallax: a fraction of a pixel does not matter to functions that vary over a tenth of the
    detector.
    """
    origin = np.array([p.get_origin() for p in detector])
    fast = np.array([np.array(p.get_fast_axis()) * p.get_pixel_size()[0] for p in detector])
    slow = np.array([np.array(p.get_slow_axis()) * p.get_pixel_size()[1] for p in detector])
    return origin[panels] + px[:, :1] * fast[panels] + px[:, 1:2] * slow[panels]


def observation_geometry(
    experiments, still: np.ndarray, panel: np.ndarray, px: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """|q| in 1/Angstrom and the projected direction (x, y) of s1 at positions in pixels.

    Args:
        experiments: still is an index in them
        still, panel: (N,); px: (N, 2 or more) fast and slow

    Raises:
        ValueError: a panel that the detector does not have.
    """
    q, x, y = (np.zeros(len(still), dtype=np.float32) for _ in range(3))
    # usually they are in order, and slices need no copies
    in_order = bool(np.all(still[1:] >= still[:-1]))
    order = None if in_order else np.argsort(still, kind="stable")
    edges = np.searchsorted(still if in_order else still[order], np.arange(len(experiments) + 1))
    for index, experiment in enumerate(experiments):
        rows = slice(edges[index], edges[index + 1])
        if rows.start == rows.stop:
            continue
        if not in_order:
            rows = order[rows]
        if panel[rows].max() >= len(experiment.detector):
            raise ValueError(
                f"Experiment {index} has observations on panel {panel[rows].max()}, its detector has "
                f"{len(experiment.detector)} panels"
            )
        s0 = np.array(experiment.beam.get_s0())
        s1 = _lab_coordinates(experiment.detector, panel[rows], px[rows])
        x[rows], y[rows] = projected_direction(s1, s0)
        q[rows] = np.hypot(x[rows], y[rows]) * np.linalg.norm(s0)
    return q, x, y


def observations_of(
    experiments, columns: Mapping[str, np.ndarray], first_still: int = 0
) -> Observations:
    """Rows of a table as Observations, in their order.

    Args:
        experiments: of the table
        columns: gridded observations, name -> (N,) or (N, 3)
        first_still: number of the table's first experiment among all pairs

    Raises:
        ValueError: columns are missing, or panels do not exist.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if "asu_voxel" in missing:
        raise ValueError(
            "The observations are not on a grid yet (no column asu_voxel): run dials.diffuse_grid first"
        )
    if missing:
        raise ValueError(
            f"The table lacks the column {missing[0]}: it is not the output of dials.diffuse_grid"
        )
    ids = columns["id"].astype(np.int32)
    panel = columns["panel"].astype(np.int32)
    q, x, y = observation_geometry(experiments, ids, panel, columns["xyzobs.px.value"])
    values = {
        name.replace(".", "_"): columns[name].astype(np.float64)
        for name in ("counts", "background", "background.variance", "exposure")
    }
    n_pixels = columns["num_pixels.valid"].astype(np.int32)
    bragg = columns["bragg"].astype(bool)
    usable = (ids >= 0) & (n_pixels > 0) & ~bragg
    finite = np.isfinite(q)
    for value in values.values():
        finite &= np.isfinite(value)
    usable &= finite & (values["exposure"] > 0) & (values["background_variance"] >= 0)
    return Observations(
        still=ids + np.int32(first_still),
        panel=panel,
        voxel=pack_voxels(columns["asu_voxel"]),
        n_pixels=n_pixels,
        q=q,
        x=x,
        y=y,
        usable=usable,
        bragg=bragg,
        finite=finite,
        **values,
    )


@dataclass
class ObservationSource:
    """All pairs of files, read one after the other as often as needed.

    Up to `keep` observations stay in memory, so that small jobs read each file once; beyond that
    memory does not grow with the number of pairs. The observations in memory are sorted by voxel once
    the voxels are known, which makes sums over voxels several times faster.

    Attributes:
        pairs: input files
        model_copies: JSON files to restore lost models from
        keep: number of observations to keep in memory
        first_stills: number of the first still of each pair that was read
        experiments: of all pairs that were read
        grid: that all pairs share
    """

    pairs: Sequence[DataPair]
    model_copies: Sequence = ()
    keep: int = 15_000_000
    first_stills: list[int] = field(default_factory=list)
    experiments: list = field(default_factory=list)
    grid: VoxelGrid | None = None
    _files: dict[str, object] = field(default_factory=dict)
    _kept: dict[int, Observations] = field(default_factory=dict)
    _voxels: np.ndarray | None = None
    _index: dict[int, np.ndarray] = field(default_factory=dict)
    _rows: dict[int, np.ndarray] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Observations]:
        for number in range(len(self.pairs)):
            yield self.read_pair(number)

    def read_pair(self, number: int) -> Observations:
        """Observations of one pair, after those of all pairs before it were read once.

        They are in the order of the table's rows, or in one that in_table_order turns back into it.

        Raises:
            ValueError: unreadable, not matching, no table, grid missing.
        """
        if number in self._kept:
            return self._kept[number]
        if len(self.first_stills) == number:
            self._register(number)
        table = self.table(number)
        experiments, first_still = self.experiments_of(number), self.first_stills[number]
        obs = observations_of(experiments, table.columns, first_still)
        if sum(map(len, self._kept.values())) + len(obs) <= self.keep:
            self._kept[number] = obs
        return obs

    def experiments_of(self, number: int) -> ExperimentList:
        """The experiments of one pair that was read."""
        first, last = [*self.first_stills, len(self.experiments)][number : number + 2]
        return ExperimentList(self.experiments[first:last])

    def table(self, number: int) -> Columns:
        """The table of one pair that was read, with ids that are indices of its experiments.

        Raises:
            ValueError: unreadable, or of other experiments.
        """
        pair = self.pairs[number]
        table = read_columns(pair.reflections)
        if "id" in table.columns:
            table.columns["id"] = matched_ids(
                table.columns["id"],
                table.identifiers,
                self.experiments_of(number),
                str(pair.reflections),
                str(pair.experiments),
            )
        return table

    def indexed(self, voxels: np.ndarray) -> Iterator[tuple[Observations, np.ndarray]]:
        """The observations of each pair, with the positions (N,) int32 of their voxels in `voxels`.

        The position is -1 for voxels that are not in it. Other `voxels` than in the last call take
        longer.

        Args:
            voxels: (V,) packed, sorted
        """
        if voxels is not self._voxels:
            self._voxels = voxels
            self._index.clear()
        for number, obs in enumerate(self):
            if number not in self._index:
                index = np.searchsorted(voxels, obs.voxel).astype(np.int32)
                index[index == len(voxels)] = 0
                index[voxels[index] != obs.voxel] = -1
                if number not in self._kept:
                    yield obs, index
                    continue
                self._sort_kept(number, index)
            yield self._kept[number], self._index[number]

    def _sort_kept(self, number: int, index: np.ndarray) -> None:
        """Sort the observations of a pair by voxel, and within a voxel by still."""
        obs = self._kept[number]
        order = None
        if np.any(obs.still[1:] < obs.still[:-1]):
            order = np.argsort(obs.still, kind="stable")
            index = index[order]
        by_voxel = order_by_voxel(index, len(self._voxels))
        self._index[number] = index[by_voxel]
        order = by_voxel if order is None else order[by_voxel]
        self._kept[number] = obs.select(order)
        rows = self._rows.get(number)
        self._rows[number] = (order if rows is None else rows[order]).astype(np.int32)

    def keeps(self, number: int) -> bool:
        """True if the observations of a pair stay in memory."""
        return number in self._kept

    def in_table_order(self, number: int, values: np.ndarray) -> np.ndarray:
        """Values (N,) of the observations of read_pair(number), in the order of the table's rows."""
        if number not in self._rows:
            return values
        ordered = np.empty_like(values)
        ordered[self._rows[number]] = values
        return ordered

    def _register(self, number: int) -> None:
        pair = self.pairs[number]
        if pair.reflections is None:
            raise ValueError(f"There is no .refl file for {pair.experiments}")
        experiments, _ = DataPair(pair.experiments).load(check_format=False)
        for path in self.model_copies:
            restore_models(experiments, path)
        grid = grid_of(experiments)
        if self.grid is None:
            self.grid = grid
        elif grid.to_dict() != self.grid.to_dict():
            raise ValueError(
                f"{pair.experiments} carries another grid than "
                f"{self.pairs[0].experiments}: grid them together"
            )
        check_given_once(experiments, pair.experiments, self._files)
        self.first_stills.append(len(self.experiments))
        self.experiments.extend(experiments)
