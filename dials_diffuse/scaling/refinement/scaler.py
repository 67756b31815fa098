"""What DIALS's refineries need of a scaler, on whole arrays.

DIALS's own scalers keep a sparse derivative row for each reflection and dataset. With thousands
of stills that share one reference that is slow and large; here all stills' observations are one
set of arrays, sorted by voxel, and the parameters stay in DIALS's components.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from scipy import sparse

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.model.components import N_RADIAL, ScaleSeries, whitening
from dials_diffuse.model.series import (
    OffsetOfStill,
    OffsetSeries,
    ProductWeights,
    SensitivitySeries,
)
from dials_diffuse.scaling.expectation.kernels import (
    curvatures,
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
from dials_diffuse.scaling.observations.sorting import segments
from dials_diffuse.scaling.observations.source import Observations
from dials_diffuse.scaling.refinement.bragg import is_bragg

logger = logging.getLogger("dials.diffuse.scaling.scaler")


# Of the voxels, for threads
MOST_PARTS = 8

# Those that deviate most make others of the same voxels look wrong
PATCH_ROUNDS = 3


@dataclass
class FitData:
    """Observations of the fit, sorted by voxel.

    Attributes:
        voxel: (V,) packed voxels; start: (V + 1,) first observation of each
        still, panel, radial, direction: (N,) indices into the model's tables
        y: counts less background; background; exposure; floor: model-independent variance;
            weight: 1/expected variance, 0 for rejected observations
        prior: (V,) mean intensity at the voxel's |q|
        relative_error: of the exposure; importance: factor on the weight
        patch: (N,) patch of the still's image, NO_PATCH for reflections
    """

    voxel: np.ndarray
    start: np.ndarray
    still: np.ndarray
    panel: np.ndarray
    radial: np.ndarray
    direction: np.ndarray
    y: np.ndarray
    background: np.ndarray
    exposure: np.ndarray
    floor: np.ndarray
    weight: np.ndarray
    prior: np.ndarray
    relative_error: np.ndarray
    importance: np.ndarray
    patch: np.ndarray

    @property
    def size(self) -> int:
        return len(self.y)

    def places(self) -> tuple[np.ndarray, ...]:
        """still, panel, radial and direction as unsigned numbers: compiled code need not ask for
        negative ones, which takes a fifth of its time"""
        columns = (self.still, self.panel, self.radial, self.direction)
        return tuple(column.view(f"u{column.itemsize}") for column in columns)


def directions_of(component, obs: Observations) -> np.ndarray:
    """Bins of the table of a, flattened, of observations (N,)"""
    if isinstance(component, SensitivitySeries):
        return component.bin_of(obs.x, obs.y, obs.still)
    return component.bin_of(obs.x, obs.y)


def sorted_by_voxel(obs: Observations) -> Observations:
    """Sorted by voxel, and those of a voxel by still: see curvatures"""
    if np.any(obs.voxel[1:] < obs.voxel[:-1]):
        obs = obs.select(np.argsort(obs.voxel, kind="stable"))
    same = obs.voxel[1:] == obs.voxel[:-1]
    if np.any(same & (obs.still[1:] < obs.still[:-1])):
        obs = obs.select(np.lexsort((obs.still, obs.voxel)))
    return obs


@dataclass
class Detector:
    """Owner of the components that stills share; for the parameter manager one more dataset."""

    components: dict


class DiffuseScaler:
    """All stills of a fit with their models and the detector's shared components.

    Args:
        models: scaling models, one a still; those of "panel" and "sensitivity" are
            one object shared by all, and so is "offset" where it is an OffsetSeries
        observations: of the fit; only usable ones
        prior: function |q| (N,) -> mean intensity (N,), photons/(s sr)
        rmsd_tolerance: of DIALS's refinery
        prior_strength: photons that the expected variance owes to the prior
        readout_noise: per pixel, photons
        bragg: reflections for the fit, their BraggSettings, and their mean intensity as
            function of |q|; or None
        series: b as a smooth function of p_order, instead of the models' own b; or None
        n_threads: that share the work
        extent: of all directions, see patch_of; None where patches are not asked for
    """

    def __init__(
        self,
        models: list,
        observations: Observations,
        prior,
        rmsd_tolerance: float | None = None,
        prior_strength: float = 2.0,
        readout_noise: float = 0.0,
        bragg: tuple | None = None,
        series: ScaleSeries | None = None,
        n_threads: int = 1,
        extent: tuple[float, float, float, float] | None = None,
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
        self.data_managers = [
            SimpleNamespace(
                components={
                    n: c
                    for n, c in m.components.items()
                    if n not in self.shared and (n != "scale" or series is None)
                }
            )
            for m in models
        ]
        common = self.shared if series is None else {"scale": series, **self.shared}
        if self.offset_series is not None and series is None:
            # all b follow it: it is set first
            self.data_managers.insert(0, Detector({"offset": self.offset_series}))
            common = {n: c for n, c in common.items() if n != "offset"}
        if common:
            self.data_managers.append(Detector(common))
        self.prior_strength = prior_strength
        self.data = self._sort(observations, prior, readout_noise, bragg)
        if rmsd_tolerance is None:
            # the functional is a chi^2: stop when it falls by less than a hundredth
            rmsd_tolerance = max(1e-13, 5e-3 / max(self.data.size, 1))
        # names that DIALS's refineries ask for
        self.params = SimpleNamespace(
            scaling_refinery=SimpleNamespace(rmsd_tolerance=rmsd_tolerance)
        )
        self.Ih_table = SimpleNamespace(size=self.data.size)
        self.radial_weights = (
            np.vstack((first["offset"].table_weights(), np.zeros(len(first["offset"].positions()))))
            if "offset" in first
            else np.zeros((1, 0))
        )
        self.direction_weights = (
            first["sensitivity"].table_weights() if "sensitivity" in first else np.ones((1, 0))
        )
        # units of the free parameters, as the components hold them, stacked
        n = self.radial_weights.shape[1]
        self.scale_units = np.ones(len(models))
        self.offset_units = np.broadcast_to(np.eye(n), (len(models), n, n))
        self.slopes = np.zeros((len(models), n))
        self.update_for_minimisation()
        self.update_weights()

    def _sort(self, obs: Observations, prior, readout_noise: float, bragg) -> FitData:
        relative_error, importance, bragg_prior = 0.0, 1.0, prior
        if bragg is not None:
            reflections, settings, bragg_prior = bragg
            obs = Observations.concatenate([obs, reflections])
            relative_error, importance = settings.partiality_error, settings.weight
        obs = sorted_by_voxel(obs)
        voxel, start = segments(obs.voxel)
        components = self.models[0].components
        zeros = np.zeros(len(obs), dtype=np.int32)
        mean_q = np.add.reduceat(obs.q.astype(float), start[:-1]) / np.diff(start)
        of_bragg = is_bragg(obs.voxel)
        patch = np.full(len(obs), NO_PATCH, dtype=np.int16)
        if self.extent is not None:
            patch[~of_bragg] = patch_of(obs.x[~of_bragg], obs.y[~of_bragg], self.extent)
        radial = zeros.astype(np.int16)
        if "offset" in components:
            # reflections have no offset: the last bin belongs to none and holds 0
            radial = np.where(of_bragg, N_RADIAL, components["offset"].bin_of(obs.q))
        return FitData(
            voxel=voxel,
            start=start,
            still=obs.still,
            panel=obs.panel if "panel" in components else zeros,
            radial=radial.astype(np.int16),
            direction=directions_of(components["sensitivity"], obs)
            if "sensitivity" in components
            else zeros,
            y=obs.counts - obs.background,
            background=obs.background,
            exposure=obs.exposure,
            floor=np.maximum(obs.background, 0.0)
            + obs.background_variance
            + obs.n_pixels * readout_noise**2,
            weight=np.ones(len(obs)),
            prior=np.where(is_bragg(voxel), bragg_prior(mean_q), prior(mean_q)),
            relative_error=np.where(of_bragg, relative_error, 0.0),
            importance=np.where(of_bragg, importance, 1.0),
            patch=patch,
        )

    @property
    def has_series(self) -> bool:
        """True where b, c or a is a function of p_order"""
        of_a = isinstance(self.shared.get("sensitivity"), SensitivitySeries)
        return of_a or self.series is not None or self.offset_series is not None

    # --- what DIALS's refineries call

    def get_blocks_for_minimisation(self) -> list[FitData]:
        return [self.data]

    def update_for_minimisation(self, apm=None, block_id: int = 0) -> None:
        """Take the parameters out of the components into arrays"""
        first = self.models[0].components
        if self.series is None:
            self.b = np.array([m.components["scale"].parameters[0] for m in self.models])
        else:
            self.b = self.series_weights @ self.series.values()
        if "offset" in first:
            if self.offset_series is not None:
                parameters = self.offset_series.by_still()
            else:
                parameters = np.array([m.components["offset"].values() for m in self.models])
            self.c = parameters @ self.radial_weights.T
        else:
            self.c = np.zeros((len(self.models), 1))
        self.d = first["panel"].values() if "panel" in first else np.ones(1)
        if "sensitivity" in first:
            self.a = self.direction_weights @ first["sensitivity"].values()
        else:
            self.a = np.ones(1)

    # ---

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """b (stills,), c (stills, radial bins), d (panels,), a (directions,)"""
        return self.b, self.c, self.d, self.a

    def update_weights(self) -> None:
        """Weights by the variance that the present model expects; rejected ones stay out"""
        d = self.data
        out = np.empty(d.size)

        def of_part(voxels: slice) -> None:
            expected_variances(
                d.start[voxels.start : voxels.stop + 1],
                *d.places(),
                d.y,
                d.exposure,
                d.floor,
                d.weight,
                *self.tables(),
                d.prior[voxels],
                self.prior_strength,
                d.relative_error,
                out,
            )

        list(map_in_threads(of_part, self.parts(), self.n_threads))
        rejected = d.weight == 0.0
        d.weight = d.importance / out
        d.weight[rejected] = 0.0

    def reject_outliers(self, cutoff: float) -> int:
        """Take observations further than cutoff sigma off out of the fit. Returns how many."""
        d = self.data

        def of_part(voxels: slice) -> int:
            return reject_outliers(
                d.start[voxels.start : voxels.stop + 1],
                *d.places(),
                d.y,
                d.background,
                d.exposure,
                d.floor,
                d.weight,
                *self.tables(),
                d.prior[voxels],
                d.relative_error,
                cutoff,
            )

        return sum(map_in_threads(of_part, self.parts(), self.n_threads))

    def reject_patches(self, cutoff: float) -> None:
        """Take patches of stills whose photons deviate by more than this fraction from what the other stills
        lead to expect out of the fit"""
        for _ in range(PATCH_ROUNDS):
            found = deviating_patches(*self._patch_excess(), cutoff)
            if not found.any():
                break
            self.leave_out(found)

    def _patch_excess(self) -> tuple[np.ndarray, np.ndarray]:
        d = self.data

        def of_part(voxels: slice) -> np.ndarray:
            sums = np.zeros((2, *self.bad_patches.shape))
            patch_excess(
                d.start[voxels.start : voxels.stop + 1],
                *d.places(),
                d.patch,
                d.y,
                d.exposure,
                d.weight,
                *self.tables(),
                *sums,
            )
            return sums

        excess, information = sum(
            map_in_threads(of_part, self.parts(2 * self.bad_patches.size), self.n_threads)
        )
        return excess, information

    def chi2_of_patches(self) -> np.ndarray:
        """(S,): see the function of the same name"""
        return chi2_of_patches(*self._patch_excess())

    def leave_out(self, bad_patches: np.ndarray) -> None:
        """Take patches (S, N_PATCHES) bool out of the fit"""
        self.bad_patches |= bad_patches
        d = self.data
        d.weight[(d.patch >= 0) & bad_patches[d.still, d.patch]] = 0.0

    def accept_all(self) -> None:
        """Take all observations back into the fit"""
        self.bad_patches[:] = False
        self.data.weight[:] = 1.0
        self.update_weights()

    def parts(self, entries: int | None = None) -> list[slice]:
        """Ranges of voxels with about equally many observations, to be summed apart and then together:
        the same whatever the number of threads, and few where the sums are large beside the data

        Args:
            entries: number of sums, by default those of the tables' derivatives
        """
        d = self.data
        if entries is None:
            entries = sum(table.size for table in self.tables())
        n = int(np.clip(d.size // (8 * entries), 1, MOST_PARTS))
        edges = np.searchsorted(d.start, np.linspace(0, d.size, n + 1)[1:-1])
        edges = [0, *edges.tolist(), len(d.voxel)]
        return [slice(first, last) for first, last in zip(edges[:-1], edges[1:])]

    def empty_gradients(self) -> tuple[np.ndarray, ...]:
        """Zeros in the shape of tables()"""
        return tuple(np.zeros_like(table) for table in self.tables())

    def curvatures(self, reference: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """Curvatures of the functional (halved) by the entries of tables(), and by b and c of
        the same still, at reference intensities (V,), by default the shells' means: those of b and c
        for intensities that follow, of d and a for fixed ones."""
        d = self.data
        reference = d.prior if reference is None else reference

        def of_part(voxels: slice) -> tuple[np.ndarray, ...]:
            out = self.empty_gradients()
            out = (*out, np.zeros_like(out[1]))
            curvatures(
                d.start[voxels.start : voxels.stop + 1],
                *d.places(),
                d.exposure,
                d.weight,
                *self.tables(),
                reference[voxels],
                *out,
            )
            return out

        of_parts = map_in_threads(of_part, self.parts(), self.n_threads)
        return tuple(sum(tables) for tables in zip(*of_parts))

    def set_units(self, reference: np.ndarray, restraints, names) -> None:
        """Give every component units in which the functional is equally curved in all
        directions: b and c for intensities that follow, d and a for fixed ones.

        Args:
            reference: (V,) intensities
            restraints: Restraints
            names: components that will be refined
        """
        _, _, of_d, of_a, _ = self.curvatures(reference)
        terms = restraints.terms(self)
        normal = self.still_normal_matrices(restraints, reference)
        of_b = normal[:, 0, 0]
        if self.offset_series is not None:
            self._set_units_of_offset_series(terms, names, normal)
        elif "offset" in terms:
            of_c, cross = normal[:, 1:, 1:], normal[:, 1:, 0]
            both = "scale" in names and "offset" in names and self.series is None
            units, inverses = whitening(of_c)
            slopes = -np.einsum("spq,srq,sr->sp", units, units, cross, optimize=True)
            if both:
                of_b = of_b + np.einsum("sp,sp->s", cross, slopes)
            self.offset_units = units
            self.slopes = slopes if both else np.zeros_like(slopes)
            for model, unit, inverse, slope in zip(self.models, units, inverses, slopes):
                model.components["offset"].set_unit(unit, inverse)
                model.components["offset"].follow(
                    model.components["scale"] if both else None, slope[:, None]
                )
        if self.series is None:
            self.scale_units = 1.0 / np.sqrt(of_b)
            for model, unit in zip(self.models, self.scale_units):
                model.components["scale"].set_unit(float(unit), 1.0 / float(unit))
        else:
            if "offset" in terms and "offset" in names and self.offset_series is None:
                of_b = of_b + np.einsum("sp,sp->s", cross, slopes)
            weights, of = self.series_weights, terms["scale"][1]
            normal_b = weights.T @ (of_b[:, None] * weights) + of.T @ of
            if self.offset_series is not None:
                normal_b = normal_b + self._let_offset_series_follow(names, normal[:, 1:, 0])
            self.series.set_unit(*whitening(normal_b))
        self._set_units_of_detector(terms, names, reference, of_d, of_a)

    def _set_units_of_detector(self, terms, names, reference, of_d, of_a) -> None:
        """d and a together: what is smooth over the panels is nearly the same in one and in the
        other."""
        if "panel" in terms:
            of = terms["panel"][1]
            normal_d = np.diag(of_d) + of.T @ of
        if "sensitivity" in terms:
            of = terms["sensitivity"][1]
            weights = self.direction_weights
            if isinstance(weights, ProductWeights):
                normal_a = weights.normal(of_a) + of.T @ of
            else:
                normal_a = weights.T @ (of_a[:, None] * weights) + of.T @ of
            self.shared["sensitivity"].set_unit(*whitening(normal_a))
            self.shared["sensitivity"].follow(None)
            if "panel" in names and "sensitivity" in names:
                cross = self._panels_and_directions(reference)
                if isinstance(weights, ProductWeights):
                    cross = weights.rows(cross)
                else:
                    cross = cross @ weights
                slope = -np.linalg.solve(normal_a, cross.T)
                self.shared["sensitivity"].follow(self.shared["panel"], slope)
                normal_d = normal_d + cross @ slope
        if "panel" in terms:
            self.shared["panel"].set_unit(*whitening(normal_d))

    def _set_units_of_offset_series(self, terms, names, normal: np.ndarray) -> None:
        """c as function of p_order too; each still's own b follows it, where both are refined.

        Args:
            normal: (S, 1 + n, 1 + n) as still_normal_matrices gives them
        """
        series = self.offset_series
        of_b, cross, of_c = normal[:, 0, 0], normal[:, 1:, 0], normal[:, 1:, 1:]
        both = self.series is None and "scale" in names and "offset" in names
        self.slopes = np.zeros_like(cross)
        if both:
            self.slopes = -cross / of_b[:, None]
            of_c = of_c + cross[:, :, None] * self.slopes[:, None, :]
        if self.series is None:
            for still, model in enumerate(self.models):
                leader = OffsetOfStill(series, still) if both else None
                model.components["scale"].follow(leader, self.slopes[still][None])
        of = terms["offset"][1]
        self._normal_of_offset_series = series.normal(of_c) + of.T @ of
        series.set_unit(*whitening(self._normal_of_offset_series))

    def _let_offset_series_follow(self, names, cross: np.ndarray) -> np.ndarray:
        """Where b is a function of p_order as well, c follows it.

        Returns:
            what to add to the normal matrix of b
        """
        series = self.offset_series
        series.follow(None)
        if not ("scale" in names and "offset" in names):
            return np.zeros(2 * (self.series.n_params,))
        both = np.einsum(
            "si,sq,sb->iqb", series.weights, cross, self.series_weights, optimize=True
        ).reshape(series.n_params, -1)
        slope = -np.linalg.solve(self._normal_of_offset_series, both)
        series.follow(self.series, slope)
        return both.T @ slope

    def _panels_and_directions(self, reference: np.ndarray) -> sparse.csr_matrix:
        """(P, directions): elements of the Gauss-Newton matrix (halved) between the tables d and a, for
        fixed reference intensities (V,)"""
        data = self.data
        intensity = np.repeat(reference, np.diff(data.start))
        signal = self.b[data.still] * intensity + self.c[data.still, data.radial]
        values = data.weight * (data.exposure * signal) ** 2
        values *= self.d[data.panel] * self.a[data.direction]
        where = (data.panel, data.direction)
        return sparse.coo_matrix((values, where), (len(self.d), len(self.a))).tocsr()

    def still_normal_matrices(self, restraints, reference: np.ndarray) -> np.ndarray:
        """(S, 1 + n, 1 + n): normal matrices of b and the n parameters of c of each still, whose voxels' intensities
        follow, for fixed other stills and detector (with many stills, these are known much better)."""
        of_b, of_c, _, _, cross = self.curvatures(reference)
        weights = self.radial_weights
        n = weights.shape[1]
        matrix = np.zeros((len(of_b), 1 + n, 1 + n))
        matrix[:, 0, 0] = of_b
        if n:
            matrix[:, 0, 1:] = matrix[:, 1:, 0] = cross @ weights
            matrix[:, 1:, 1:] = np.einsum("sr,rp,rq->spq", of_c, weights, weights, optimize=True)
        for name, (_, of) in restraints.terms(self).items():
            if name == "scale" and self.series is None:
                matrix[:, 0, 0] += of[:, 0, 0] ** 2
            elif name == "offset" and self.offset_series is None:
                matrix[:, 1:, 1:] += np.einsum("skp,skq->spq", of, of)
        return matrix

    def gradient_by_parameters(self, of_b, of_c, of_d, of_a) -> dict:
        """Chain rule from the tables to the parameters of each component"""
        return {
            "scale": of_b if self.series is None else of_b @ self.series_weights,
            "offset": of_c @ self.radial_weights
            if self.offset_series is None
            else self.offset_series.gradient(of_c @ self.radial_weights),
            "panel": of_d,
            "sensitivity": of_a @ self.direction_weights,
        }
