"""A merged map against the truth that the simulator recorded.

The yardstick of the correlation is the best that counting noise allows: the very same
observations, merged with the true scales and with variances computed from the
true intensities.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dials_diffuse.adapters.sweeps import is_sweep, n_images
from dials_diffuse.simulation.images import file_stem
from dials_diffuse.simulation.simulate import is_simulated
from dials_diffuse.simulation.truth import DiffuseTruth


@dataclass
class MapComparison:
    """How well a merged map agrees with the truth.

    Attributes:
        n_voxels: voxels compared
        correlation: of the intensities
        anisotropic: of the intensities less their mean in shells of |q|
        ceiling, ceiling_anisotropic: the same for the best map that counting noise allows
        bias: mean of the map over mean of the truth, less 1
        scales: correlation of refined with true scale factors b (None for fewer than 3 stills)
        scales_rms: rms deviation of their ratio from its mean
    """

    n_voxels: int
    correlation: float
    anisotropic: float
    ceiling: float
    ceiling_anisotropic: float
    bias: float
    scales: float | None
    scales_rms: float | None

    def to_dict(self) -> dict:
        return asdict(self)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two arrays (N,)"""
    return float(np.corrcoef(a, b)[0, 1])


def without_shell_mean(values: np.ndarray, q: np.ndarray, n_shells: int = 20) -> np.ndarray:
    """Values (N,) less their mean in n_shells shells of |q| (N,) that hold equally many."""
    edges = np.quantile(q, np.linspace(0, 1, n_shells + 1)[1:-1])
    shell = np.searchsorted(edges, q, side="right")
    count = np.bincount(shell, minlength=n_shells)
    mean = np.bincount(shell, values, minlength=n_shells) / np.maximum(count, 1)
    return values - mean[shell]


class Images:
    """The images of experiments: one of a still, all of a sweep.

    Attributes:
        first: (E + 1,) number of the first image of each experiment, and of all
    """

    def __init__(self, experiments):
        self.experiments = experiments
        self.first = np.cumsum([0, *map(n_images, experiments)])
        self._start = np.array(
            [e.scan.get_array_range()[0] if is_sweep(e) else 0 for e in experiments]
        )

    def number(self, ids: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Number of the image (N,) of rows of experiments ids (N,) at image numbers z (N,)."""
        n = np.diff(self.first)[ids]
        within = np.floor(z).astype(np.int64) - self._start[ids]
        return self.first[ids] + np.where(n > 1, np.clip(within, 0, n - 1), 0)

    def __iter__(self):
        """(experiment, index of the image in its imageset, array index of the image's middle)"""
        for experiment, n, start in zip(self.experiments, np.diff(self.first), self._start):
            for index in range(n):
                yield experiment, index, start + index + 0.5


def true_scales(record: dict, images: Images) -> np.ndarray:
    """True b (N,) of images, divided by their mean.

    An experiment is known by its identifier or, where DIALS has made it anew from the images
    of a rotation series of one lattice, by the name of its image.

    Raises:
        ValueError: an experiment is not of this simulation.
    """
    by_identifier, by_image = {}, {}
    for still in record["stills"]:
        by_identifier.update(zip(still["identifiers"], still["scales"]))
        if len(still["scales"]) == 1:
            by_image[file_stem("still", still["image"])] = still["scales"][0]
    scales = []
    for experiment, index, _ in images:
        name = experiment.identifier
        scale = by_identifier.get(name)
        anew = is_sweep(experiment) or not is_simulated(name)
        if scale is None and anew and experiment.imageset is not None:
            scale = by_image.get(Path(experiment.imageset.get_path(index)).stem)
        if scale is None:
            raise ValueError(f"Experiment {name} is not of this simulation")
        scales.append(scale)
    return np.array(scales) / np.mean(scales)


def best_possible_merge(
    observations: dict[str, np.ndarray], scales: np.ndarray, expected: np.ndarray, n_voxels: int
) -> np.ndarray:
    """Merged intensity (n_voxels,) of observations with exact scales and variances.

    For Poisson counts of mean E b I + B the weighted mean with weights
    (E b)^2 / (E b I + B), I the true intensity, has the least variance.

    Args:
        observations: arrays (N,) `voxel` (number of the merged voxel), `image`, `counts`,
            `background`, `exposure`
        scales: true b of each image
        expected: true intensity of each merged voxel in the unit of counts/exposure
    """
    voxel = observations["voxel"]
    eb = observations["exposure"] * scales[observations["image"]]
    variance = eb * expected[voxel] + observations["background"]
    net = observations["counts"] - observations["background"]
    top = np.bincount(voxel, eb * net / variance, minlength=n_voxels)
    bottom = np.bincount(voxel, eb**2 / variance, minlength=n_voxels)
    with np.errstate(invalid="ignore", divide="ignore"):
        return top / bottom


def compare_with_truth(
    truth_file: str | os.PathLike,
    experiments,
    scaled,
    merged,
    min_stills: int = 3,
    d_range: tuple[float, float] | None = None,
    voxels: np.ndarray | None = None,
) -> MapComparison:
    """Compare diffuse_merged.refl (or diffuse_absolute.refl) with the simulated truth.

    Args:
        truth_file: truth.json
        experiments: diffuse_scaled.expt, with refined models
        scaled: diffuse_scaled.refl
        merged: diffuse_merged.refl, unit photons/(s sr)
        min_stills: compare voxels seen by at least so many stills
        d_range: (d_min, d_max) to compare in, Angstrom
        voxels: (M, 3) indices of the only voxels to compare

    Raises:
        ValueError: the files belong to another simulation, or nothing is left to compare.
    """
    from dials_diffuse.adapters.tables import as_numpy

    with open(truth_file) as handle:
        record = json.load(handle)
    truth = DiffuseTruth.from_dict(record["truth"])
    unit = record["photons_per_electron2"]
    images = Images(experiments)
    b_true = true_scales(record, images)

    hkl = as_numpy(merged["hkl"])
    q = truth.q(hkl)
    keep = as_numpy(merged["n_stills"]) >= min_stills
    if d_range is not None:
        keep &= (q <= 1 / d_range[0]) & (q >= 1 / d_range[1])
    expected = truth.total(hkl) * unit

    rows = {name: as_numpy(scaled[name]) for name in ("counts", "background", "exposure")}
    z = as_numpy(scaled["xyzobs.px.value"])[:, 2]
    rows["image"] = images.number(as_numpy(scaled["id"]), z)
    used = ~as_numpy(scaled["bragg"]) & (rows["exposure"] > 0)
    merged_voxels = as_numpy(merged["voxel"])
    rows["voxel"] = _position_in(merged_voxels, as_numpy(scaled["asu_voxel"]))
    used &= rows["voxel"] >= 0
    if voxels is not None:
        keep &= _position_in(voxels, merged_voxels) >= 0
    rows = {name: values[used] for name, values in rows.items()}
    best = best_possible_merge(rows, b_true, expected, len(merged_voxels))

    found = as_numpy(merged["intensity"])
    keep &= np.isfinite(found) & np.isfinite(best)
    if keep.sum() < 10:
        raise ValueError(
            f"Only {keep.sum()} voxels are seen by {min_stills} or more stills: nothing to compare"
        )
    found, best, expected, q = found[keep], best[keep], expected[keep], q[keep]
    anisotropic_truth = without_shell_mean(expected, q)
    b_found = np.array([_scale_of(experiment, z) for experiment, _, z in images])
    refined = np.isfinite(b_found)
    enough = refined.sum() >= 3
    ratio = b_found[refined] / b_true[refined]
    return MapComparison(
        n_voxels=int(keep.sum()),
        correlation=correlation(found, expected),
        anisotropic=correlation(without_shell_mean(found, q), anisotropic_truth),
        ceiling=correlation(best, expected),
        ceiling_anisotropic=correlation(without_shell_mean(best, q), anisotropic_truth),
        bias=float(found.mean() / expected.mean() - 1),
        scales=correlation(b_found[refined], b_true[refined]) if enough else None,
        scales_rms=float(np.std(ratio / ratio.mean())) if enough else None,
    )


def _position_in(voxels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Row of voxels (M, 3) that holds each of wanted (N, 3), -1 where none does; (N,)"""
    both = np.concatenate([voxels, wanted]).astype(np.int64)
    both -= both.min(axis=0)
    key = np.ravel_multi_index(both.T, both.max(axis=0) + 1)
    unique, number = np.unique(key, return_inverse=True)
    position = np.full(len(unique), -1)
    position[number[: len(voxels)]] = np.arange(len(voxels))
    return position[number[len(voxels) :]]


def _scale_of(experiment, z: float) -> float:
    model = experiment.scaling_model
    if model is None or "scale" not in model.components:
        return np.nan
    return model.at(z)[0]


def summary(comparison: MapComparison) -> str:
    """The comparison as lines for a person."""
    lines = [
        f"Voxels compared with the truth            {comparison.n_voxels}",
        f"Correlation with the truth                {comparison.correlation:.4f}"
        f" (counting noise allows {comparison.ceiling:.4f})",
        f"Correlation of the anisotropic part       {comparison.anisotropic:.4f}"
        f" (counting noise allows {comparison.ceiling_anisotropic:.4f})",
        f"Mean of the map over mean of the truth    {1 + comparison.bias:.4f}",
    ]
    if comparison.scales is not None:
        lines.append(
            f"Correlation of scale factors with true b  {comparison.scales:.5f}"
            f" (rms deviation {100 * comparison.scales_rms:.2f} %)"
        )
    return "\n".join(lines)
