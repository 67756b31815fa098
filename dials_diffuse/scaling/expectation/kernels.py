"""Compiled loops over observations."""

from __future__ import annotations

import numpy as np
from numba import njit

# Least part of the crystal's own photons that an observation is expected to have: an offset below zero,
# by its error or on its way through, must not make an observation certain
LEAST_SIGNAL = 0.05


@njit(cache=True, nogil=True)
def profile_functional(
    start,
    still,
    panel,
    radial,
    direction,
    y,
    exposure,
    weight,
    b,
    c,
    d,
    a,
    reference,
    grad_b,
    grad_c,
    grad_d,
    grad_a,
):
    """Sum of w (y - E (g I + h))^2 with I in closed form, and its derivatives.

    g = a d b and h = a d c. I minimises the sum in each voxel, so that its own derivative
    does not contribute to the gradient (envelope theorem).

    Args:
        start: (n_voxels + 1,) first observation of each voxel
        still, panel, radial, direction: (N,) indices into b, d, the second axis of c, a
        y: (N,) counts less background; exposure: (N,); weight: (N,) 1/expected variance
        b: (n_stills,); c: (n_stills, n_radial); d: (n_panels,); a: (n_directions,)
        reference: (n_voxels,) output: I
        grad_b, grad_c, grad_d, grad_a: derivatives, added to

    Returns:
        the sum
    """
    functional = 0.0
    largest = 0
    for v in range(len(start) - 1):
        largest = max(largest, start[v + 1] - start[v])
    factors = np.empty(largest)
    offsets = np.empty(largest)
    many_panels, many_directions = len(d) > 1, len(a) > 1
    of_detector = 0.0
    for v in range(len(start) - 1):
        first = start[v]
        num = 0.0
        den = 0.0
        for k in range(first, start[v + 1]):
            da = a[direction[k]] * d[panel[k]]
            offset = c[still[k], radial[k]]
            factors[k - first] = da
            offsets[k - first] = offset
            e = exposure[k] * da
            g = e * b[still[k]]
            num += weight[k] * g * (y[k] - e * offset)
            den += weight[k] * g * g
        reference[v] = num / den if den > 0.0 else 0.0
        intensity = reference[v]
        for k in range(first, start[v + 1]):
            i = still[k]
            da = factors[k - first]
            signal = b[i] * intensity + offsets[k - first]
            r = y[k] - exposure[k] * da * signal
            wr = weight[k] * r
            functional += wr * r
            t = -2.0 * wr * exposure[k]
            grad_b[i] += t * da * intensity
            grad_c[i, radial[k]] += t * da
            if many_panels:
                grad_d[panel[k]] += t * a[direction[k]] * signal
            if many_directions:
                grad_a[direction[k]] += t * d[panel[k]] * signal
            of_detector += t * da * signal
    if not many_panels:
        grad_d[0] += of_detector / d[0]
    if not many_directions:
        grad_a[0] += of_detector / a[0]
    return functional


@njit(cache=True, nogil=True)
def curvatures(
    start,
    still,
    panel,
    radial,
    direction,
    exposure,
    weight,
    b,
    c,
    d,
    a,
    reference,
    curv_b,
    curv_c,
    curv_d,
    curv_a,
    cross,
):
    """Diagonal of the Gauss-Newton matrix, halved; arguments as above.

    cross is the element of b and c of the same still. What belongs to a still is less what its own
    observations have put into the reference (the Schur complement of the intensities): of a voxel that
    two stills see, each knows no more than what the other says. What all stills share is for a
    fixed reference.
    """
    for v in range(len(start) - 1):
        intensity = reference[v]
        den = 0.0
        for k in range(start[v], start[v + 1]):
            g = exposure[k] * a[direction[k]] * d[panel[k]] * b[still[k]]
            den += weight[k] * g * g
        own, end = 0.0, start[v]
        for k in range(start[v], start[v + 1]):
            i = still[k]
            if k == end:
                # observations of one still in a voxel lie side by side
                own = 0.0
                while end < start[v + 1] and still[end] == i:
                    g = exposure[end] * a[direction[end]] * d[panel[end]] * b[i]
                    own += weight[end] * g * g
                    end += 1
            of_others = max(1.0 - own / den, 0.0) if den > 0.0 else 0.0
            da = a[direction[k]] * d[panel[k]]
            signal = b[i] * intensity + c[i, radial[k]]
            we = weight[k] * exposure[k] * exposure[k]
            curv_b[i] += of_others * we * (da * intensity) ** 2
            curv_c[i, radial[k]] += of_others * we * da * da
            cross[i, radial[k]] += of_others * we * da * da * intensity
            curv_d[panel[k]] += we * (a[direction[k]] * signal) ** 2
            curv_a[direction[k]] += we * (d[panel[k]] * signal) ** 2


@njit(cache=True, nogil=True)
def expected_variances(
    start,
    still,
    panel,
    radial,
    direction,
    y,
    exposure,
    floor,
    weight,
    b,
    c,
    d,
    a,
    prior,
    strength,
    relative,
    out,
):
    """Variance of each observation's counts that the current model expects, photons^2.

    The voxel's intensity is the ratio of sums, drawn towards `prior` (its resolution shell's
    mean) by as much as `strength` photons would: a voxel where by chance nothing
    was counted still has the variance of its neighbours.

    Args:
        floor: (N,) variance that does not depend on the model: background and its
            error, readout noise
        weight: (N,) 0 for rejected observations, which do not count
        prior: (n_voxels,)
        relative: (N,) relative error of the exposure
        out: (N,) output
    """
    for v in range(len(start) - 1):
        num = 0.0
        den = 0.0
        for k in range(start[v], start[v + 1]):
            if weight[k] > 0.0:
                e = exposure[k] * a[direction[k]] * d[panel[k]]
                num += y[k] - e * c[still[k], radial[k]]
                den += e * b[still[k]]
        expected = (max(num, 0.0) + strength) / (den + strength / prior[v])
        for k in range(start[v], start[v + 1]):
            e = exposure[k] * a[direction[k]] * d[panel[k]]
            i = still[k]
            systematic = relative[k] * e * b[i] * expected
            signal = e * b[i] * expected
            out[k] = (
                max(signal + e * c[i, radial[k]], LEAST_SIGNAL * signal) + floor[k] + systematic**2
            )


@njit(cache=True)
def deviation(counts, expected, variance):
    """How many sigma the counts of an observation are off, signed.

    Deviance residual of the Poisson law, scaled to the variance: unlike (n - m) / sigma
    nearly normal at low counts too, so that two photons where 0.1 are expected are no 6 sigma.
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
def reject_outliers(
    start,
    still,
    panel,
    radial,
    direction,
    y,
    background,
    exposure,
    floor,
    weight,
    b,
    c,
    d,
    a,
    prior,
    relative,
    cutoff,
):
    """Set the weight of outliers to 0: in each voxel the worst, then the worst of the rest, ...

    An observation is compared with the mean of all others of its voxel, to which the
    shell's mean (with an uncertainty of three times itself) is added to decide between two that
    disagree. Of 100 and more observations, the worst fiftieth go at a time, as far as they are
    nearly as far off as the worst: one by one, the time would grow with the square of their number.

    Returns:
        how many were rejected
    """
    n_rejected = 0
    longest = 0
    for v in range(len(start) - 1):
        longest = max(longest, start[v + 1] - start[v])
    z, gs, offsets = np.empty(longest), np.empty(longest), np.empty(longest)
    for v in range(len(start) - 1):
        first, size = start[v], start[v + 1] - start[v]
        num = 1.0 / (9.0 * prior[v])
        den = 1.0 / (9.0 * prior[v] ** 2)
        n = 0
        for i in range(size):
            k = first + i
            e = exposure[k] * a[direction[k]] * d[panel[k]]
            g = e * b[still[k]]
            gs[i], offsets[i] = g, e * c[still[k], radial[k]]
            if weight[k] > 0.0:
                num += weight[k] * g * (y[k] - offsets[i])
                den += weight[k] * g * g
                n += 1
        while n > 1:
            largest = 0.0
            for i in range(size):
                k = first + i
                z[i] = 0.0
                if weight[k] > 0.0:
                    g, offset = gs[i], offsets[i]
                    rest_den = max(den - weight[k] * g * g, 1e-300)
                    rest = (num - weight[k] * g * (y[k] - offset)) / rest_den
                    signal = max(g * rest + offset, 0.0)
                    variance = signal + floor[k] + g * g / rest_den
                    variance += (relative[k] * g * rest) ** 2
                    # since log x <= x - 1, its square is twice this at most: few need the logarithm
                    if 2 * (y[k] - signal) ** 2 > cutoff**2 * variance:
                        z[i] = abs(
                            deviation(y[k] + background[k], signal + background[k], variance)
                        )
                        largest = max(largest, z[i])
            if not largest > cutoff:
                break
            limit = _limit_of_worst(z[:size], largest, cutoff, n)
            for i in range(size):
                if z[i] >= limit:
                    k = first + i
                    num -= weight[k] * gs[i] * (y[k] - offsets[i])
                    den -= weight[k] * gs[i] ** 2
                    weight[k] = 0.0
                    n -= 1
                    n_rejected += 1
                    if limit == largest:
                        break
    return n_rejected


@njit(cache=True, nogil=True)
def patch_excess(
    start,
    still,
    panel,
    radial,
    direction,
    patch,
    y,
    exposure,
    weight,
    b,
    c,
    d,
    a,
    excess,
    information,
):
    """Sums over the patches of each still that tell by what fraction its diffuse photons deviate from what the other
    observations of the same voxels lead to expect.

    Args:
        patch: (N,) second index into excess, negative for none
        excess, information: (n_stills, n_patches) added to: sums of m r/v and m^2/v, with m the photons expected, r the
            residual and v its variance
    """
    for v in range(len(start) - 1):
        num = 0.0
        den = 0.0
        for k in range(start[v], start[v + 1]):
            if weight[k] > 0.0:
                e = exposure[k] * a[direction[k]] * d[panel[k]]
                g = e * b[still[k]]
                num += weight[k] * g * (y[k] - e * c[still[k], radial[k]])
                den += weight[k] * g * g
        for k in range(start[v], start[v + 1]):
            if weight[k] == 0.0 or patch[k] < 0:
                continue
            i = still[k]
            e = exposure[k] * a[direction[k]] * d[panel[k]]
            g, offset = e * b[i], e * c[i, radial[k]]
            rest = den - weight[k] * g * g
            # nearly alone in its voxel
            if not rest > 0.01 * den:
                continue
            expected = g * (num - weight[k] * g * (y[k] - offset)) / rest + offset
            information_k = 1.0 / (1.0 / weight[k] + g * g / rest)
            if expected > 0.0:
                excess[i, patch[k]] += expected * (y[k] - expected) * information_k
                information[i, patch[k]] += expected * expected * information_k


@njit(cache=True)
def _limit_of_worst(z, largest, cutoff, n):
    """The least z of those to be rejected at a time: the worst of n, or the worst fiftieth"""
    most = n // 50
    if most < 2:
        return largest
    far = np.sort(z[(z > cutoff) & (z >= 0.7 * largest)])
    return far[-min(most, len(far))]
