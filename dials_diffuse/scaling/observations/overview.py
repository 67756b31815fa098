"""Overview of all observations before scaling: voxels, stills, radial profiles, connections."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from dxtbx.model import ExperimentList

from dials_diffuse.io.integrated_reflections import relative_times
from dials_diffuse.scaling.observations.connections import Connections
from dials_diffuse.scaling.observations.source import Observations, ObservationSource

logger = logging.getLogger("dials.diffuse.scaling.overview")

# Bins of |q| for the radial profile: finer than any smooth feature, up to beyond any
# wavelength in use
PROFILE_STEP = 0.005
N_PROFILE = 600


@dataclass
class Overview:
    """Counts and sums over all observations, which need no scales.

    Attributes:
        voxels: (V,) packed voxels with usable observations, sorted
        n_obs, n_stills: (V,) usable observations, and stills, of each
        still_obs: (S,) usable observations a still
        still_shared: (S,) those in voxels that other stills see as well
        still_group: (S,) connected group, -1 for stills without observations
        still_pixels: (S,) pixels in usable observations
        profile_counts, profile_exposure: (S, N_PROFILE) net photons and exposure (s sr) of each still
            and bin of |q|
        total_counts: photons, background included
        n_rows, n_usable, n_not_finite, n_bragg: numbers of rows
        extent: (x_min, x_max, y_min, y_max) of projected directions
        q_max: largest |q|, 1/Angstrom
        n_panels: most panels of any detector
        n_layouts: kinds of detectors, by number and size of their panels
    """

    voxels: np.ndarray
    n_obs: np.ndarray
    n_stills: np.ndarray
    still_obs: np.ndarray
    still_shared: np.ndarray
    still_group: np.ndarray
    still_pixels: np.ndarray
    profile_counts: np.ndarray
    profile_exposure: np.ndarray
    total_counts: float
    n_rows: int
    n_usable: int
    n_not_finite: int
    n_bragg: int
    extent: tuple[float, float, float, float]
    q_max: float
    n_panels: int
    n_layouts: int

    @property
    def n_stills_in(self) -> int:
        """Stills in the input"""
        return len(self.still_obs)

    def relative_times(self) -> np.ndarray:
        """(S,) exposure times over their mean, NaN for stills without usable observations"""
        return relative_times(self.profile_exposure.sum(axis=1), self.still_pixels)

    def groups(self) -> list[list[int]]:
        """Stills that common voxels connect, the largest group first.

        Stills without a voxel in common with others are in none.
        """
        labels = np.where(self.still_shared > 0, self.still_group, -1)
        groups = [
            np.flatnonzero(labels == label).tolist() for label in np.unique(labels) if label >= 0
        ]
        return sorted(groups, key=len, reverse=True)

    def still_scales(self, n_cycles: int = 10) -> np.ndarray:
        """Scales (S,) that make the radial profiles of the stills agree, to start the fit from."""
        counts, exposure = self.profile_counts, self.profile_exposure
        b = np.ones(len(counts))
        usable = self.still_obs > 0
        for _ in range(n_cycles):
            profile = self._profile(b)
            expected = exposure @ profile
            good = usable & (expected > 0)
            b[good] = counts[good].sum(axis=1) / expected[good]
            b = np.maximum(b, 1e-3)
            b /= b[usable].mean()
        return b

    def _profile(self, b: np.ndarray) -> np.ndarray:
        counts = self.profile_counts.sum(axis=0)
        exposure = b @ self.profile_exposure
        window = np.ones(5)
        counts, exposure = (np.convolve(v, window, "same") for v in (counts, exposure))
        with np.errstate(invalid="ignore", divide="ignore"):
            profile = counts / exposure
        bad = ~np.isfinite(profile)
        if bad.all():
            return np.zeros(N_PROFILE)
        profile[bad] = np.interp(np.flatnonzero(bad), np.flatnonzero(~bad), profile[~bad])
        return np.maximum(profile, 0.0)

    def prior(self, b: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Function |q| -> mean intensity at that |q|, photons/(s sr), for scales b (S,)."""
        profile = self._profile(b)
        positive = profile[profile > 0]
        profile = np.maximum(profile, 1e-3 * np.median(positive) if len(positive) else 1.0)
        centres = (np.arange(N_PROFILE) + 0.5) * PROFILE_STEP

        def mean_intensity(q: np.ndarray) -> np.ndarray:
            return np.interp(q, centres, profile)

        return mean_intensity


def _profiles(obs: Observations, first: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Net photons and exposure of n stills, the first one first, in bins of |q|: (n, N_PROFILE)."""
    radial = np.clip((obs.q / PROFILE_STEP).astype(np.int64), 0, N_PROFILE - 1)
    key = (obs.still - first) * N_PROFILE + radial
    shape = (n, N_PROFILE)
    return (
        np.bincount(key, obs.net, n * N_PROFILE).reshape(shape),
        np.bincount(key, obs.exposure, n * N_PROFILE).reshape(shape),
    )


def read_overview(source: ObservationSource, excluded: Iterable[int] = ()) -> Overview:
    """Read all observations once.

    Args:
        excluded: stills that count as having no usable observations

    Raises:
        ValueError: input that can't be scaled as a whole: fewer than two stills, no
            usable observations, no counts at all.
    """
    connections = Connections()
    still_obs, still_pixels, profiles = [], [], []
    n_rows = n_usable = n_not_finite = n_bragg = 0
    total_counts = 0.0
    x0, x1, y0, y1, q_max = np.inf, -np.inf, np.inf, -np.inf, 0.0
    for number, pair in enumerate(source):
        # the number of stills grows with each pair that is read
        out = np.isin(np.arange(len(source.experiments)), list(excluded))
        first = source.first_stills[number]
        n = len(source.experiments) - first
        if number + 1 < len(source.first_stills):
            n = source.first_stills[number + 1] - first
        obs = pair.select(pair.usable & ~out[pair.still])
        n_rows += len(pair)
        n_usable += len(obs)
        n_bragg += pair.n_bragg
        n_not_finite += pair.n_not_finite
        total_counts += obs.counts.sum()
        still_obs.append(np.bincount(obs.still - first, minlength=n))
        still_pixels.append(np.bincount(obs.still - first, obs.n_pixels, n))
        profiles.append(_profiles(obs, first, n))
        connections.add(obs.voxel, obs.still, first + n)
        if not len(obs):
            continue
        x0, x1 = min(x0, obs.x.min()), max(x1, obs.x.max())
        y0, y1 = min(y0, obs.y.min()), max(y1, obs.y.max())
        q_max = max(q_max, float(obs.q.max()))
    n_in = len(source.experiments)
    if n_in < 2:
        raise ValueError(
            "There is only one still in the input: scales are relative, so that at least two are needed"
        )
    if n_usable == 0:
        raise ValueError(
            "None of the observations can be used: all are Bragg, not finite, or have no exposure"
        )
    if total_counts == 0:
        raise ValueError("All counts are zero: there is nothing to scale")
    still_obs = np.concatenate(still_obs)
    if np.count_nonzero(still_obs) < 2:
        raise ValueError("Only one still has usable observations: at least two are needed")
    profile_counts, profile_exposure = map(np.concatenate, zip(*profiles))
    detectors = ExperimentList(source.experiments).detectors()
    layouts = {tuple(panel.get_image_size() for panel in detector) for detector in detectors}
    return Overview(
        voxels=connections.voxels,
        n_obs=connections.n_obs,
        n_stills=connections.n_stills,
        still_obs=still_obs,
        still_shared=connections.shared,
        still_group=np.where(still_obs > 0, connections.groups(), -1),
        still_pixels=np.concatenate(still_pixels),
        profile_counts=profile_counts,
        profile_exposure=profile_exposure,
        total_counts=float(total_counts),
        n_rows=n_rows,
        n_usable=n_usable,
        n_not_finite=n_not_finite,
        n_bragg=n_bragg,
        extent=(float(x0), float(x1), float(y0), float(y1)),
        q_max=q_max,
        n_panels=max(map(len, layouts)),
        n_layouts=len(layouts),
    )
