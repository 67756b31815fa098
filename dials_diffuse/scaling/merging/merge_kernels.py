"""Compiled loops of merging, which take one voxel after the other.

They get the rows of a range of voxels. Arrays over voxels are those of the range; all other sums are separate for
each range.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dials_diffuse.scaling.expectation.outliers import reject_outliers
from dials_diffuse.scaling.expectation.tables import detector_factor
from dials_diffuse.scaling.expectation.variance import expected_variance


class Still(NamedTuple):
    """What merging knows of the stills.

    Attributes:
        excluded: (S,) bool: takes no part
        bad_patches: (S, patches) bool: patches whose observations are outliers
        half: (S,) int64, half set
        group: (S,) int64, group of the jackknife
    """

    excluded: np.ndarray
    bad_patches: np.ndarray
    half: np.ndarray
    group: np.ndarray


class VoxelTables(NamedTuple):
    """What is known of the voxels before they are merged, (V,) each.

    Attributes:
        expected: intensity that the weights are made with
        prior: mean intensity of the shell
        isotropic: mean of the map at the |q| of the voxel
        shell: float, number of the resolution shell, -1 for none
    """

    expected: np.ndarray
    prior: np.ndarray
    isotropic: np.ndarray
    shell: np.ndarray


class VoxelSums(NamedTuple):
    """Merged voxels; numbers are kept as float.

    Attributes:
        num, den: (V, 2) sums of w E g (net - E h) and of w (E g)^2, for each half set. (Ranges of voxels must be contiguous
            in memory: numba 0.56 mixes up loops for tuples of arrays that differ in this)
        exposure: (V,) sum of E g
        n_obs, n_stills: (V,)
        scatter: (V,) sum of z^2
        jackknife: (V,) variance of the intensity from leaving out one group after the other; NaN for one group
    """

    num: np.ndarray
    den: np.ndarray
    exposure: np.ndarray
    n_obs: np.ndarray
    n_stills: np.ndarray
    scatter: np.ndarray
    jackknife: np.ndarray


# Columns of the sums by shell, panel and still
N, SQUARE, FREEDOM = range(3)
RESIDUAL, EXPECTED = 3, 4
WEIGHTED_ABS = 5
INFORMATION, OWN, REST, OWN_OWN, REST_REST, OWN_REST = range(3, 9)


class StatisticSums(NamedTuple):
    """Sums for the statistics; z^2 is the squared residual over its variance.

    Attributes:
        shells: (n_shells, 6) number, z^2, 1 - leverage, residuals, expected photons, and
            sqrt(n/(n-1)) |residual|
        panels: (P, 5) the first five of the same
        stills: (S, 9) number, z^2, 1 - leverage, and sums over w, w own, w rest, w own^2, w rest^2,
            w own rest, with own and rest the anisotropic part of the observation's intensity and of
            that of all others
        directions: (D, 2) residuals, expected photons with offset
        sizes: (n, 3) for the error model: log2 bins of t = signal^2/variance, sums of z^2,
            1 - leverage and t (1 - leverage)
        histogram: (1, n) numbers of residual / sigma in steps of 0.1 from -10
    """

    shells: np.ndarray
    panels: np.ndarray
    stills: np.ndarray
    directions: np.ndarray
    sizes: np.ndarray
    histogram: np.ndarray


@njit(cache=True, nogil=True)
def add_ratios(start, rows, tables, still, rejected, sums):
    """Add net - E h, E g, and the variance without the crystal's, of each voxel's observations to sums (3, V).

    Args:
        start: (V + 1,) first row of each voxel
        tables: ScaleTables; still: Still
        rejected: (N,) bool, or empty
    """
    some = len(rejected) > 0
    for v in range(len(start) - 1):
        for k in range(start[v], start[v + 1]):
            row = rows[k]
            i = row.still
            if still.excluded[i] or still.bad_patches[i, row.patch] or (some and rejected[k]):
                continue
            e = row.exposure * detector_factor(row, tables)
            offset = e * tables.c[i, row.radial]
            sums[0, v] += row.net - offset
            sums[1, v] += e * tables.b[i]
            sums[2, v] += row.floor + max(offset, 0.0)


@njit(cache=True, nogil=True)
def merge_voxels(start, rows, tables, still, voxels, options, direction, out, sums, rejected):
    """Reject outliers and merge each voxel, and add its observations to all statistics; returns the outliers found.

    Args:
        start: (V + 1,) first row of each voxel; rows: (N,) of ROW
        tables: ScaleTables; still: Still; voxels: VoxelTables
        options: (cutoff of outliers in sigma or 0 for those that are given, fraction of the intensity that adds to sigma)
        direction: (D,) int64, bin of the statistics for each bin of the table a
        out: VoxelSums; sums: StatisticSums, both changed in place
        rejected: (N,) bool, changed in place
    """
    cutoff, error_b = options
    longest = 1
    for v in range(len(start) - 1):
        longest = max(longest, start[v + 1] - start[v])
    eg, eh, w, z = np.empty(longest), np.empty(longest), np.empty(longest), np.empty(longest)
    n_found = 0
    n_groups = np.max(still.group) + 1
    group_num, group_den = np.zeros(n_groups), np.zeros(n_groups)
    for v in range(len(start) - 1):
        first, n = start[v], start[v + 1] - start[v]
        own = rows[first : first + n]
        n_used = _weigh_voxel(own, tables, still, voxels.expected[v], error_b, eg, eh, w)
        flags = rejected[first : first + n]
        if cutoff > 0.0:
            if n_used > 1:
                prior = voxels.prior[v]
                n_found += reject_outliers(
                    own, eg[:n], eh[:n], w[:n], prior, error_b, cutoff, z[:n]
                )
            for k in range(n):
                flags[k] = w[k] == 0.0 and not still.excluded[own[k].still]
        else:
            for k in range(n):
                if flags[k]:
                    w[k] = 0.0
        _sum_voxel(own, still, eg, eh, w, v, out, group_num, group_den)
        if out.n_obs[v] >= 2:
            _add_statistics(own, tables, voxels, direction, eg, eh, w, v, out, sums)
    return n_found


@njit(cache=True)
def _weigh_voxel(rows, tables, still, expected, error_b, eg, eh, w):
    """Fill eg, eh and the weights w of one voxel; returns the number of observations that take part."""
    n = 0
    for k in range(len(rows)):
        row = rows[k]
        i = row.still
        e = row.exposure * detector_factor(row, tables)
        eg[k], eh[k] = e * tables.b[i], e * tables.c[i, row.radial]
        w[k] = 0.0
        if not (still.excluded[i] or still.bad_patches[i, row.patch]):
            signal = eg[k] * expected
            w[k] = 1.0 / expected_variance(signal, eh[k], row.floor, error_b * signal)
            n += 1
    return n


@njit(cache=True)
def _sum_voxel(rows, still, eg, eh, w, v, out, group_num, group_den):
    """Sums of one voxel's observations, and the jackknife"""
    last = -1
    num = den = 0.0
    group_num[:] = 0.0
    group_den[:] = 0.0
    for k in range(len(rows)):
        if w[k] == 0.0:
            continue
        i = np.int64(rows[k].still)
        half, group = still.half[i], still.group[i]
        one = w[k] * eg[k] * (rows[k].net - eh[k])
        two = w[k] * eg[k] * eg[k]
        out.num[v, half] += one
        out.den[v, half] += two
        group_num[group] += one
        group_den[group] += two
        num += one
        den += two
        out.exposure[v] += eg[k]
        out.n_obs[v] += 1
        if i != last:
            out.n_stills[v] += 1
            last = i
    # mean and squares of the intensities without one group
    n, total, squares = 0, 0.0, 0.0
    for j in range(len(group_den)):
        rest = den - group_den[j]
        if group_den[j] > 0.0 and rest > 1e-9 * den:
            without = (num - group_num[j]) / rest - num / den
            n += 1
            total += without
            squares += without * without
    out.jackknife[v] = (n - 1.0) / n * (squares - total * total / n) if n > 1 else np.nan


@njit(cache=True)
def _add_statistics(rows, tables, voxels, direction, eg, eh, w, v, out, sums):
    """Add the observations of one merged voxel with two or more of them to all statistics."""
    num, den = out.num[v, 0] + out.num[v, 1], out.den[v, 0] + out.den[v, 1]
    intensity, isotropic, n = num / den, voxels.isotropic[v], out.n_obs[v]
    shell = int(voxels.shell[v])
    for k in range(len(rows)):
        if w[k] == 0.0:
            continue
        row = rows[k]
        information = w[k] * eg[k] * eg[k]
        rest_den = den - information
        if rest_den <= 1e-9 * den:
            continue
        net, freedom, expected = row.net - eh[k], 1.0 - information / den, eg[k] * intensity
        residual = net - expected
        square = residual * residual * w[k]
        out.scatter[v] += square
        if shell >= 0:
            _add_common(sums.shells[shell], square, freedom)
            sums.shells[shell, RESIDUAL] += residual
            sums.shells[shell, EXPECTED] += expected
            sums.shells[shell, WEIGHTED_ABS] += np.sqrt(n / (n - 1.0)) * abs(residual)
        panel = sums.panels[row.panel]
        _add_common(panel, square, freedom)
        panel[RESIDUAL] += residual
        panel[EXPECTED] += expected
        sums.directions[direction[row.direction], 0] += residual
        sums.directions[direction[row.direction], 1] += expected + eh[k]
        rest = (num - w[k] * eg[k] * net) / rest_den - isotropic
        mine = net / eg[k] - isotropic
        still = sums.stills[row.still]
        _add_common(still, square, freedom)
        still[INFORMATION] += information
        still[OWN] += information * mine
        still[REST] += information * rest
        still[OWN_OWN] += information * mine * mine
        still[REST_REST] += information * rest * rest
        still[OWN_REST] += information * mine * rest
        # not from the intensity of the voxel, which is correlated with its residuals
        signal = eg[k] * isotropic
        t = (
            signal * signal / expected_variance(signal, eh[k], row.floor, 0.0)
            if signal > 0
            else 0.0
        )
        size = 0
        if t > 2.0**-10:
            size = min(int((np.log2(t) + 10.0) * 2.0), len(sums.sizes) - 1)
        sums.sizes[size, 0] += square
        sums.sizes[size, 1] += freedom
        sums.sizes[size, 2] += t * freedom
        bar = int(np.floor((residual * np.sqrt(w[k] / freedom) + 10.0) * 10.0))
        sums.histogram[0, min(max(bar, 0), sums.histogram.shape[1] - 1)] += 1


@njit(cache=True)
def _add_common(row, square, freedom):
    row[N] += 1
    row[SQUARE] += square
    row[FREEDOM] += freedom
