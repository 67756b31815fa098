"""The observations of a fit with the models of all stills, as DIALS's refineries need them.

DIALS's own scalers hold a sparse derivative row for each reflection and dataset, which is slow and
large for thousands of stills that share one reference. Here the observations of all stills are one
set of arrays, sorted by voxel; the parameters stay in DIALS's components.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.model.components import N_RADIAL, ScaleSeries
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.expectation.kernels import (
    FitData,
    ModelTables,
    expected_variances,
    patch_excess,
    reject_outliers,
)
from dials_diffuse.scaling.expectation.patches import (
    N_PATCHES,
    NO_PATCH,
    chi2_of_patches,
    deviating_patches,
    patch_of,
)
from dials_diffuse.scaling.observations.sorting import MOST_CHUNKS, segments
from dials_diffuse.scaling.observations.source import Observations
from dials_diffuse.scaling.refinement.bragg import BraggReference, is_bragg
from dials_diffuse.scaling.refinement.settings import WeightingSettings

# Patches that deviate most make others of the same voxels look wrong
PATCH_ROUNDS = 3


def sorted_by_voxel(obs: Observations) -> Observations:
    """Observations sorted by voxel, and within a voxel by still, as curvatures needs them."""
    if np.any(obs.voxel[1:] < obs.voxel[:-1]):
        obs = obs.select(np.argsort(obs.voxel, kind="stable"))
    same = obs.voxel[1:] == obs.voxel[:-1]
    if np.any(same & (obs.still[1:] < obs.still[:-1])):
        obs = obs.select(np.lexsort((obs.still, obs.voxel)))
    return obs


def _unsigned(column: np.ndarray) -> np.ndarray:
    return column.view(f"u{column.itemsize}")


class DiffuseScaler:
    """All stills of a fit with their models and the shared components of the detector.

    Args:
        models: scaling models, one a still; "panel" and "sensitivity" are one object shared by all,
            and so is "offset" if it is an OffsetSeries
        observations: of the fit; only usable ones
        prior: function |q| (N,) -> mean intensity (N,), photons/(s sr)
        weighting: prior of the expected variances, and readout noise
        bragg: reflections that take part in the fit, or None
        series: b as a smooth function of p_order, instead of the models' own b; or None
        extent: of all directions, see patch_of; None if no patches are asked for
        n_threads: that share the work; the result does not depend on it

    Attributes:
        data: FitData
        tables: ModelTables at the present parameters
        shared: components that all stills share, by name
        bad_patches: (S, N_PATCHES) bool, patches of stills that were left out
        radial_weights, direction_weights: tables c and a = weights @ parameters
    """

    def __init__(
        self,
        models: list,
        observations: Observations,
        prior: Callable,
        weighting: WeightingSettings,
        bragg: BraggReference | None = None,
        series: ScaleSeries | None = None,
        extent: tuple[float, float, float, float] | None = None,
        n_threads: int = 1,
    ):
        self.models = models
        self.extent = extent
        self.bad_patches = np.zeros((len(models), N_PATCHES), dtype=bool)
        self.n_threads = n_threads
        self.series = series
        self.series_weights = None if series is None else series.table_weights()
        first = models[0].components
        self.shared = {n: first[n] for n in ("panel", "sensitivity") if n in first}
        self.offset_series = None
        if isinstance(first.get("offset"), OffsetSeries):
            self.offset_series = first["offset"]
            self.shared = {"offset": self.offset_series, **self.shared}
        for model in models:
            for name, component in self.shared.items():
                model.components[name] = component
        self.data_managers = self._data_managers()
        self.prior_strength = weighting.prior_strength
        self.data = self._fit_data(observations, prior, weighting.readout_noise, bragg)
        # names that DIALS's refineries ask for; the functional is a chi^2: stop when it falls by
        # less than a hundredth
        tolerance = max(1e-13, 5e-3 / max(self.data.size, 1))
        self.params = SimpleNamespace(scaling_refinery=SimpleNamespace(rmsd_tolerance=tolerance))
        self.Ih_table = SimpleNamespace(size=self.data.size)
        self.radial_weights = np.zeros((1, 0))
        if "offset" in first:
            # the last bin is that of Bragg reflections
            no_offset = np.zeros(len(first["offset"].positions()))
            self.radial_weights = np.vstack((first["offset"].table_weights(), no_offset))
        self.direction_weights = np.ones((1, 0))
        if "sensitivity" in first:
            self.direction_weights = first["sensitivity"].table_weights()
        # units of the free parameters, as the components hold them, stacked
        n = self.radial_weights.shape[1]
        self.scale_units = np.ones(len(models))
        self.offset_units = np.broadcast_to(np.eye(n), (len(models), n, n))
        self.slopes = np.zeros((len(models), n))
        self.update_for_minimisation()
        self.update_weights()

    def _data_managers(self) -> list:
        """Owners of components for DIALS's parameter manager, in an order that sets leaders first.

        The components that stills share have an owner of their own, as if it were one more dataset.
        """
        managers: list = []
        for model in self.models:
            own = {n: c for n, c in model.components.items() if n not in self.shared}
            if self.series is not None:
                own.pop("scale", None)
            managers.append(SimpleNamespace(components=own))
        common = dict(self.shared)
        if self.series is not None:
            common = {"scale": self.series, **common}
        elif self.offset_series is not None:
            # the b of all stills follow it
            managers.insert(0, SimpleNamespace(components={"offset": common.pop("offset")}))
        if common:
            managers.append(SimpleNamespace(components=common))
        return managers

    def _fit_data(
        self, obs: Observations, prior: Callable, readout_noise: float, bragg: BraggReference | None
    ) -> FitData:
        relative_error, importance, bragg_prior = 0.0, 1.0, prior
        if bragg is not None:
            obs = Observations.concatenate([obs, bragg.reflections])
            relative_error, importance = bragg.settings.partiality_error, bragg.settings.weight
            bragg_prior = bragg.mean_intensity
        obs = sorted_by_voxel(obs)
        voxel, start = segments(obs.voxel)
        components = self.models[0].components
        mean_q = np.add.reduceat(obs.q.astype(float), start[:-1]) / np.diff(start)
        bragg_rows = is_bragg(obs.voxel)
        patch = np.full(len(obs), NO_PATCH, dtype=np.int16)
        if self.extent is not None:
            patch[~bragg_rows] = patch_of(obs.x[~bragg_rows], obs.y[~bragg_rows], self.extent)
        panel = direction = np.zeros(len(obs), dtype=np.int32)
        radial = np.zeros(len(obs), dtype=np.int16)
        if "offset" in components:
            # reflections have no offset: the last bin belongs to none and holds 0
            bins = components["offset"].bin_of(obs.q)
            radial = np.where(bragg_rows, N_RADIAL, bins).astype(np.int16)
        if "panel" in components:
            panel = obs.panel
        sensitivity = components.get("sensitivity")
        if isinstance(sensitivity, SensitivitySeries):
            direction = sensitivity.bin_of(obs.x, obs.y, obs.still)
        elif sensitivity is not None:
            direction = sensitivity.bin_of(obs.x, obs.y)
        return FitData(
            voxel=voxel,
            start=start,
            prior=np.where(is_bragg(voxel), bragg_prior(mean_q), prior(mean_q)),
            still=_unsigned(obs.still),
            panel=_unsigned(panel),
            radial=_unsigned(radial),
            direction=_unsigned(direction),
            patch=patch,
            net=obs.net,
            background=obs.background,
            exposure=obs.exposure,
            floor=obs.variance_floor(readout_noise),
            weight=np.ones(len(obs)),
            relative_error=np.where(bragg_rows, relative_error, 0.0),
            importance=np.where(bragg_rows, importance, 1.0),
        )

    @property
    def has_series(self) -> bool:
        """True if b, c or a is a function of p_order."""
        a_series = isinstance(self.shared.get("sensitivity"), SensitivitySeries)
        return a_series or self.series is not None or self.offset_series is not None

    def get_blocks_for_minimisation(self) -> list[FitData]:
        """All observations in one block; DIALS's refineries call this."""
        return [self.data]

    def update_for_minimisation(self, apm=None, block_id: int = 0) -> None:
        """Make the tables anew from the components' parameters; DIALS's refineries call this."""
        first = self.models[0].components
        if self.series is None:
            b = np.array([m.components["scale"].parameters[0] for m in self.models])
        else:
            b = self.series_weights @ self.series.values()
        c = np.zeros((len(self.models), 1))
        if "offset" in first:
            if self.offset_series is not None:
                parameters = self.offset_series.by_still()
            else:
                parameters = np.array([m.components["offset"].values() for m in self.models])
            c = parameters @ self.radial_weights.T
        d = first["panel"].values() if "panel" in first else np.ones(1)
        a = np.ones(1)
        if "sensitivity" in first:
            a = self.direction_weights @ first["sensitivity"].values()
        self.tables = ModelTables(b, c, d, a)

    def update_weights(self) -> None:
        """Set weights by the variances expected at the present parameters; rejected ones stay 0."""
        d = self.data
        variance = np.empty(d.size)

        def fill(chunk: slice) -> None:
            expected_variances(d.of_voxels(chunk), self.tables, self.prior_strength, variance)

        list(map_in_threads(fill, self.chunks(), self.n_threads))
        d.weight[:] = np.where(d.weight == 0.0, 0.0, d.importance / variance)

    def accept_all(self) -> None:
        """Accept all observations, rejected ones and bad patches included."""
        self.bad_patches[:] = False
        self.data.weight[:] = 1.0
        self.update_weights()

    def reject_outliers(self, cutoff: float) -> int:
        """Reject observations that deviate by more than cutoff sigma; returns their number."""

        def reject(chunk: slice) -> int:
            return reject_outliers(self.data.of_voxels(chunk), self.tables, cutoff)

        return sum(map_in_threads(reject, self.chunks(), self.n_threads))

    def reject_patches(self, cutoff: float) -> None:
        """Reject patches of stills that deviate from the other stills by more than this fraction."""
        for _ in range(PATCH_ROUNDS):
            deviating = deviating_patches(*self._patch_excess(), cutoff)
            if not deviating.any():
                break
            self.leave_out(deviating)

    def _patch_excess(self) -> np.ndarray:
        """(2, S, N_PATCHES): excess and information, see patch_excess."""

        def add_up(chunk: slice) -> np.ndarray:
            sums = np.zeros((2, *self.bad_patches.shape))
            patch_excess(self.data.of_voxels(chunk), self.tables, sums[0], sums[1])
            return sums

        chunks = self.chunks(2 * self.bad_patches.size)
        return sum(map_in_threads(add_up, chunks, self.n_threads))

    def chi2_of_patches(self) -> np.ndarray:
        """(S,): see patches.chi2_of_patches."""
        return chi2_of_patches(*self._patch_excess())

    def leave_out(self, bad_patches: np.ndarray) -> None:
        """Reject all observations of patches (S, N_PATCHES) bool."""
        self.bad_patches |= bad_patches
        d = self.data
        d.weight[(d.patch >= 0) & bad_patches[d.still, d.patch]] = 0.0

    def chunks(self, n_sums: int | None = None) -> list[slice]:
        """Ranges of voxels with about as many observations each, whose sums are made separately.

        They do not depend on the number of threads, and are few if the sums are large compared with
        the data.

        Args:
            n_sums: numbers that are summed, by default those of the derivatives by the tables
        """
        d = self.data
        if n_sums is None:
            n_sums = sum(table.size for table in self.tables)
        n = int(np.clip(d.size // (8 * n_sums), 1, MOST_CHUNKS))
        edges = np.searchsorted(d.start, np.linspace(0, d.size, n + 1)[1:-1])
        edges = [0, *edges.tolist(), len(d.voxel)]
        return [slice(first, last) for first, last in zip(edges[:-1], edges[1:])]

    def empty_tables(self) -> ModelTables:
        """Zeros in the shape of the tables, for derivatives."""
        return ModelTables(*(np.zeros_like(table) for table in self.tables))

    def gradient_by_parameters(self, gradients: ModelTables) -> dict:
        """Derivatives by the parameters of each component, from those by the tables."""
        by_c = gradients.c @ self.radial_weights
        return {
            "scale": gradients.b if self.series is None else gradients.b @ self.series_weights,
            "offset": by_c if self.offset_series is None else self.offset_series.gradient(by_c),
            "panel": gradients.d,
            "sensitivity": gradients.a @ self.direction_weights,
        }
