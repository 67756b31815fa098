"""Compiled loops over the observations of a fit: functional, curvatures, variances, outliers.

Each observation k of still i in voxel v is expected to have exposure_k (g I_v + h) net photons, with
g = a d b_i and h = a d c_i(|q|).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

# Least expected photons of an observation, as a fraction of those of the crystal alone: an offset
# below zero, by its error or during the minimisation, must not make an observation certain
LEAST_SIGNAL = 0.05


class FitData(NamedTuple):
    """Observations of the fit, sorted by voxel, and within a voxel by still.

    The indices are unsigned: with signed ones compiled code checks for negative values, which takes
    a fifth of its time.

    Attributes:
        voxel: (V,) packed voxels
        start: (V + 1,) first observation of each voxel
        prior: (V,) mean intensity at the |q| of the voxel, photons/(s sr)
        still, panel, radial, direction: (N,) unsigned, indices into ModelTables
        patch: (N,) patch of the still's image, negative for Bragg reflections
        net: (N,) counts less background, photons
        background: (N,) photons
        exposure: (N,) s sr
        floor: (N,) variance that does not depend on the model, photons^2
        weight: (N,) 1/expected variance, 0 for rejected observations; changed in place
        relative_error: (N,) of the exposure
        importance: (N,) factor on the weight
    """

    voxel: np.ndarray
    start: np.ndarray
    prior: np.ndarray
    still: np.ndarray
    panel: np.ndarray
    radial: np.ndarray
    direction: np.ndarray
    patch: np.ndarray
    net: np.ndarray
    background: np.ndarray
    exposure: np.ndarray
    floor: np.ndarray
    weight: np.ndarray
    relative_error: np.ndarray
    importance: np.ndarray

    @property
    def size(self) -> int:
        """Number of observations."""
        return len(self.net)

    def of_voxels(self, chunk: slice) -> FitData:
        """The same observations, restricted to a range of voxels for a loop over these."""
        start = self.start[chunk.start : chunk.stop + 1]
        return self._replace(start=start, prior=self.prior[chunk])


class ModelTables(NamedTuple):
    """Values of the model's components, or derivatives by them.

    Attributes:
        b: (stills,)
        c: (stills, radial bins)
        d: (panels,)
        a: (directions,)
    """

    b: np.ndarray
    c: np.ndarray
    d: np.ndarray
    a: np.ndarray


@njit(cache=True, nogil=True)
def profile_functional(data, tables, reference, gradients):
    """Sum of w (net - E (g I + h))^2 with I in closed form, and its derivatives.

    I minimises the sum in each voxel, so that its own derivative does not contribute to the
    gradient (envelope theorem).

    Args:
        data: FitData; tables: ModelTables
        reference: (V,) output: I
        gradients: ModelTables of derivatives, added to in place

    Returns:
        the sum
    """
    start, still, radial, weight = data.start, data.still, data.radial, data.weight
    functional = 0.0
    largest = 0
    for v in range(len(start) - 1):
        largest = max(largest, start[v + 1] - start[v])
    factors = np.empty(largest)
    offsets = np.empty(largest)
    many_panels, many_directions = len(tables.d) > 1, len(tables.a) > 1
    detector_sum = 0.0
    for v in range(len(start) - 1):
        first = start[v]
        num = 0.0
        den = 0.0
        for k in range(first, start[v + 1]):
            da = tables.a[data.direction[k]] * tables.d[data.panel[k]]
            offset = tables.c[still[k], radial[k]]
            factors[k - first] = da
            offsets[k - first] = offset
            e = data.exposure[k] * da
            g = e * tables.b[still[k]]
            num += weight[k] * g * (data.net[k] - e * offset)
            den += weight[k] * g * g
        reference[v] = num / den if den > 0.0 else 0.0
        intensity = reference[v]
        for k in range(first, start[v + 1]):
            i = still[k]
            da = factors[k - first]
            signal = tables.b[i] * intensity + offsets[k - first]
            r = data.net[k] - data.exposure[k] * da * signal
            wr = weight[k] * r
            functional += wr * r
            t = -2.0 * wr * data.exposure[k]
            gradients.b[i] += t * da * intensity
            gradients.c[i, radial[k]] += t * da
            if many_panels:
                gradients.d[data.panel[k]] += t * tables.a[data.direction[k]] * signal
            if many_directions:
                gradients.a[data.direction[k]] += t * tables.d[data.panel[k]] * signal
            detector_sum += t * da * signal
    if not many_panels:
        gradients.d[0] += detector_sum / tables.d[0]
    if not many_directions:
        gradients.a[0] += detector_sum / tables.a[0]
    return functional


@njit(cache=True, nogil=True)
def curvatures(data, tables, reference, diagonal, cross):
    """Diagonal of the Gauss-Newton matrix, halved.

    The elements of b and c are the Schur complement of the intensities: without what the still's own
    observations contribute to the reference (of a voxel that two stills see, each knows no more than
    the other one tells). Those of d and a are for a fixed reference.

    Args:
        data: FitData; tables: ModelTables
        reference: (V,) intensities
        diagonal: ModelTables, added to in place
        cross: as the table c: elements between b and c of the same still, added to in place
    """
    start, still, radial, weight = data.start, data.still, data.radial, data.weight
    for v in range(len(start) - 1):
        intensity = reference[v]
        den = 0.0
        for k in range(start[v], start[v + 1]):
            da_exposure = data.exposure[k] * tables.a[data.direction[k]] * tables.d[data.panel[k]]
            g = da_exposure * tables.b[still[k]]
            den += weight[k] * g * g
        own, end = 0.0, start[v]
        for k in range(start[v], start[v + 1]):
            i = still[k]
            da = tables.a[data.direction[k]] * tables.d[data.panel[k]]
            if k == end:
                own = 0.0
                while end < start[v + 1] and still[end] == i:
                    g = data.exposure[end] * tables.a[data.direction[end]]
                    g = g * tables.d[data.panel[end]] * tables.b[i]
                    own += weight[end] * g * g
                    end += 1
            others = max(1.0 - own / den, 0.0) if den > 0.0 else 0.0
            signal = tables.b[i] * intensity + tables.c[i, radial[k]]
            we = weight[k] * data.exposure[k] * data.exposure[k]
            diagonal.b[i] += others * we * (da * intensity) ** 2
            diagonal.c[i, radial[k]] += others * we * da * da
            cross[i, radial[k]] += others * we * da * da * intensity
            diagonal.d[data.panel[k]] += we * (tables.a[data.direction[k]] * signal) ** 2
            diagonal.a[data.direction[k]] += we * (tables.d[data.panel[k]] * signal) ** 2


@njit(cache=True)
def expected_variance(signal, offset, floor, systematic):
    """Variance of an observation's counts that the model predicts, photons^2.

    Args:
        signal, offset: expected photons of the crystal and of the offset
        floor: variance of what does not depend on the model
        systematic: standard deviation that is in proportion to the signal
    """
    return max(signal + offset, LEAST_SIGNAL * signal) + floor + systematic * systematic


@njit(cache=True, nogil=True)
def expected_variances(data, tables, strength, out):
    """Expected variance of each observation at the present parameters, photons^2.

    The intensity of a voxel is the ratio of sums, drawn towards the prior (the mean of its
    resolution shell) as by `strength` photons: a voxel in which by chance nothing was counted still
    has the variance of its neighbours. Rejected observations do not count.

    Args:
        data: FitData; tables: ModelTables
        out: (N,) output
    """
    still = data.still
    for v in range(len(data.start) - 1):
        num = 0.0
        den = 0.0
        for k in range(data.start[v], data.start[v + 1]):
            if data.weight[k] > 0.0:
                e = data.exposure[k] * tables.a[data.direction[k]] * tables.d[data.panel[k]]
                num += data.net[k] - e * tables.c[still[k], data.radial[k]]
                den += e * tables.b[still[k]]
        expected = (max(num, 0.0) + strength) / (den + strength / data.prior[v])
        for k in range(data.start[v], data.start[v + 1]):
            e = data.exposure[k] * tables.a[data.direction[k]] * tables.d[data.panel[k]]
            b = tables.b[still[k]]
            offset = e * tables.c[still[k], data.radial[k]]
            systematic = data.relative_error[k] * e * b * expected
            out[k] = expected_variance(e * b * expected, offset, data.floor[k], systematic)


@njit(cache=True)
def deviation(counts, expected, variance):
    """Signed deviation of the counts of an observation, in sigma.

    Deviance residual of the Poisson law, scaled to the variance: unlike (n - m) / sigma nearly
    normal at low counts too, so that two photons where 0.1 are expected are no 6 sigma.
    (McCullagh & Nelder, Generalized Linear Models, section 2.4.)
    """
    if expected <= 0.0 or counts < 0.0:
        return (counts - expected) / np.sqrt(variance)
    dispersion = variance / expected
    deviance = expected - counts
    if counts > 0.0:
        deviance += counts * np.log(counts / expected)
    size = np.sqrt(max(2.0 * deviance / dispersion, 0.0))
    return size if counts > expected else -size


@njit(cache=True, nogil=True)
def reject_outliers(data, tables, cutoff):
    """Set the weight of outliers to 0: in each voxel the worst, then the worst of the rest, ...

    An observation is compared with the mean of all others of its voxel, in units of the standard
    deviation of the difference, until none deviates by more than the cutoff. The mean of the resolution
    shell, with a standard deviation of three times this mean, counts as one more observation: it decides
    between two that disagree. In a voxel of 100 observations and more, up to one in 50 are rejected at a
    time, if they deviate by 0.7 of the worst: one by one, the time would grow with the square of
    their number.

    Args:
        data: FitData, whose weight is changed in place; tables: ModelTables
        cutoff: in sigma

    Returns:
        number of rejected observations
    """
    start, net, weight = data.start, data.net, data.weight
    n_rejected = 0
    longest = 0
    for v in range(len(start) - 1):
        longest = max(longest, start[v + 1] - start[v])
    z, gs, offsets = np.empty(longest), np.empty(longest), np.empty(longest)
    for v in range(len(start) - 1):
        first, size = start[v], start[v + 1] - start[v]
        num = 1.0 / (9.0 * data.prior[v])
        den = 1.0 / (9.0 * data.prior[v] ** 2)
        n = 0
        for i in range(size):
            k = first + i
            e = data.exposure[k] * tables.a[data.direction[k]] * tables.d[data.panel[k]]
            g = e * tables.b[data.still[k]]
            gs[i], offsets[i] = g, e * tables.c[data.still[k], data.radial[k]]
            if weight[k] > 0.0:
                num += weight[k] * g * (net[k] - offsets[i])
                den += weight[k] * g * g
                n += 1
        while n > 1:
            largest = _deviations_from_rest(data, first, gs[:size], offsets, num, den, cutoff, z)
            if not largest > cutoff:
                break
            limit = _limit_of_worst(z[:size], largest, cutoff, n)
            for i in range(size):
                if z[i] >= limit:
                    k = first + i
                    num -= weight[k] * gs[i] * (net[k] - offsets[i])
                    den -= weight[k] * gs[i] ** 2
                    weight[k] = 0.0
                    n -= 1
                    n_rejected += 1
                    if limit == largest:
                        break
    return n_rejected


@njit(cache=True, nogil=True)
def _deviations_from_rest(data, first, gs, offsets, num, den, cutoff, z):
    """Fill z with the deviations of one voxel's accepted observations, and return the largest.

    Args:
        first: first observation of the voxel
        gs, offsets: E g and E h of its observations
        num, den: weighted sums of all of them
        z: output, 0 for rejected observations and those that can't exceed the cutoff
    """
    largest = 0.0
    for i in range(len(gs)):
        k = first + i
        z[i] = 0.0
        if data.weight[k] > 0.0:
            g, offset, w = gs[i], offsets[i], data.weight[k]
            rest_den = max(den - w * g * g, 1e-300)
            rest = (num - w * g * (data.net[k] - offset)) / rest_den
            signal = max(g * rest + offset, 0.0)
            variance = signal + data.floor[k] + g * g / rest_den
            variance += (data.relative_error[k] * g * rest) ** 2
            # since log x <= x - 1, its square is twice this at most: few need the logarithm
            if 2 * (data.net[k] - signal) ** 2 > cutoff**2 * variance:
                background = data.background[k]
                z[i] = abs(deviation(data.net[k] + background, signal + background, variance))
                largest = max(largest, z[i])
    return largest


@njit(cache=True)
def _limit_of_worst(z, largest, cutoff, n):
    """Least z of those to be rejected at a time: of the worst of n, or of the worst fiftieth."""
    most = n // 50
    if most < 2:
        return largest
    far = np.sort(z[(z > cutoff) & (z >= 0.7 * largest)])
    return far[-min(most, len(far))]


@njit(cache=True, nogil=True)
def patch_excess(data, tables, excess, information):
    """Sums over the patches of each still for the fraction by which its photons deviate.

    Photons are expected as the other observations of the same voxels predict them.

    Args:
        data: FitData; tables: ModelTables
        excess, information: (n_stills, n_patches) added to in place: sums of m r/v and m^2/v, with m
            the photons expected, r the residual and v its variance
    """
    weight, still = data.weight, data.still
    for v in range(len(data.start) - 1):
        num = 0.0
        den = 0.0
        for k in range(data.start[v], data.start[v + 1]):
            if weight[k] > 0.0:
                e = data.exposure[k] * tables.a[data.direction[k]] * tables.d[data.panel[k]]
                g = e * tables.b[still[k]]
                num += weight[k] * g * (data.net[k] - e * tables.c[still[k], data.radial[k]])
                den += weight[k] * g * g
        for k in range(data.start[v], data.start[v + 1]):
            if weight[k] == 0.0 or data.patch[k] < 0:
                continue
            i = still[k]
            e = data.exposure[k] * tables.a[data.direction[k]] * tables.d[data.panel[k]]
            g, offset = e * tables.b[i], e * tables.c[i, data.radial[k]]
            rest = den - weight[k] * g * g
            # nearly alone in its voxel
            if not rest > 0.01 * den:
                continue
            expected = g * (num - weight[k] * g * (data.net[k] - offset)) / rest + offset
            information_k = 1.0 / (1.0 / weight[k] + g * g / rest)
            if expected > 0.0:
                excess[i, data.patch[k]] += expected * (data.net[k] - expected) * information_k
                information[i, data.patch[k]] += expected * expected * information_k
