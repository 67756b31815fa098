"""Measure the size of Bragg spots on images.

The scattering above its surroundings, summed over all nodes of many crystals, falls off
with the nodes' distance from the Ewald sphere as the mean peak does in that direction,
and around their predicted positions as the mean spot does on the sphere, errors of the
prediction included. The variances of these three profiles (radial, tangential, along
s1), as functions of |q|^2, give the parameters of SpotShape.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from dials_diffuse.masking.spots.shape import SpotShape
from dials_diffuse.masking.spots.sums import EXCITATION_BINS, PLANE_BINS, WIDEST, SpotSums

logger = logging.getLogger("dials.diffuse.masking.spot_size")

# The tail of a profile counts until it has fallen to this part of its height
TAIL = 0.02
# Fewer independent spots than this do not tell the width of their distribution
MIN_SPOTS = 50
# A bin of |q| needs as many nodes
MIN_NODES = 20
SMALLEST_VARIANCE = 1e-10  # 1/Angstrom^2


@dataclass(frozen=True)
class MaskExtent:
    """How far spots are masked, as a function of |q|, in standard deviations k of a node.

    A normal distribution of height c falls to the residual r at c exp(-k^2 / 2) = r.

    Attributes:
        q: (N,) 1/Angstrom, where log_contrast is known; it is interpolated between
        log_contrast: (N,) log c of the mean spot, relative to its surroundings
        residual: r, relative to the surroundings
        least, most: limits of k
    """

    q: tuple[float, ...]
    log_contrast: tuple[float, ...]
    residual: float
    least: float = 2.0
    most: float = 6.0

    def n_sigma_at(self, q: np.ndarray) -> np.ndarray:
        """k at |q| (1/Angstrom)."""
        ratio = np.interp(q, self.q, self.log_contrast) - np.log(self.residual)
        return np.clip(np.sqrt(np.maximum(2 * ratio, 0.0)), self.least, self.most)


@dataclass(frozen=True)
class ResidualLevel:
    """Intensity that masked spots may have left outside of the mask, as a function of |q|.

    Attributes:
        q: (N,) 1/Angstrom, where the level is known; it is interpolated between
        level: (N,) ADU a pixel
    """

    q: tuple[float, ...]
    level: tuple[float, ...]

    def at(self, q: np.ndarray) -> np.ndarray:
        """The level at |q| (1/Angstrom)."""
        return np.interp(q, self.q, self.level)


@dataclass
class SizeFit:
    """The size of spots as measured, and the shape fitted to it.

    Attributes:
        shape: the fitted one
        q: (N,) middle of the bins with a signal, 1/Angstrom
        radial, tangential, excitation: (N,) standard deviations, 1/Angstrom
        nodes: (N,) number of nodes
        contrast: (N,) height of the mean peak over the scattering around it
        level: (N,) mean of that scattering, ADU a pixel
        pixel: (N,) side of a pixel, 1/Angstrom
        reliable: there were enough spots for their widths, not only for their heights
    """

    shape: SpotShape
    q: np.ndarray
    radial: np.ndarray
    tangential: np.ndarray
    excitation: np.ndarray
    nodes: np.ndarray
    contrast: np.ndarray
    level: np.ndarray
    pixel: np.ndarray
    reliable: bool

    def residual_level(self, residual: float) -> ResidualLevel:
        """The intensity that is `residual` of the scattering around spots."""
        return ResidualLevel(tuple(self.q), tuple(residual * self.level))

    def extent(self, residual: float) -> MaskExtent:
        """How far to mask so that the mean spot has fallen to `residual` of its surroundings."""
        return MaskExtent(tuple(self.q), tuple(np.log(self.contrast)), residual)

    def bragg_left(self, residual: float, padding: float) -> float:
        """Part of the Bragg photons that such a mask leaves, of normal distributions.

        A node x standard deviations from the sphere is masked out to sqrt(k^2 - x^2) of
        them on it, and `padding` pixels further; beyond u there is exp(-u^2 / 2) of what it
        has on the sphere.
        """
        of_node = self.contrast * self.level * self.radial * self.tangential * self.excitation
        photons = self.nodes * of_node / np.hypot(WIDEST.size, WIDEST.angle * self.q)
        further = padding * self.pixel / np.sqrt(self.radial * self.tangential)
        k = self.extent(residual).n_sigma_at(self.q)[:, None]
        x = np.linspace(0.0, 8.0, 401)
        reach = np.sqrt(np.maximum(k**2 - x**2, 0.0)) + further[:, None]
        left = np.where(x < k, np.exp(-(reach**2) / 2), 1.0) * np.exp(-(x**2) / 2)
        left = left.sum(axis=1) / np.exp(-(x**2) / 2).sum()
        return float((photons * left).sum() / photons.sum())

    def table(self) -> list[list[str]]:
        """Rows for log and report, the first a header."""
        sigmas = "radial (1e-4/A)", "tangential (1e-4/A)", "along s1 (1e-4/A)"
        rows = [["|q| (1/A)", "nodes", *sigmas, "height"]]
        columns = self.q, self.nodes, self.contrast, self.radial, self.tangential, self.excitation
        for q, nodes, contrast, *sigmas in zip(*columns):
            widths = [f"{1e4 * sigma:.2f}" for sigma in sigmas]
            rows.append([f"{q:.3f}", f"{int(nodes)}", *widths, f"{contrast:.2f}"])
        return rows


def profile_variance(position: np.ndarray, height: np.ndarray) -> float:
    """Second moment about 0 of a profile that falls off from there, out to where it has
    fallen to TAIL of its height; the noise level is that of its outer third.

    Args:
        position: (N,) >= 0, ascending
        height: (N,) mean scattering above the surroundings

    Returns:
        the variance, or nan without a significant signal
    """
    outer = height[2 * len(height) // 3 :]
    level = np.median(outer)
    noise = 1.4826 * np.median(np.abs(outer - level))
    above = height - level
    peak = above[: max(3, len(above) // 8)].max()
    if not peak > 8 * noise or peak <= 0:
        return np.nan
    first = np.flatnonzero(above >= 0.5 * peak)
    start = first[-1] if len(first) else 0
    fallen = np.flatnonzero(above[start:] < max(TAIL * peak, noise))
    end = start + (fallen[0] if len(fallen) else len(above) - start)
    p, h = position[:end], np.maximum(above[:end], 0.0)
    return float((p**2 * h).sum() / h.sum())


def _linear(q, variance, number) -> tuple[float, float]:
    """variance = a + b q^2 with a, b >= 0. The relative errors are those of variances of
    `number` values; relative to the fit, not to the values, or chance lows would weigh most."""
    design = np.stack([np.ones_like(q), q**2], axis=1)
    model = np.full_like(q, np.average(variance, weights=number))
    for _ in range(5):
        scale = np.sqrt(number) / np.maximum(model, 1e-12)
        (a, b), _ = nnls(design * scale[:, None], variance * scale)
        model = a + b * q**2
    return a, b


class _Bin(NamedTuple):
    """What the sums of one bin of |q| give.

    Attributes:
        q: its middle, 1/Angstrom
        radial, tangential, excitation: variances, 1/Angstrom^2; the own variance of pixels is taken off
        independent: number of independent spots
        nodes, contrast, level, pixel: see SizeFit
    """

    q: float
    radial: float
    tangential: float
    excitation: float
    independent: float
    nodes: float
    contrast: float
    level: float
    pixel: float


def _measure_bin(sums: SpotSums, i: int, independent: float) -> _Bin | None:
    """Measure the mean spot of a bin of |q|; None without a significant signal."""
    if sums.nodes[i] < MIN_NODES:
        return None
    excess = sums.excess[i] / np.maximum(sums.pixels[i], 1)
    plane = sums.plane_excess[i] / np.maximum(sums.plane_pixels[i], 1)
    centre, step = PLANE_BINS // 2, 2 * sums.window / PLANE_BINS
    # Cuts through the middle, folded; the strips are as wide as a tenth of the window
    strip = slice(centre - 2, centre + 3)
    cuts = plane[:, strip].mean(axis=1), plane[strip, :].mean(axis=0)
    offsets = np.arange(centre + 1) * step
    excitation = profile_variance(sums.excitation_of_bins()[i], excess)
    radial, tangential = (
        profile_variance(offsets, (cut[centre:] + cut[centre::-1]) / 2) for cut in cuts
    )
    if not np.isfinite([excitation, radial, tangential]).all():
        return None
    # Height at the middle of a spot whose node is on the sphere
    offset = (np.arange(PLANE_BINS) - centre) / (PLANE_BINS / 2)
    aperture = plane[offset[:, None] ** 2 + offset[None, :] ** 2 < 0.25].mean()
    on_sphere = excess[:3].mean() - np.median(excess[2 * EXCITATION_BINS // 3 :])
    level = max(sums.level[i].sum() / sums.pixels[i].sum(), 1e-3)
    contrast = on_sphere * max(plane[strip, strip].mean() / aperture, 1.0) / level
    if not (np.isfinite(contrast) and contrast > 0):
        return None
    own = sums.pixel_variance[i] / sums.nodes[i] + step**2 / 12
    return _Bin(
        sums.q_of_bins()[i],
        max(radial - own[0], SMALLEST_VARIANCE),
        max(tangential - own[1], SMALLEST_VARIANCE),
        excitation,
        max(independent, 1.0),
        sums.nodes[i],
        contrast,
        level,
        np.sqrt(12 * (own - step**2 / 12).mean()),
    )


def _fit_shape(bins: _Bin, sums: SpotSums) -> SpotShape:
    """Fit the parameters of a shape to the variances of bins (arrays)."""
    radial_0, radial_q = _linear(bins.q, bins.radial, bins.independent)
    tangential_0, tangential_q = _linear(bins.q, bins.tangential, bins.independent)
    excitation_0, excitation_q = _linear(bins.q, bins.excitation, bins.independent)
    # A small domain widens spots and peaks alike. What widens spots of all nodes further is the
    # point spread of the detector (or the beam). Spots smaller than that can't be measured where
    # pixels are large
    constant = max(excitation_0, SMALLEST_VARIANCE)
    in_plane = max((radial_0 + tangential_0) / 2 - constant, 0.0)
    pixel_area = 12 * sums.pixel_variance.sum() / (2 * sums.nodes.sum())
    return SpotShape(
        constant * np.eye(3),
        (tangential_q, 0.0, excitation_q),
        along=float(np.sqrt(radial_q)),
        point_spread=float(np.sqrt(in_plane / pixel_area)),
        source="images",
    )


def fit_spot_size(sums: SpotSums) -> SizeFit | None:
    """Measure the size of Bragg spots: fit a SpotShape to sums around reciprocal lattice points.

    In each bin of |q| the mean spot has a radial and a tangential variance on the detector, and one
    along s1. These variances as functions of |q|^2 give mosaicity, domain size and bandwidth of the
    shape, for all crystals of the sums together.

    Args:
        sums: scattering above the mean of its resolution ring around all lattice points, by |q| and
            displacement (1/Angstrom)

    Returns:
        the shape with the profiles that it was fitted to; None if fewer than two bins of |q| have a
        significant signal (then the size must come from the crystal models)
    """
    independent = sums.independent_spots()
    reliable = bool(independent.sum() >= MIN_SPOTS)
    if not reliable:
        logger.info(
            "%.0f strong spots are too few to measure their width on the images (%d are needed)",
            independent.sum(),
            MIN_SPOTS,
        )
    measured = [_measure_bin(sums, i, number) for i, number in enumerate(independent)]
    measured = [one for one in measured if one is not None]
    if len(measured) < 2:
        return None
    bins = _Bin(*np.array(measured).T)
    return SizeFit(
        _fit_shape(bins, sums),
        bins.q,
        np.sqrt(bins.radial),
        np.sqrt(bins.tangential),
        np.sqrt(bins.excitation),
        bins.nodes,
        bins.contrast,
        bins.level,
        bins.pixel,
        reliable,
    )
