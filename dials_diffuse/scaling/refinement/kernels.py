"""Compiled loops of the fit: functional, gradient, normal matrix, weights.

The functional is sum_k w (net - E (g I_v + h))^2 at the best intensity I_v of each voxel, which is known in closed
form. Where a voxel has few photons, its best intensity is mostly noise, and so would be the derivatives of the
expectation, which are proportional to it. They take an intensity that is drawn towards the mean of the shell, as far
as voxels usually are from that, and by the voxel's own error. The residuals are free of that: they do not correlate
with the best intensity, so that the parameters at which residuals and derivatives are orthogonal stay unbiased,
whatever the drawn intensity is. (An estimating equation: Godambe 1960, Ann. Math. Stat. 31, 1208.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dials_diffuse.scaling.expectation.outliers import reject_outliers
from dials_diffuse.scaling.expectation.tables import detector_factor
from dials_diffuse.scaling.expectation.variance import drawn_intensity, expected_variance

# Photons of an observation that says nothing of its patch, over those of its shell
BRIGHT = 10.0
# Standard deviations beyond which the intensity of a voxel is not usual
FAR = 4.0


class FitData(NamedTuple):
    """Observations of the fit, sorted by voxel, and within a voxel by still.

    Attributes:
        start: (V + 1,) first observation of each voxel
        rows: (N,) of ROW
        weight: (N,) 1/expected variance, 0 for rejected observations; changed in place
        prior: (V,) mean intensity at the |q| of the voxel, photons/(s sr)
        precision: (V,) 1/variance of the intensities around their prior; changed in place, 0 to draw none
        relative_error: (V,) of the exposure of the voxel's observations
        importance: (V,) factor on their weights
    """

    start: np.ndarray
    rows: np.ndarray
    weight: np.ndarray
    prior: np.ndarray
    precision: np.ndarray
    relative_error: np.ndarray
    importance: np.ndarray

    def of_voxels(self, chunk: slice) -> FitData:
        """A range of the voxels."""
        start = self.start[chunk.start : chunk.stop + 1]
        rows = slice(start[0], start[-1])
        return FitData(
            start - start[0], self.rows[rows], self.weight[rows], *(a[chunk] for a in self[3:])
        )


@njit(cache=True)
def longest_voxel(start):
    """Most observations of a voxel"""
    longest = 0
    for v in range(len(start) - 1):
        longest = max(longest, start[v + 1] - start[v])
    return longest


@njit(cache=True, nogil=True)
def functional_and_gradient(data, tables, intensity, information, gradient):
    """The functional, and minus half its derivatives by the tables, with drawn intensities.

    Args:
        data: FitData; tables: ScaleTables
        intensity: (V,) output, the best one
        information: (V,) output, half the curvature of the functional by the intensity
        gradient: ScaleTables of derivatives, those of d and a by their logarithms; added to in place
    """
    start, weight = data.start, data.weight
    functional = 0.0
    detector = np.empty(longest_voxel(start))
    for v in range(len(start) - 1):
        num = den = 0.0
        for k in range(start[v], start[v + 1]):
            row = data.rows[k]
            detector[k - start[v]] = da = detector_factor(row, tables)
            e = row.exposure * da
            g = e * tables.b[row.still]
            num += weight[k] * g * (row.net - e * tables.c[row.still, row.radial])
            den += weight[k] * g * g
        best = num / den if den > 0.0 else 0.0
        intensity[v], information[v] = best, den
        drawn = drawn_by_error(data, v, best, den)
        for k in range(start[v], start[v + 1]):
            row = data.rows[k]
            i, da = row.still, detector[k - start[v]]
            b, c = tables.b[i], tables.c[i, row.radial]
            residual = row.net - row.exposure * da * (b * best + c)
            t = weight[k] * residual * row.exposure
            functional += weight[k] * residual * residual
            gradient.b[i] += t * da * drawn
            gradient.c[i, row.radial] += t * da
            shared = t * da * (b * drawn + c)
            gradient.d[row.panel] += shared
            gradient.a[tables.step[i], row.direction] += shared
    return functional


@njit(cache=True)
def drawn_by_error(data, v, intensity, information):
    """Intensity of a voxel, drawn towards its prior by its error."""
    total = information + data.precision[v]
    if not total > 0.0:
        return data.prior[v]
    return (information * intensity + data.precision[v] * data.prior[v]) / total


class Linearised(NamedTuple):
    """Observations around the present parameters, for products of the normal matrix.

    Attributes:
        start: (V + 1,) first observation of each voxel
        information: (V,) half the curvature of the functional by the intensity
        drawn: (V,) intensities in the derivatives
        size: (N,) float32, sqrt(w) E a d
        signal: (N,) float32, b I + c
        b: (S,) scales
    """

    start: np.ndarray
    information: np.ndarray
    drawn: np.ndarray
    size: np.ndarray
    signal: np.ndarray
    b: np.ndarray

    def of_voxels(self, chunk: slice) -> Linearised:
        """A range of the voxels."""
        start = self.start[chunk.start : chunk.stop + 1]
        rows = slice(start[0], start[-1])
        known = self.information[chunk], self.drawn[chunk], self.size[rows], self.signal[rows]
        return Linearised(start - start[0], *known, self.b)


@njit(cache=True, nogil=True)
def linearise(data, tables, intensity, information, drawn, size, signal):
    """Fill drawn (V,), size and signal (N,) of Linearised."""
    for v in range(len(data.start) - 1):
        drawn[v] = drawn_by_error(data, v, intensity[v], information[v])
        for k in range(data.start[v], data.start[v + 1]):
            row = data.rows[k]
            size[k] = np.sqrt(data.weight[k]) * row.exposure * detector_factor(row, tables)
            signal[k] = tables.b[row.still] * drawn[v] + tables.c[row.still, row.radial]


@njit(cache=True, nogil=True)
def normal_product(linear, rows, step, shift, product):
    """The normal matrix of the tables times a shift of them; the intensities follow the shift.

    Kaufman's form of variable projection (BIT 15 (1975) 49): what of a derivative lies along the
    intensity of the voxel is projected out.

    Args:
        linear: Linearised; rows: (N,) of ROW
        step: (S,) row of the table a of each still
        shift: ScaleTables; those of d and a relative to d and a
        product: ScaleTables, added to in place; those of d and a by their logarithms
    """
    start = linear.start
    changes = np.empty(longest_voxel(start))
    for v in range(len(start) - 1):
        if not linear.information[v] > 0.0:
            continue
        along, drawn = 0.0, linear.drawn[v]
        for k in range(start[v], start[v + 1]):
            row, size = rows[k], linear.size[k]
            i = row.still
            shared = shift.d[row.panel] + shift.a[step[i], row.direction]
            own = shift.b[i] * drawn + shift.c[i, row.radial]
            change = size * (own + shared * linear.signal[k])
            changes[k - start[v]] = change
            along += size * linear.b[i] * change
        along /= linear.information[v]
        for k in range(start[v], start[v + 1]):
            row, size = rows[k], linear.size[k]
            i = row.still
            t = size * (changes[k - start[v]] - size * linear.b[i] * along)
            product.b[i] += t * drawn
            product.c[i, row.radial] += t
            t *= linear.signal[k]
            product.d[row.panel] += t
            product.a[step[i], row.direction] += t


@njit(cache=True, nogil=True)
def curvatures(data, tables, intensity, information, diagonal, cross, detector, coarse):
    """Diagonal of the normal matrix of the tables, and some of the elements beside it.

    The elements of b and c are the Schur complement of the intensities: without what the still's own
    observations contribute to the intensity (of a voxel that two stills see, each knows no more than
    the other one tells). So are those of coarse bins of a and of the panels: where each voxel is seen in one direction only,
    a can't be told from the intensities. Those of a by fine bins are for fixed intensities.

    Args:
        data: FitData; tables: ScaleTables
        intensity, information: (V,) of functional_and_gradient
        diagonal: ScaleTables, added to in place
        cross: as the table c: elements between b and c of the same still, added to in place
        detector: (C + P, C + P), added to in place: elements of coarse bins of a and of panels; or (1, 1)
        coarse: (directions,) int64, coarse bin of each direction
    """
    start, weight = data.start, data.weight
    with_detector, n_coarse = len(detector) > 1, len(detector) - len(tables.d)
    longest = 2 * longest_voxel(start)
    bins, sums = np.empty(longest, dtype=np.int64), np.empty(longest)
    for v in range(len(start) - 1):
        if not information[v] > 0.0:
            continue
        end, others, n_bins = start[v], 0.0, 0
        drawn = drawn_by_error(data, v, intensity[v], information[v])
        for k in range(start[v], start[v + 1]):
            row = data.rows[k]
            i = row.still
            if k == end:
                own = 0.0
                while end < start[v + 1] and data.rows[end].still == i:
                    g = data.rows[end].exposure * detector_factor(data.rows[end], tables)
                    own += weight[end] * (g * tables.b[i]) ** 2
                    end += 1
                others = max(1.0 - own / information[v], 0.0)
            a, d = tables.a[tables.step[i], row.direction], tables.d[row.panel]
            signal = tables.b[i] * drawn + tables.c[i, row.radial]
            we = weight[k] * row.exposure * row.exposure
            information_c = others * we * (a * d) ** 2
            diagonal.b[i] += information_c * drawn**2
            diagonal.c[i, row.radial] += information_c
            cross[i, row.radial] += information_c * drawn
            we *= signal * signal
            diagonal.a[tables.step[i], row.direction] += we * d * d
            if with_detector:
                place, panel = coarse[row.direction], n_coarse + row.panel
                detector[place, place] += we * d * d
                detector[panel, panel] += we * a * a
                detector[place, panel] += we * d * a
                detector[panel, place] += we * d * a
                share = weight[k] * row.exposure * row.exposure * a * d * tables.b[i] * signal
                n_bins = _add_to_bin(bins, sums, n_bins, place, share * d)
                n_bins = _add_to_bin(bins, sums, n_bins, panel, share * a)
        for i in range(n_bins):
            for j in range(n_bins):
                detector[bins[i], bins[j]] -= sums[i] * sums[j] / information[v]


@njit(cache=True)
def _add_to_bin(bins, sums, n, place, value):
    """Add a value to the sum of a bin among n bins; returns their number."""
    for i in range(n):
        if bins[i] == place:
            sums[i] += value
            return n
    bins[n], sums[n] = place, value
    return n + 1


@njit(cache=True)
def set_weights(rows, eg, eh, weight, prior, strength, systematic):
    """Set the weights (n,) of one voxel's accepted observations; returns the expected intensity."""
    num = den = floor = 0.0
    for k in range(len(rows)):
        if weight[k] > 0.0:
            num += rows[k].net - eh[k]
            den += eg[k]
            floor += rows[k].floor + max(eh[k], 0.0)
    expected = drawn_intensity(num, den, floor, strength, prior)
    for k in range(len(rows)):
        if weight[k] > 0.0:
            error = systematic * eg[k] * expected
            weight[k] = 1.0 / expected_variance(eg[k] * expected, eh[k], rows[k].floor, error)
    return expected


@njit(cache=True, nogil=True)
def weigh(data, tables, bad_patches, strength, cutoff, spread):
    """Set weights, reject outliers, and set the precision of the intensities; returns the outliers.

    Args:
        data: FitData, whose weight and precision are changed in place; tables: ScaleTables
        bad_patches: (S, patches) bool, whose observations are rejected in any case
        strength: photons by which expected intensities are drawn towards the prior
        cutoff: of outliers, in sigma; 0 for no rejection
        spread: of the intensities around their prior, as a fraction of it
    """
    start, weight = data.start, data.weight
    longest = longest_voxel(start)
    eg, eh, z = np.empty(longest), np.empty(longest), np.empty(longest)
    n_rejected = 0
    for v in range(len(start) - 1):
        first, n = start[v], start[v + 1] - start[v]
        rows, w = data.rows[first : first + n], weight[first : first + n]
        for k in range(n):
            row = rows[k]
            e = row.exposure * detector_factor(row, tables)
            eg[k], eh[k] = e * tables.b[row.still], e * tables.c[row.still, row.radial]
            w[k] = 0.0 if bad_patches[row.still, row.patch] else 1.0
        prior, systematic = data.prior[v], data.relative_error[v]
        expected = set_weights(rows, eg, eh, w, prior, strength, systematic)
        if cutoff > 0.0:
            found = reject_outliers(rows, eg[:n], eh[:n], w, prior, systematic, cutoff, z[:n])
            if found:
                # they were in the expectation
                expected = set_weights(rows, eg, eh, w, prior, strength, systematic)
                n_rejected += found
        for k in range(n):
            w[k] *= data.importance[v]
        width = max(spread * data.prior[v], abs(expected - data.prior[v]))
        data.precision[v] = 1.0 / (width * width)
    return n_rejected


@njit(cache=True, nogil=True)
def patch_excess(data, tables, excess, information):
    """Sums over the patches of each still for the fraction by which its photons deviate.

    Photons are expected as the other observations of the same voxels predict them.

    Args:
        data: FitData; tables: ScaleTables
        excess, information: (S, patches) added to in place: sums of m r/v and m^2/v, with m the photons
            expected, r the residual and v its variance
    """
    start, weight = data.start, data.weight
    longest = longest_voxel(start)
    eg, eh = np.empty(longest), np.empty(longest)
    for v in range(len(start) - 1):
        num = den = 0.0
        for k in range(start[v], start[v + 1]):
            row = data.rows[k]
            e = row.exposure * detector_factor(row, tables)
            g, h = e * tables.b[row.still], e * tables.c[row.still, row.radial]
            eg[k - start[v]], eh[k - start[v]] = g, h
            num += weight[k] * g * (row.net - h)
            den += weight[k] * g * g
        for k in range(start[v], start[v + 1]):
            row = data.rows[k]
            if weight[k] == 0.0 or row.patch >= excess.shape[1]:
                continue
            g, h = eg[k - start[v]], eh[k - start[v]]
            rest = den - weight[k] * g * g
            # nearly alone in its voxel
            if not rest > 0.01 * den:
                continue
            expected = g * (num - weight[k] * g * (row.net - h)) / rest + h
            information_k = 1.0 / (1.0 / weight[k] + g * g / rest)
            # one very bright voxel would decide on its patch, by the errors of b
            if 0.0 < expected < BRIGHT * (g * data.prior[v] + abs(h)):
                excess[row.still, row.patch] += expected * (row.net - expected) * information_k
                information[row.still, row.patch] += expected * expected * information_k


@njit(cache=True, nogil=True)
def spread_sums(prior, intensity, information, spread):
    """Sums (of (I - prior)^2 less its noise, and of prior^2) over voxels, weighted by what each one tells.

    Args:
        prior, intensity, information: (V,) of functional_and_gradient
        spread: known so far; voxels four times as far from their prior are left out
    """
    excess = total = 0.0
    for v in range(len(intensity)):
        if not information[v] > 0.0:
            continue
        noise, square = 1.0 / information[v], prior[v] ** 2
        usual = spread * spread * square + noise
        deviation = (intensity[v] - prior[v]) ** 2
        if deviation < FAR * FAR * usual:
            w = square / (usual * usual)
            excess += w * (deviation - noise)
            total += w * square
    return excess, total


@njit(cache=True, nogil=True)
def squares_of(data, tables, out):
    """Contribution of each observation to the functional, with the best intensities, in place (N,)."""
    start, weight = data.start, data.weight
    for v in range(len(start) - 1):
        num = den = 0.0
        for k in range(start[v], start[v + 1]):
            row = data.rows[k]
            e = row.exposure * detector_factor(row, tables)
            g = e * tables.b[row.still]
            num += weight[k] * g * (row.net - e * tables.c[row.still, row.radial])
            den += weight[k] * g * g
        best = num / den if den > 0.0 else 0.0
        for k in range(start[v], start[v + 1]):
            row = data.rows[k]
            i = row.still
            signal = tables.b[i] * best + tables.c[i, row.radial]
            residual = row.net - row.exposure * detector_factor(row, tables) * signal
            out[k] = weight[k] * residual * residual
