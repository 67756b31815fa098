"""Put a map and its scaling models on the absolute scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from dials_diffuse.absolute.contents.form_factors import AtomicTables
from dials_diffuse.absolute.contents.inventory import UnitCellInventory
from dials_diffuse.adapters.tables import as_numpy, double_column
from dials_diffuse.grid.voxel_grid import VoxelGrid

# Steps of the table of incoherent scattering; a spline through it is exact to 1e-5
_STEP = 0.005


@dataclass(frozen=True)
class AbsoluteScale:
    """The absolute scale of a map: I_abs = scale * I - incoherent(|q|).

    Attributes:
        scale: electrons^2 per unit cell for one unit of the relative map
        error: its standard error, nan for a scale given by hand
        method: name of the estimate, or "by hand"
        q: |q| (N,), 1/Angstrom, from 0 in equal steps
        incoherent: on q (N,), electrons^2 per unit cell
    """

    scale: float
    error: float
    method: str
    q: np.ndarray
    incoherent: np.ndarray

    def __post_init__(self):
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"The absolute scale is {self.scale:g}: it must be positive")

    @classmethod
    def from_inventory(
        cls,
        scale: float,
        error: float,
        method: str,
        inventory: UnitCellInventory,
        tables: AtomicTables,
        q_max: float,
    ) -> AbsoluteScale:
        """Scale and the incoherent scattering of a composition up to q_max."""
        q = np.arange(0.0, q_max + 4 * _STEP, _STEP)
        return cls(float(scale), float(error), method, q, inventory.incoherent(q, tables))

    def incoherent_at(self, q: np.ndarray) -> np.ndarray:
        """Incoherent scattering (N,) at |q| (N,), electrons^2 per unit cell."""
        return CubicSpline(self.q, self.incoherent)(np.asarray(q, dtype=float))

    def to_dict(self) -> dict:
        """Plain JSON, the form in configdict["absolute"]"""
        return {
            "scale": self.scale,
            "error": self.error if np.isfinite(self.error) else None,
            "method": self.method,
            "q_step": float(self.q[1] - self.q[0]),
            "incoherent": [float(x) for x in self.incoherent],
        }

    @classmethod
    def from_dict(cls, obj: dict) -> AbsoluteScale:
        values = np.array(obj["incoherent"], dtype=float)
        error = float("nan") if obj["error"] is None else obj["error"]
        return cls(
            obj["scale"], error, obj["method"], np.arange(len(values)) * obj["q_step"], values
        )


def absolute_map(table, grid: VoxelGrid, absolute: AbsoluteScale):
    """A merged table on the absolute scale, as a new table.

    intensity, half_1 and half_2 become scale * I - incoherent, variance and variance_scatter are
    multiplied by scale^2, and incoherent is the scattering that was subtracted. The errors of scale and of incoherent are
    common to all voxels and not part of the variances.

    Args:
        table: diffuse_merged.refl
        grid: of the data

    Raises:
        ValueError: not a merged table.
    """
    missing = [name for name in ("voxel", "intensity", "variance") if name not in table]
    if missing:
        raise ValueError(f"The merged table lacks the columns {', '.join(missing)}")
    incoherent = incoherent_of_voxels(as_numpy(table["voxel"]), grid, absolute)
    result = table.copy()
    for name in ("intensity", "half_1", "half_2"):
        if name in table:
            result[name] = double_column(absolute.scale * as_numpy(table[name]) - incoherent)
    for name in ("variance", "variance_scatter"):
        if name in table:
            result[name] = double_column(absolute.scale**2 * as_numpy(table[name]))
    result["incoherent"] = double_column(incoherent)
    return result


def incoherent_of_voxels(voxel: np.ndarray, grid: VoxelGrid, absolute: AbsoluteScale) -> np.ndarray:
    """Incoherent scattering at voxel centres (N, 3) of the reference cell, (N,)."""
    return absolute.incoherent_at(np.linalg.norm(grid.q_of_voxel(voxel), axis=1))


def fold_into_models(experiments, absolute: AbsoluteScale) -> None:
    """Put the absolute scale into the experiments' scaling models.

    I_obs = g I + h and I = (I_abs + incoherent)/scale make I_obs = g' I_abs + h' with
    g' = g/scale and h' = h + g' incoherent: the scale component is divided, and
    the rest is kept in configdict["absolute"], for `absolute_factors`.

    Raises:
        ValueError: a model is missing, or absolute already.
    """
    plain = absolute.to_dict()
    for index, experiment in enumerate(experiments):
        model = experiment.scaling_model
        if model is None or "scale" not in model.components:
            raise ValueError(f"Experiment {index} has no diffuse scaling model")
        if "absolute" in model.configdict:
            raise ValueError(
                f"Experiment {index} is on the absolute scale already: give what dials.diffuse_scale wrote"
            )
        component = model.components["scale"]
        component.parameters = component.parameters / absolute.scale
        if component.parameter_esds:
            component.parameter_esds = component.parameter_esds / absolute.scale
        model.configdict["absolute"] = plain


def absolute_factors(model, inverse_scale: np.ndarray, offset: np.ndarray, incoherent: np.ndarray):
    """g' and h' of I_obs = g' I_abs + h' for observations of one still.

    Args:
        model: scaling model of diffuse_absolute.expt
        inverse_scale, offset: (N,) of its components (model.factors): the absolute scale is in
            them, the incoherent part is not
        incoherent: (N,) at the rows' voxels (`incoherent_of_voxels`)

    Returns:
        (inverse scale factor, offset), (N,) each; unchanged for a model that is not absolute
    """
    if "absolute" not in model.configdict:
        return inverse_scale, offset
    return inverse_scale, offset + inverse_scale * incoherent
