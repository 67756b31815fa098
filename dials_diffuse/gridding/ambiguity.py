"""Indexing ambiguity: find the setting of each still by its diffuse intensities.

Where the lattice is more symmetric than the Laue group, indexing takes one of several settings
at random. Stills in the same setting correlate (Brehm & Diederichs 2014, Acta Cryst. D70, 101, with
Bragg intensities).

Each observation's departure from its still's radial mean and from what all settings have in common
is correlated, in units of its standard deviation. The settings of some reference stills are chosen
such that the sum of all pairwise products is largest, by coordinate ascent from several random
starts (Kabsch 2014, Acta Cryst. D70, 2204). All stills are then compared with what the others
predict. One half of the voxels makes the choice. The other half tells whether it is significant:
if it is not, all stills stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_matrix

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.definition import GridDefinition
from dials_diffuse.gridding.departures import CommonPart, Departures, departures
from dials_diffuse.gridding.indexing import Setting, index_matrix, possible_settings
from dials_diffuse.gridding.rows import check_observations
from dials_diffuse.gridding.settings import AmbiguitySettings

logger = logging.getLogger("dials.diffuse.gridding.ambiguity")

_N_STARTS = 20
# Gain on the voxels that took no part in the choice, in standard deviations of pure noise
_SIGNIFICANT = 5.0
# A still whose best setting is better than the next by less is reported, in standard deviations
_CERTAIN = 3.0
# 1/variance expected of the relative departures (0.2 of the mean)
_PRIOR = 25.0


@dataclass
class Resolution:
    """The settings that were chosen.

    Attributes:
        settings: the possible ones
        grid: of the extracted tables
        chosen: (S,) setting of each still, 0 = as it is
        gain: log-likelihood in the chosen setting less that in the next best, in standard
            deviations of noise, (S,)
        significance: of the choice as a whole, on the voxels that took no part in it, in standard
            deviations; NaN where the reference stills stayed as they were
        files: chosen, a part for each file
    """

    settings: list[Setting]
    grid: VoxelGrid
    chosen: np.ndarray
    gain: np.ndarray
    significance: float = np.nan
    files: list[np.ndarray] = field(default_factory=list)


def _ascend(products: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Coordinate ascent: change the setting of one still at a time while the sum of products grows.

    Args:
        products: (n, K, n, K) of n stills in K settings
        start: (n,) settings

    Returns:
        settings (n,), and the sum of their products
    """
    n, k = products.shape[:2]
    chosen = start.copy()
    # sum of products of each still, in each setting, with all others as they are
    per_setting = np.einsum("isjt,jt->is", products, np.eye(k)[chosen])
    for _ in range(100):
        changed = False
        for i in range(n):
            best = int(np.argmax(per_setting[i]))
            if best != chosen[i] and per_setting[i, best] > per_setting[i, chosen[i]] + 1e-9:
                per_setting += products[:, :, i, best] - products[:, :, i, chosen[i]]
                chosen[i] = best
                changed = True
        if not changed:
            break
    return chosen, float(per_setting[np.arange(n), chosen].sum())


def _products(
    parts: list[Departures], use: Callable[[Departures], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products of departures between stills, in all pairs of settings.

    Args:
        parts: departures of the stills
        use: chooses the observations of a still, (N,) bool

    Returns:
        (n, K, n, K) sums, and the variance of each if the departures were noise alone
    """
    k = len(parts[0].keys)
    all_keys = np.unique(np.concatenate([part.keys[:, use(part)].ravel() for part in parts]))
    rows, columns, values = [], [], []
    for number, part in enumerate(parts):
        select = use(part)
        for s in range(k):
            columns.append(np.searchsorted(all_keys, part.keys[s, select]))
            rows.append(np.full(int(select.sum()), number * k + s))
            values.append(part.z[select])
    shape = (len(parts) * k, len(all_keys))
    matrix = csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape
    )
    products = (matrix @ matrix.T).toarray()
    squares = (matrix.multiply(matrix) @ matrix.multiply(matrix).T).toarray()
    form = (len(parts), k, len(parts), k)
    products, squares = products.reshape(form), squares.reshape(form)
    for i in range(len(parts)):
        products[i, :, i, :] = squares[i, :, i, :] = 0
    return products, squares


def _in_fewest_changes(
    chosen: np.ndarray, settings: Sequence[Setting], grid: VoxelGrid
) -> np.ndarray:
    """An equivalent choice, with all settings changed alike, in which most stills stay as they are."""
    most = int(np.bincount(chosen, minlength=len(settings)).argmax())
    if most == 0:
        return chosen
    own = [index_matrix(op) for op in grid.laue_group.build_derived_laue_group().all_ops()]
    back = np.rint(np.linalg.inv(settings[most].matrix)).astype(np.int64)
    # each setting followed by the inverse of the most frequent one is one of the settings again
    renamed = []
    for setting in settings:
        matrix = back @ setting.matrix
        renamed.append(
            next(
                (
                    number
                    for number, other in enumerate(settings)
                    if any(np.array_equal(g @ other.matrix, matrix) for g in own)
                ),
                None,
            )
        )
    return chosen if None in renamed else np.array(renamed)[chosen]


def _reference_parts(
    load: Callable[[int], object],
    n_stills: Sequence[int],
    grid: VoxelGrid,
    settings: list[Setting],
    n_reference: int,
) -> tuple[list[int], list[Departures]]:
    """Departures of stills spread evenly over all files, and the numbers of these stills."""
    total = int(sum(n_stills))
    first = np.concatenate([[0], np.cumsum(n_stills)])
    candidates = np.unique(np.linspace(0, total - 1, min(total, n_reference)).astype(int))
    stills, parts = [], []
    for number in range(len(n_stills)):
        in_file = candidates[(candidates >= first[number]) & (candidates < first[number + 1])]
        if not len(in_file):
            continue
        all_rows = departures(load(number), grid, settings)
        for still in in_file:
            part = all_rows.select(all_rows.still == still - first[number])
            if len(part.z):
                parts.append(part)
                stills.append(int(still))
    return stills, parts


def _significance(parts: list[Departures], chosen: np.ndarray) -> float:
    """Gain of a choice of settings on the voxels that took no part in it, in standard deviations."""
    products, squares = _products(parts, lambda part: part.check)
    one, other = np.arange(len(parts))[:, None], np.arange(len(parts))[None, :]
    settings = chosen[:, None], chosen[None, :]
    new = products[one, settings[0], other, settings[1]]
    old = products[:, 0, :, 0]
    noise = squares[one, settings[0], other, settings[1]] + squares[:, 0, :, 0]
    changed = np.triu(new != old)
    return float((new - old)[changed].sum() / np.sqrt(max(noise[changed].sum(), 1e-12)))


def resolve(
    load: Callable[[int], object],
    n_stills: Sequence[int],
    grid: VoxelGrid,
    settings: list[Setting],
    n_reference: int,
    seed: int,
) -> Resolution:
    """Choose the setting (a way to index the lattice, see Setting) of each still.

    Some stills, spread over all files, are compared with each other, pair by pair; then every still is
    compared with their sum, and once more with the sum of all. Nothing is reindexed. The choice is
    relative: most stills keep the setting that they have. If it is not significant, all do.

    Args:
        load: number of a file -> its table of extracted observations; each is read up to three times
        n_stills: number of experiments of each file
        grid: of the extracted observations
        settings: the possible settings, see possible_settings
        n_reference: number of stills that are compared with each other (all, if there are fewer)
        seed: of the random settings from which the search starts

    Returns:
        number of the setting of each still, and how certain it is
    """
    total = int(sum(n_stills))
    first = np.concatenate([[0], np.cumsum(n_stills)])
    result = Resolution(settings, grid, np.zeros(total, dtype=np.int64), np.zeros(total))
    result.files = np.split(result.chosen, first[1:-1])
    reference, parts = _reference_parts(load, n_stills, grid, settings, n_reference)
    if len(parts) < 2:
        return result
    common = CommonPart.from_parts(parts)
    for part in parts:
        common.remove_from(part)
    products, _ = _products(parts, lambda part: ~part.check)
    rng = np.random.default_rng(seed)
    starts = [np.zeros(len(parts), dtype=np.int64)]
    starts += [rng.integers(0, len(settings), len(parts)) for _ in range(_N_STARTS)]
    chosen, _ = max((_ascend(products, start) for start in starts), key=lambda ascent: ascent[1])
    chosen = _in_fewest_changes(chosen, settings, grid)
    if not chosen.any():
        logger.info("The reference stills agree best in the setting that they have")
    else:
        result.significance = _significance(parts, chosen)
        if result.significance < _SIGNIFICANT:
            logger.info(
                "No setting is significantly better than the present one (%.1f sigma): all stills stay as they are",
                result.significance,
            )
            return result
    reference_sums = _Reference.from_sums(
        [_sums(part, np.full(len(part.z), s)) for part, s in zip(parts, chosen)],
        {still: int(setting) for still, setting in zip(reference, chosen)},
    )
    _assign_all(load, n_stills, result, common, reference_sums)
    result.files = np.split(result.chosen, first[1:-1])
    return result


@dataclass
class _Reference:
    """Relative departure of voxels from the radial mean, summed over stills in their settings.

    Attributes:
        keys: (M,) packed voxels, ascending
        num, den: (M,) sums of z strength and of strength^2
        setting_of: stills that are part of it and their settings
    """

    keys: np.ndarray
    num: np.ndarray
    den: np.ndarray
    setting_of: dict[int, int]

    @classmethod
    def from_sums(
        cls, sums: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], setting_of: dict[int, int]
    ) -> _Reference:
        """Add up (keys, num, den) of files or stills; see _sums."""
        keys, inverse = np.unique(np.concatenate([s[0] for s in sums]), return_inverse=True)
        num, den = (
            np.bincount(inverse, np.concatenate([s[i] for s in sums]), len(keys)) for i in (1, 2)
        )
        return cls(keys, num, den, setting_of)

    def lookup(self, key: np.ndarray) -> np.ndarray:
        """num and den at voxels (N,), 0 where there is none: (2, N)."""
        row = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        return np.where(self.keys[row] == key, (self.num[row], self.den[row]), 0.0)


def _sums(part: Departures, setting: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, sums of z strength, and sums of strength^2 of observations in their settings (N,)."""
    key = part.keys[setting, np.arange(len(part.z))]
    keys, inverse = np.unique(key, return_inverse=True)
    return (
        keys,
        np.bincount(inverse, part.z * part.strength, len(keys)),
        np.bincount(inverse, part.strength**2, len(keys)),
    )


def _assign_all(
    load: Callable[[int], object],
    n_stills: Sequence[int],
    result: Resolution,
    common: CommonPart,
    reference: _Reference,
) -> None:
    """Compare every still, in each setting, with the reference stills, and then with all stills.

    Args:
        load, n_stills: see resolve
        result: chosen and gain are changed in place
        common: removed from every still
        reference: of the reference stills
    """
    first = np.concatenate([[0], np.cumsum(n_stills)])
    for _ in range(2):
        sums = []
        for number in range(len(n_stills)):
            in_file = departures(load(number), result.grid, result.settings)
            common.remove_from(in_file)
            order = np.argsort(in_file.still, kind="stable")
            bounds = np.searchsorted(in_file.still[order], np.arange(n_stills[number] + 1))
            for still in range(n_stills[number]):
                rows = order[bounds[still] : bounds[still + 1]]
                if len(rows):
                    part = in_file.select(rows)
                    _assign(part, int(first[number]) + still, reference, result)
            if len(in_file.z):
                sums.append(_sums(in_file, result.chosen[first[number] + in_file.still]))
        reference = _Reference.from_sums(sums, dict(enumerate(result.chosen.tolist())))


def _assign(part: Departures, still: int, reference: _Reference, result: Resolution) -> None:
    """Choose the setting of one still by its likelihood, against the reference without this still.

    The reference predicts p = strength * num/(den + prior) for z; ln L = sum(z p - p^2/2).
    """
    own = None
    if still in reference.setting_of:
        setting = np.full(len(part.z), reference.setting_of[still])
        own = _Reference.from_sums([_sums(part, setting)], {})
    rows = []
    for key in part.keys:
        num, den = reference.lookup(key)
        if own is not None:
            num, den = (num, den) - own.lookup(key)
        rows.append(part.strength * num / (np.maximum(den, 0.0) + _PRIOR))
    predicted = np.array(rows)
    log_likelihood = predicted @ part.z - 0.5 * (predicted**2).sum(axis=1)

    def gain(one: int, other: int) -> float:
        noise = np.sqrt(((predicted[one] - predicted[other]) ** 2).sum())
        return (log_likelihood[one] - log_likelihood[other]) / noise if noise > 0 else 0.0

    best, second = (int(i) for i in np.argsort(log_likelihood)[::-1][:2])
    if np.isnan(result.significance) and best and gain(best, 0) < _SIGNIFICANT:
        # no reference still was changed: one that is must be certain
        best, second = 0, best
    result.chosen[still] = best
    result.gain[still] = gain(best, second)


def resolve_files(
    pairs: Sequence[DataPair], definition: GridDefinition, settings: AmbiguitySettings
) -> Resolution | None:
    """Find the settings of all stills of some files, and log them.

    Args:
        pairs: files of extracted observations
        definition: the grid, and the experiments of the files
        settings: of the search

    Returns:
        None where there is no ambiguity, only one still, or no search wanted
    """
    n_stills = [len(experiments) for experiments in definition.experiments]
    if not settings.resolve or sum(n_stills) < 2:
        return None
    extracted = definition.extracted.replace(
        unit_cell=definition.grid.unit_cell, laue_group=definition.grid.laue_group
    )
    space_group = definition.experiments[0][0].crystal.get_space_group()
    possible = possible_settings(extracted, space_group, settings.max_delta)
    if len(possible) == 1:
        return None
    logger.info(
        "The lattice can be indexed in %d settings that Laue group %s does not make equivalent: %s",
        len(possible),
        extracted.laue_group.info(),
        "; ".join(setting.name for setting in possible),
    )

    def load(number: int):
        _, table = pairs[number].load(check_format=False)
        check_observations(table, str(pairs[number].reflections))
        return table

    result = resolve(load, n_stills, extracted, possible, settings.n_reference, settings.seed)
    for number, setting in enumerate(possible):
        logger.info("%6d stills in setting %s", int((result.chosen == number).sum()), setting.name)
    uncertain = int((result.gain < _CERTAIN).sum()) if result.chosen.any() else 0
    if uncertain:
        logger.warning("The setting of %d stills is uncertain (less than 3 sigma)", uncertain)
    return result
