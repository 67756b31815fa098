"""A merged map with its grid, units and title, from which all formats are written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dials_diffuse.adapters.experiments import load_experiments, load_reflections
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import expand_to_p1
from dials_diffuse.grid.shells import isotropic_part
from dials_diffuse.grid.voxel_grid import VoxelGrid, grid_of
from dials_diffuse.io.model_copy import restore_models

# In the order in which they are written; other columns of a table are left out
COLUMNS = (
    "intensity",
    "sigma",
    "n_obs",
    "n_stills",
    "half_1",
    "half_2",
    "exposure",
    "masked_fraction",
    "incoherent",
)
# Units of columns that are not intensities
_UNITS = {"n_obs": "", "n_stills": "", "exposure": "s sr", "masked_fraction": ""}


@dataclass(frozen=True)
class MergedMap:
    """Merged voxels and their grid.

    Attributes:
        voxel: (N, 3) int32 voxels, no two of them equivalent
        columns: name -> (N,), names of COLUMNS; intensity and sigma are always there
        grid: definition of the grid
        units: of intensity, sigma, half sets and incoherent
        title: what the map shows
        wavelength: mean of the experiments, Angstrom
    """

    voxel: np.ndarray
    columns: dict[str, np.ndarray]
    grid: VoxelGrid
    units: str = "photons/(s sr)"
    title: str = "Diffuse intensity"
    wavelength: float = 1.0

    @classmethod
    def from_table(cls, table, grid: VoxelGrid, wavelength: float = 1.0) -> MergedMap:
        """A table of dials.diffuse_scale or dials.diffuse_absolute.

        Raises:
            ValueError: not a merged table, or an empty one.
        """
        missing = [name for name in ("voxel", "intensity", "variance") if name not in table]
        if missing:
            raise ValueError(
                f"The reflections are no merged map (column {missing[0]} is missing): give diffuse_merged.refl "
                "of dials.diffuse_scale or diffuse_absolute.refl of dials.diffuse_absolute"
            )
        if table.size() == 0:
            raise ValueError("The merged map is empty")
        columns = {"sigma": np.sqrt(as_numpy(table["variance"]))}
        columns |= {name: as_numpy(table[name]) for name in COLUMNS if name in table}
        absolute = "incoherent" in columns
        return cls(
            as_numpy(table["voxel"]),
            {name: columns[name] for name in COLUMNS if name in columns},
            grid,
            "electrons^2 per unit cell" if absolute else "photons/(s sr)",
            "Diffuse intensity, absolute" if absolute else "Diffuse intensity",
            wavelength,
        )

    def __len__(self) -> int:
        return len(self.voxel)

    def units_of(self, column: str) -> str:
        """Units of a column, empty for numbers and shares."""
        return _UNITS.get(column, self.units)

    def describe(self) -> list[str]:
        """Lines of at most 80 characters for logs and headers."""
        grid = self.grid
        cell = " ".join(f"{p:.4f}" for p in grid.unit_cell.parameters())
        return [
            f"{self.title}, {self.units}",
            f"True cell: {cell}",
            "Symmetry: {}, {} Friedel's law".format(
                grid.laue_group.info(), "with" if grid.friedel else "without"
            ),
            "Voxels along a*, b*, c*: n = {}, {}, {}; H = n h is the voxel at h".format(
                *grid.subdivide
            ),
        ]

    def select(self, rows: np.ndarray) -> MergedMap:
        """Some rows, as indices or mask."""
        return replace(
            self,
            voxel=self.voxel[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    def within(self, d_min: float | None, d_max: float | None) -> MergedMap:
        """The part within resolution limits in Angstrom.

        Raises:
            ValueError: nothing is.
        """
        if d_min is None and d_max is None:
            return self
        grid = self.grid.replace(
            d_min=max((d for d in (d_min, self.grid.d_min) if d), default=None),
            d_max=min((d for d in (d_max, self.grid.d_max) if d), default=None),
        )
        part = replace(self.select(grid.contains(self.voxel)), grid=grid)
        if len(part) == 0:
            d = self.grid.d_of_voxel(self.voxel)
            raise ValueError(
                f"No voxel lies between d_max={d_max} and d_min={d_min}: the map reaches from "
                f"{d.max():.2f} to {d.min():.2f} A"
            )
        return part

    def masked_up_to(self, most: float | None) -> MergedMap:
        """Voxels of which at most this share of the exposure lies under the Bragg mask; None: all.

        Raises:
            ValueError: the map does not tell the share, or no voxel is left.
        """
        if most is None:
            return self
        if "masked_fraction" not in self.columns:
            raise ValueError(
                "The map has no column masked_fraction, which max_masked_fraction needs: scale again with this version"
            )
        share = self.columns["masked_fraction"]
        if not np.any(share <= most):
            raise ValueError(
                f"No voxel is left with max_masked_fraction={most}: the least share is {share.min():.3f}"
            )
        return self.select(share <= most)

    def anisotropic(self) -> MergedMap:
        """The map less its mean at each |q| (half sets too, less the same mean)."""
        mean = isotropic_part(self.voxel, self.columns["intensity"], self.grid)
        return replace(
            self,
            columns={
                name: values - mean if name in ("intensity", "half_1", "half_2") else values
                for name, values in self.columns.items()
            },
            title=self.title + ", isotropic part removed",
        )

    def expanded(self) -> MergedMap:
        """All symmetry-equivalent voxels, each a row of its own (the grid is still the same)."""
        voxel, rows = expand_to_p1(self.voxel, self.grid)
        return replace(self.select(rows), voxel=voxel)


def is_merged(table) -> bool:
    """Whether a reflection table is a merged map rather than observations."""
    return "voxel" in table and "intensity" in table and "counts" not in table


def check_grid(table, grid: VoxelGrid) -> None:
    """Check that a merged table was made on this grid: that hkl and d, if it has them, fit its voxels.

    Raises:
        ValueError: it was made on another.
    """
    for name, of_voxel in (("hkl", grid.hkl_of_voxel), ("d", grid.d_of_voxel)):
        if name in table and not np.allclose(
            as_numpy(table[name]), of_voxel(as_numpy(table["voxel"])), rtol=1e-3, atol=1e-6
        ):
            raise ValueError(
                "The merged map was made on another grid (subdivide, unit cell) than the one in the .expt files: give "
                "files of one run"
            )


def read_merged_map(
    experiments: Iterable[str | os.PathLike],
    reflections: Sequence[Path],
    model_copies: Iterable[str | os.PathLike] = (),
) -> tuple[MergedMap, Path]:
    """Read the merged table among some .refl files, on the grid of the .expt files.

    Args:
        experiments: .expt files
        reflections: .refl files; those that hold observations are ignored
        model_copies: JSON files to take lost scaling models from

    Returns:
        (map, the .refl file it is from)

    Raises:
        ValueError: no experiments; none or several merged tables; the grid is lost, or another one.
    """
    everything: list = []
    for path in experiments:
        part = load_experiments(path, check_format=False)
        for copy in model_copies:
            restore_models(part, copy)
        everything += part
    if not everything:
        raise ValueError(
            "No .expt file in the input: the grid is in diffuse_scaled.expt or diffuse_absolute.expt"
        )
    if not reflections:
        raise ValueError(
            "No .refl file in the input: give diffuse_merged.refl or diffuse_absolute.refl"
        )
    merged = []
    # The merged table is usually the last one
    for path in reversed(reflections):
        table = load_reflections(path)
        if is_merged(table):
            merged.append((path, table))
    if not merged:
        raise ValueError(
            "None of the .refl files is a merged map: give diffuse_merged.refl of dials.diffuse_scale or "
            "diffuse_absolute.refl of dials.diffuse_absolute"
        )
    if len(merged) > 1:
        names = ", ".join(str(path) for path, _ in merged)
        raise ValueError(f"Several .refl files are merged maps ({names}): export one at a time")
    path, table = merged[0]
    wavelength = float(np.mean([experiment.beam.get_wavelength() for experiment in everything]))
    grid = grid_of(everything)
    check_grid(table, grid)
    return MergedMap.from_table(table, grid, wavelength), path
