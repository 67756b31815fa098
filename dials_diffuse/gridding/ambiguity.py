"""Indexing ambiguity: stills in several settings that their lattice can't tell apart.

Where the lattice is more symmetric than the Laue group, indexing takes one of several settings
at random. The diffuse intensities themselves tell: stills in the same setting correlate
(the idea of Brehm & Diederichs 2014, Acta Cryst. D70, 101, for Bragg intensities).

What is correlated is each observation's departure from its still's radial mean and from what all
settings have in common, in units of its standard deviation. The settings of some reference stills are chosen such that
the sum of all pairwise products is largest, by coordinate ascent from several random starts
(as in Kabsch 2014, Acta Cryst. D70, 2204); all stills are then compared with what the others
predict. One half of the voxels makes the choice, the other says whether it means
anything: without a significant gain there, all stills stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cctbx import crystal, sgtbx
from cctbx.sgtbx import lattice_symmetry

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.reindexing import note_reindexing
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.gridding import check_observations

logger = logging.getLogger("dials.diffuse.grid.ambiguity")

_N_RADIAL = 30
_N_STARTS = 20
# Gain on the voxels that took no part in the choice, in standard deviations of pure noise
_SIGNIFICANT = 5.0
# 1/variance expected of the relative departures (0.2 of the mean)
_PRIOR = 25.0
# Observations of a still that are compared; more cost time and change nothing
_OBSERVATIONS_A_STILL = 20_000


@dataclass(frozen=True)
class Setting:
    """One way to index the lattice.

    Attributes:
        operator: change of basis from the setting a still has
        matrix: (3, 3) int, indices h as columns become matrix @ h
    """

    operator: sgtbx.change_of_basis_op
    matrix: np.ndarray

    @property
    def name(self) -> str:
        """Such as k,h,-l"""
        return self.operator.as_hkl()


def possible_settings(
    grid: VoxelGrid, space_group: sgtbx.space_group, max_delta: float = 2.0
) -> list[Setting]:
    """The settings that the lattice allows and the Laue group tells apart.

    They are the cosets of the Laue group in the symmetry of the lattice (Le Page 1982).

    Args:
        grid: its cell and Laue group
        space_group: of the crystals: its centring counts
        max_delta: tolerance of the lattice symmetry, degrees

    Returns:
        the identity first; nothing else where there is no ambiguity
    """
    symmetry = crystal.symmetry(
        grid.unit_cell, space_group=space_group, assert_is_compatible_unit_cell=False
    )
    to_minimum = symmetry.change_of_basis_op_to_minimum_cell()
    lattice = lattice_symmetry.group(
        symmetry.unit_cell().change_basis(to_minimum), max_delta=max_delta
    ).change_basis(to_minimum.inverse())
    own = [_matrix(op) for op in grid.laue_group.build_derived_laue_group().all_ops()]
    settings = [Setting(sgtbx.change_of_basis_op(), np.eye(3, dtype=np.int64))]
    taken = {matrix.tobytes() for matrix in own}
    for op in lattice.all_ops():
        if op.r().determinant() < 0:
            continue
        matrix = _matrix(op)
        if matrix is None or matrix.tobytes() in taken:
            continue
        if not _fits_subdivision(matrix, grid):
            logger.warning(
                "The lattice could also be indexed as %s, but n differs between axes: this is not tried",
                sgtbx.change_of_basis_op(op).as_hkl(),
            )
            continue
        settings.append(Setting(sgtbx.change_of_basis_op(op), matrix))
        # equivalent ones: followed by an operator of the Laue group
        taken |= {np.ascontiguousarray(other @ matrix).tobytes() for other in own}
    return settings


def _matrix(op: sgtbx.rt_mx) -> np.ndarray | None:
    """How the change of basis acts on indices as columns; None if not in whole numbers."""
    rotation = np.array(op.r().inverse().as_double()).reshape(3, 3).T
    rounded = np.rint(rotation)
    if np.abs(rotation - rounded).max() > 1e-6:
        return None
    return np.ascontiguousarray(rounded, dtype=np.int64)


def _fits_subdivision(matrix: np.ndarray, grid: VoxelGrid) -> bool:
    n = np.array(grid.subdivide)
    return not np.any((matrix != 0) & (n[:, None] != n[None, :]))


@dataclass
class Departures:
    """What is compared of some stills.

    Attributes:
        still: (N,) their numbers
        keys: (K, N) packed voxel of the asymmetric unit in each of the K settings
        z: (N,) departure from the still's radial mean, in standard deviations
        strength: (N,) the radial mean, in standard deviations
        check: (N,) bool: voxels that only check the choice
        orbit: (N,) a name for the voxel that is the same in all settings
    """

    still: np.ndarray
    keys: np.ndarray
    z: np.ndarray
    strength: np.ndarray
    check: np.ndarray
    orbit: np.ndarray

    def select(self, rows: np.ndarray) -> Departures:
        """Some of the observations."""
        return Departures(
            self.still[rows],
            self.keys[:, rows],
            self.z[rows],
            self.strength[rows],
            self.check[rows],
            self.orbit[rows],
        )


@dataclass
class CommonPart:
    """What the settings have in common: the relative departure averaged over each orbit of
    the lattice symmetry.

    Without it, that pair of stills would seem to agree best which shares most voxels: products are positive in
    all settings where the intensities are nearly as symmetric as the lattice.

    Attributes:
        orbits: (M,) ascending
        mean: (M,) least-squares mean of z/strength
    """

    orbits: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Departures]) -> CommonPart:
        """From the reference stills."""
        orbits, inverse = np.unique(np.concatenate([p.orbit for p in parts]), return_inverse=True)
        strength = np.concatenate([p.strength for p in parts])
        z = np.concatenate([p.z for p in parts])
        return cls(
            orbits,
            np.bincount(inverse, z * strength)
            / np.maximum(np.bincount(inverse, strength**2), 1e-300),
        )

    def remove_from(self, part: Departures) -> None:
        """Subtract it, in place."""
        at = np.minimum(np.searchsorted(self.orbits, part.orbit), len(self.orbits) - 1)
        part.z -= part.strength * np.where(self.orbits[at] == part.orbit, self.mean[at], 0.0)


def departures(table, grid: VoxelGrid, settings: Sequence[Setting]) -> Departures:
    """Departures of all stills of an extracted table from their radial means."""
    use = ~as_numpy(table["bragg"]) & (as_numpy(table["exposure"]) > 0)
    still = as_numpy(table["id"])[use].astype(np.int64)
    voxel = as_numpy(table["voxel"])[use].astype(np.int64)
    exposure = as_numpy(table["exposure"])[use]
    background = as_numpy(table["background"])[use]
    signal = as_numpy(table["counts"])[use] - background
    if not len(still):
        keys = np.zeros((len(settings), 0), dtype=np.int64)
        return Departures(still, keys, signal, signal, still > 0, still)
    unique, inverse = np.unique(pack_voxels(voxel), return_inverse=True)
    first = np.zeros(len(unique), dtype=np.int64)
    first[inverse] = np.arange(len(inverse))
    distinct = voxel[first]
    q = np.linalg.norm(grid.q_of_voxel(distinct), axis=1)[inverse]
    radial = np.minimum((q / q.max() * _N_RADIAL).astype(np.int64), _N_RADIAL - 1)
    group = still * _N_RADIAL + radial
    with np.errstate(invalid="ignore"):
        mean = np.bincount(group, signal) / np.bincount(group, exposure)
    expected = mean[group] * exposure
    variance = np.maximum(expected, 0) + background + as_numpy(table["background.variance"])[use]
    keys = np.stack([pack_voxels(grid.to_asu(distinct @ s.matrix.T)) for s in settings])
    # The same draw for all that any setting can bring together
    orbit = keys.min(axis=0)
    draw = orbit.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    per_still = len(still) / len(np.unique(still))
    drawn = (draw >> np.uint64(40)) < np.uint64(min(1.0, _OBSERVATIONS_A_STILL / per_still) * 2**24)
    check = ((draw >> np.uint64(39)) & np.uint64(1)).astype(bool)
    keep = drawn[inverse] & (variance > 0)
    sigma = np.sqrt(variance[keep])
    row = inverse[keep]
    return Departures(
        still[keep],
        keys[:, row],
        (signal - expected)[keep] / sigma,
        expected[keep] / sigma,
        check[row],
        orbit[row],
    )


@dataclass
class Resolution:
    """Settings chosen.

    Attributes:
        settings: the possible ones
        grid: that of the tables
        chosen: (S,) setting of each still, 0 = as it is
        gain: log-likelihood in the chosen setting less that in the next best, in standard
            deviations of noise, (S,)
        significance: of the choice as a whole, on the voxels kept apart for that; NaN
            where all stills stayed as they were
    """

    settings: list[Setting]
    grid: VoxelGrid
    chosen: np.ndarray
    gain: np.ndarray
    significance: float = np.nan
    files: list[np.ndarray] = field(default_factory=list)


def _ascend(products: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Settings (n,) that can't be bettered one by one; products is (n, K, n, K)."""
    n, k = products.shape[:2]
    chosen = start.copy()
    onehot = np.eye(k)[chosen]
    field_ = np.einsum("isjt,jt->is", products, onehot)
    for _ in range(100):
        changed = False
        for i in range(n):
            best = int(np.argmax(field_[i]))
            if best != chosen[i] and field_[i, best] > field_[i, chosen[i]] + 1e-9:
                field_ += products[:, :, i, best] - products[:, :, i, chosen[i]]
                chosen[i] = best
                changed = True
        if not changed:
            break
    return chosen, float(field_[np.arange(n), chosen].sum())


def _products(
    parts: list[Departures], use: Callable[[Departures], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products of departures between stills in all settings, (n, K, n, K), and the
    variance that noise gives them."""
    from scipy.sparse import csr_matrix

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
    """The same choice with all stills turned alike so that most stay as they are."""
    most = int(np.bincount(chosen, minlength=len(settings)).argmax())
    if most == 0:
        return chosen
    own = [_matrix(op) for op in grid.laue_group.build_derived_laue_group().all_ops()]
    back = np.rint(np.linalg.inv(settings[most].matrix)).astype(np.int64)
    # still in setting s, all turned back by that of the majority: which setting is that?
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


def resolve(
    load: Callable[[int], object],
    n_stills: Sequence[int],
    grid: VoxelGrid,
    settings: list[Setting],
    n_reference: int = 200,
    seed: int = 0,
) -> Resolution:
    """Find the setting of each still.

    Args:
        load: number of a file -> its extracted table
        n_stills: experiments of each file
        grid: the grid the tables are on
        settings: from possible_settings
        n_reference: number of stills that are compared with each other
        seed: of the random starts

    Returns:
        settings of all stills; `files` has them file by file
    """
    total, k = int(sum(n_stills)), len(settings)
    first = np.concatenate([[0], np.cumsum(n_stills)])
    result = Resolution(settings, grid, np.zeros(total, dtype=np.int64), np.zeros(total))
    wanted = np.unique(np.linspace(0, total - 1, min(total, n_reference)).astype(int))
    parts: list[Departures] = []
    reference: list[int] = []
    for number in range(len(n_stills)):
        mine = wanted[(wanted >= first[number]) & (wanted < first[number + 1])]
        if not len(mine):
            continue
        of_file = departures(load(number), grid, settings)
        for still in mine:
            part = of_file.select(of_file.still == still - first[number])
            if len(part.z):
                parts.append(part)
                reference.append(int(still))
    result.files = np.split(result.chosen, first[1:-1])
    if len(parts) < 2:
        return result
    common = CommonPart.of(parts)
    for part in parts:
        common.remove_from(part)
    products, _ = _products(parts, lambda part: ~part.check)
    rng = np.random.default_rng(seed)
    starts = [np.zeros(len(parts), dtype=np.int64)]
    starts += [rng.integers(0, k, len(parts)) for _ in range(_N_STARTS)]
    chosen = max((_ascend(products, start) for start in starts), key=lambda found: found[1])[0]
    chosen = _in_fewest_changes(chosen, settings, grid)
    if not chosen.any():
        logger.info("The reference stills agree best in the setting that they have")
    else:
        checks, squares = _products(parts, lambda part: part.check)
        at = np.arange(len(parts))
        new = checks[at[:, None], chosen[:, None], at[None, :], chosen[None, :]]
        old = checks[:, 0, :, 0]
        noise = (
            squares[at[:, None], chosen[:, None], at[None, :], chosen[None, :]]
            + squares[:, 0, :, 0]
        )
        upper = np.triu(new != old)
        result.significance = float(
            (new - old)[upper].sum() / np.sqrt(max(noise[upper].sum(), 1e-12))
        )
        if result.significance < _SIGNIFICANT:
            logger.info(
                "No setting is significantly better than the present one (%.1f sigma): all stills stay as they are",
                result.significance,
            )
            return result
    _assign_all(load, n_stills, first, result, common, parts, reference, chosen)
    result.files = np.split(result.chosen, first[1:-1])
    return result


@dataclass
class _Reference:
    """Relative departure of voxels from the radial mean, from stills in their settings.

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
    def of(cls, sums: list[tuple[np.ndarray, ...]], setting_of: dict[int, int]) -> _Reference:
        """From (keys, num, den) of files or stills"""
        keys, inverse = np.unique(np.concatenate([s[0] for s in sums]), return_inverse=True)
        num, den = (
            np.bincount(inverse, np.concatenate([s[i] for s in sums]), len(keys)) for i in (1, 2)
        )
        return cls(keys, num, den, setting_of)

    def at(self, key: np.ndarray) -> np.ndarray:
        """num and den at voxels (N,), 0 where there is none, (2, N)"""
        row = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        return np.where(self.keys[row] == key, (self.num[row], self.den[row]), 0.0)


def _sums(part: Departures, setting: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, sums of z strength and of strength^2 of observations in their settings (N,)"""
    key = part.keys[setting, np.arange(len(part.z))]
    keys, inverse = np.unique(key, return_inverse=True)
    return (
        keys,
        np.bincount(inverse, part.z * part.strength, len(keys)),
        np.bincount(inverse, part.strength**2, len(keys)),
    )


def _assign_all(load, n_stills, first, result, common, parts, reference, chosen) -> None:
    """Compare every still, in each setting, with the sum of the reference stills; then with
    that of all stills."""
    setting_of = {still: int(setting) for still, setting in zip(reference, chosen)}
    compared = _Reference.of(
        [_sums(part, np.full(len(part.z), s)) for part, s in zip(parts, chosen)], setting_of
    )
    for _ in range(2):
        sums = []
        for number in range(len(n_stills)):
            of_file = departures(load(number), result.grid, result.settings)
            common.remove_from(of_file)
            order = np.argsort(of_file.still, kind="stable")
            bounds = np.searchsorted(of_file.still[order], np.arange(n_stills[number] + 1))
            for still in range(n_stills[number]):
                rows = order[bounds[still] : bounds[still + 1]]
                if len(rows):
                    part = of_file.select(rows)
                    _assign(part, int(first[number]) + still, compared, result)
            if len(of_file.z):
                sums.append(_sums(of_file, result.chosen[first[number] + of_file.still]))
        compared = _Reference.of(sums, dict(enumerate(result.chosen.tolist())))


def _assign(part: Departures, still: int, compared: _Reference, result: Resolution) -> None:
    """Setting of one still against the reference without it, by likelihood.

    The reference predicts p = strength * num/(den + prior) for z; ln L = sum(z p - p^2/2).
    """
    mine = compared.setting_of.get(still)
    own = None
    if mine is not None:
        own = _Reference.of([_sums(part, np.full(len(part.z), mine))], {})
    predicted = []
    for key in part.keys:
        num, den = compared.at(key)
        if own is not None:
            num, den = (num, den) - own.at(key)
        predicted.append(part.strength * num / (np.maximum(den, 0.0) + _PRIOR))
    predicted = np.array(predicted)
    scores = predicted @ part.z - 0.5 * (predicted**2).sum(axis=1)

    def sigmas(one, other):
        noise = np.sqrt(((predicted[one] - predicted[other]) ** 2).sum())
        return (scores[one] - scores[other]) / noise if noise > 0 else 0.0

    best, second = (int(i) for i in np.argsort(scores)[::-1][:2])
    if np.isnan(result.significance) and best and sigmas(best, 0) < _SIGNIFICANT:
        # none of the reference stills had to be changed: it would have to be plain
        best, second = 0, best
    result.chosen[still] = best
    result.gain[still] = sigmas(best, second)


def resolve_files(pairs, definition, params) -> Resolution | None:
    """Find the settings of all stills of some files, and log them.

    Args:
        pairs: DataPairs of extracted observations
        definition: GridDefinition of their experiments
        params: the PHIL scope ambiguity

    Returns:
        None where there is no ambiguity or only one still
    """
    n_stills = [len(experiments) for experiments in definition.experiments]
    extracted = definition.extracted.replace(
        unit_cell=definition.grid.unit_cell, laue_group=definition.grid.laue_group
    )
    space_group = definition.experiments[0][0].crystal.get_space_group()
    settings = possible_settings(extracted, space_group, params.max_delta)
    if len(settings) == 1 or sum(n_stills) < 2:
        return None
    logger.info(
        "The lattice can be indexed in %d settings that Laue group %s tells apart: %s",
        len(settings),
        extracted.laue_group.info(),
        "; ".join(setting.name for setting in settings),
    )

    def load(number):
        _, table = pairs[number].load(check_format=False)
        check_observations(table, str(pairs[number].reflections))
        return table

    found = resolve(load, n_stills, extracted, settings, params.n_reference, params.seed)
    for number, setting in enumerate(settings):
        logger.info("%6d stills in setting %s", int((found.chosen == number).sum()), setting.name)
    uncertain = int((found.gain < 3).sum()) if found.chosen.any() else 0
    if uncertain:
        logger.warning("%d stills are in their setting by less than 3 sigma", uncertain)
    return found


def reindex_experiments(experiments, chosen: np.ndarray, settings: Sequence[Setting]) -> None:
    """Put the crystals of one file into the settings chosen, in place.

    The space group stays: settings differ in how the lattice is named, and the symmetry of
    the data is the same in all. The scaling models keep the operators, for integrated
    reflections are still in the other setting.
    """
    for experiment, number in zip(experiments, chosen):
        if number:
            space_group = experiment.crystal.get_space_group()
            experiment.crystal = experiment.crystal.change_basis(settings[number].operator)
            experiment.crystal.set_space_group(space_group)
            note_reindexing(experiment, settings[number].operator)


def reindex_rows(
    columns: dict[str, np.ndarray], chosen: np.ndarray, settings: Sequence[Setting]
) -> None:
    """Put the voxels of observations of one file into the settings chosen.

    Args:
        columns: with id and voxel; voxel is replaced
        chosen: setting of each experiment
    """
    setting = np.asarray(chosen)[columns["id"]]
    if not np.any(setting):
        return
    voxel = columns["voxel"].astype(np.int64)
    for number in np.unique(setting[setting > 0]):
        rows = setting == number
        voxel[rows] = voxel[rows] @ settings[number].matrix.T
    columns["voxel"] = voxel.astype(np.int32)
