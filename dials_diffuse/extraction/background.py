"""What the detector would count without the crystal."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.images import (
    exposure_time,
    read_raw,
    static_mask,
    transmission,
    trusted_bounds,
)
from dials_diffuse.geometry.panel import detector_geometry

logger = logging.getLogger("dials.diffuse.extraction.background")

_BIN_WIDTH = 0.002  # of radial bins in |q|, 1/Angstrom
_FEWEST_PHOTONS = 400.0  # a radial bin with fewer is joined with the next: 5 % each
_BLOCKS = (64, 32, 16, 8, 4, 2, 1)  # pixels
_SMALL = 4  # blocks no wider follow sharp edges
_MARGIN = 6.0  # of the deviance: a further factor of 20 in what chance does


@dataclass(frozen=True)
class Background:
    """Expected background photons of every pixel.

    Attributes:
        mean: a (n_slow, n_fast) float32 array a panel, photons per unit of dose
        spread: variance of what is each pixel's own error, or None
        shared: standard deviation of the error that neighbouring pixels share, or None
        per_dose: True: the dose is exposure time (s) times transmission of the still;
            False: the photons are those of any one image, the dose is 1
    """

    mean: list[np.ndarray]
    spread: list[np.ndarray] | None = None
    shared: list[np.ndarray] | None = None
    per_dose: bool = False

    def panel(self, number: int):
        """(mean, spread, shared) of one panel, None for what there isn't"""
        return (
            self.mean[number],
            None if self.spread is None else self.spread[number],
            None if self.shared is None else self.shared[number],
        )

    def without_holes(self) -> tuple[Background, list[np.ndarray | None]]:
        """The same with 0 for the pixels whose background is not known (NaN), and the pixels where it is: an
        (n_slow, n_fast) bool array a panel, None for all of them."""
        known: list[np.ndarray | None] = []
        for number in range(len(self.mean)):
            of_panel = [np.isfinite(plane) for plane in self.panel(number) if plane is not None]
            finite = np.logical_and.reduce(of_panel)
            known.append(None if finite.all() else finite)

        def filled(planes: list[np.ndarray] | None) -> list[np.ndarray] | None:
            if planes is None:
                return None
            return [
                plane if where is None else np.where(where, plane, np.float32(0))
                for plane, where in zip(planes, known)
            ]

        return replace(
            self, mean=filled(self.mean), spread=filled(self.spread), shared=filled(self.shared)
        ), known

    def check_shapes(self, detector, name: str) -> None:
        """Raises ValueError if the detector's panels have other sizes."""
        sizes = [tuple(reversed(panel.get_image_size())) for panel in detector]
        ours = [mean.shape for mean in self.mean]
        if len(sizes) != len(ours):
            raise ValueError(
                f"The background {name} has {len(ours)} panels, the detector {len(sizes)}"
            )
        for number, (size, our) in enumerate(zip(sizes, ours)):
            if size != our:
                raise ValueError(
                    f"The background {name} has {our[::-1]} pixels on panel {number}, the detector {size[::-1]}"
                )


def load_background(
    text: str,
    detector,
    settings,
    smoothing: str = "adaptive",
    photons_of=None,
    exposure: float | None = None,
    usable: list[np.ndarray] | None = None,
) -> Background:
    """The background that the parameter names.

    Args:
        text: a number of photons a pixel and image, an .expt of empty shots, or a map: an .npy
            of one panel, an .npz with an array a panel in the order of the panels, or an .h5 with
            an array a panel, their names in the panels' order (panel_2 before panel_10),
            photons a pixel and image; in .npz and .h5 arrays whose names end in "variance" are the variances
            of the others
        detector: of the stills
        settings: CorrectionSettings, for the smoothing
        smoothing: see average_of_empty_shots
        photons_of: function (imageset, index) -> list of float64 arrays of photons, NaN
            where not to be trusted
        exposure: exposure time in s, when it is not in the empty shots' headers
        usable: (n_slow, n_fast) bool a panel, pixels that the stills' masks allow

    Raises:
        ValueError: unreadable, or of another shape than the detector.
    """
    path = Path(text)
    if path.suffix == ".expt":
        background = average_of_empty_shots(
            load_experiments(path), settings, smoothing, photons_of, exposure, usable
        )
    elif path.suffix in (".npy", ".npz", ".h5"):
        background = Background(*_load_map(path))
    else:
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(
                f"background={text} is neither a number of photons >= 0 nor an .expt of empty shots nor a map "
                "(.npy, .npz, .h5)"
            )
        background = Background(
            [np.full(panel.get_image_size()[::-1], value, dtype=np.float32) for panel in detector]
        )
    background.check_shapes(detector, text)
    return background


def _natural(name: str) -> list:
    """Sort key with numbers by their value: h5py lists names as text, panel_10 before panel_2."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _load_map(path: Path) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Photons of a map, and their variances if it has any"""
    if not path.is_file():
        raise ValueError(f"No such file: {path}")
    try:
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path, "r") as handle:
                named = {name: handle[name][()] for name in sorted(handle, key=_natural)}
        elif path.suffix == ".npz":
            with np.load(path) as archive:
                named = {name: archive[name] for name in archive.files}
        else:
            named = {"mean": np.load(path)}
        named = {
            name: np.ascontiguousarray(array, dtype=np.float32) for name, array in named.items()
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Can't read a background map from {os.fspath(path)}: {error}") from error
    if any(array.ndim != 2 or not np.isfinite(array).all() for array in named.values()):
        raise ValueError(f"The background map {path} must hold finite 2D arrays, one a panel")
    variances = [array for name, array in named.items() if name.endswith("variance")]
    mean = [array for name, array in named.items() if not name.endswith("variance")]
    if not variances:
        return mean, None
    if [array.shape for array in variances] != [array.shape for array in mean] or min(
        v.min() for v in variances
    ) < 0:
        raise ValueError(
            f"The variances in the background map {path} must be 0 or more, an array for each panel and of its size"
        )
    return mean, variances


def photons_of_image(imageset, index: int, gain=None, pedestal=None) -> list[np.ndarray]:
    """(ADU - pedestal)/gain of every pixel, a (n_slow, n_fast) float64 array a panel, NaN where
    the value is not trusted."""
    images = []
    for number, (panel, values) in enumerate(
        zip(imageset.get_detector(), read_raw(imageset, index))
    ):
        low, high = trusted_bounds(panel)
        gains, pedestals = (
            panel_gain(imageset, number, gain),
            panel_pedestal(imageset, number, pedestal),
        )
        photons = (values - pedestals) / gains
        photons[~((values >= low) & (values <= high))] = np.nan
        images.append(photons)
    return images


def panel_gain(imageset, number: int, override: float | None = None):
    """ADU per photon of a panel: the parameter, else the imageset's gain map, else the panel's.

    Raises:
        ValueError: not positive.
    """
    gain = override
    if gain is None:
        gain = _lookup(imageset.external_lookup.gain, number)
    if gain is None:
        gain = imageset.get_detector()[number].get_gain()
    if not (np.isfinite(gain).all() and np.min(gain) > 0):
        raise ValueError(
            f"The gain of panel {number} is {np.min(gain)}, not a positive number: give gain= in ADU per photon"
        )
    return gain


def panel_pedestal(imageset, number: int, override: float | None = None):
    """ADU of a pixel that counts nothing: the parameter, else the imageset's map, else the panel's."""
    if override is not None:
        return override
    pedestal = _lookup(imageset.external_lookup.pedestal, number)
    return imageset.get_detector()[number].get_pedestal() if pedestal is None else pedestal


def _lookup(item, number: int) -> np.ndarray | None:
    if item.data.empty():
        return None
    from dials_diffuse.adapters.tables import as_numpy

    return as_numpy(item.data.tile(number).data())


def average_of_empty_shots(
    experiments,
    settings,
    smoothing: str = "adaptive",
    photons_of=None,
    exposure: float | None = None,
    usable: list[np.ndarray] | None = None,
) -> Background:
    """Mean photons a pixel per second and unit transmission over all images of an experiment list.

    Args:
        experiments: stills or sweeps without the crystal
        settings: CorrectionSettings
        smoothing: "none": each pixel's own average, whose error is large where few photons
            were counted. "radial": photons/(Omega P QE A) as a function of |q|, a function a panel;
            the error is shared by the pixels of a bin. "adaptive": that, times what blocks of pixels
            (64 wide and smaller) significantly depart from it, as in the shadow of the beam stop.
        photons_of, usable: see load_background
        exposure: exposure time of the images in s, None: theirs

    Raises:
        ValueError: no image, images of different size, unreadable image, no exposure time.
    """
    photons_of = photons_of or photons_of_image
    total, weight, seen, first = None, None, set(), None
    for experiment in experiments:
        imageset = experiment.imageset
        if imageset is None:
            raise ValueError("The background experiments have no images")
        use = static_mask(imageset)
        if usable is not None and [m.shape for m in usable] == [m.shape for m in use]:
            use = [mask & allowed for mask, allowed in zip(use, usable)]
        sizes = [mask.shape for mask in use]
        for index in range(len(imageset)):
            name = (imageset.get_path(index), imageset.indices()[index])
            if name in seen:
                continue
            seen.add(name)
            if total is None:
                first = experiment
                total = [np.zeros(size) for size in sizes]
                weight = [np.zeros(size) for size in sizes]
            elif sizes != [t.shape for t in total]:
                raise ValueError("The background images differ in size from one another")
            dose = exposure_time(experiment, index, exposure) * transmission(experiment.beam)
            for number, photons in enumerate(photons_of(imageset, index)):
                good = use[number] & np.isfinite(photons)
                total[number] += np.where(good, photons, 0.0)
                weight[number] += dose * good
    if not seen:
        raise ValueError("The background experiments have no images")
    logger.info("Background averaged over %d empty shots", len(seen))
    if smoothing == "none":
        # A pixel that was never good has no known background: NaN takes it out of the sums
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = [(t / w).astype(np.float32) for t, w in zip(total, weight)]
            spread = [(np.maximum(t, 0.0) / w**2).astype(np.float32) for t, w in zip(total, weight)]
        return Background(mean, spread=spread, per_dose=True)
    geometry = detector_geometry(first.detector, first.beam, settings)
    smooth = []
    for t, w, panel in zip(total, weight, geometry.panels):
        mean, error = _radial(t, w, panel)
        if smoothing == "adaptive":
            everywhere = np.ones(t.shape, dtype=bool)
            _, _, sharp = _adapted(t, w, mean, error, everywhere)
            # A shadow pulls down the mean of the rings and large blocks that it crosses: once more
            # without what only the small blocks could describe
            if (w > 0)[~sharp].any():
                mean, error = _radial(t * ~sharp, w * ~sharp, panel)
            mean, error, _ = _adapted(t, w, mean, error, ~sharp)
        smooth.append((mean, error))
    return Background([m for m, _ in smooth], shared=[s for _, s in smooth], per_dose=True)


def _radial(total: np.ndarray, weight: np.ndarray, panel) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard deviation of every pixel, from a function of |q| times E."""
    q = panel.q_length()
    bins = (q / _BIN_WIDTH).astype(np.int32)
    first = int(bins.min())
    bins -= first
    n = int(bins.max()) + 1
    flat, exposed = bins.ravel(), (weight * panel.efficiency).ravel()
    photons = np.bincount(flat, total.ravel(), n)
    exposure = np.bincount(flat, exposed, n)
    q_mean = np.bincount(flat, q.ravel() * exposed, n)
    groups = _join_poor_bins(photons, exposure)
    photons, exposure, q_mean = (np.bincount(groups, x) for x in (photons, exposure, q_mean))
    known = exposure > 0
    if not known.any():
        nothing = np.full(total.shape, np.nan, dtype=np.float32)
        return nothing, nothing
    photons, exposure, q_mean = photons[known], exposure[known], q_mean[known]
    at = q_mean / exposure
    rate = np.interp(q.ravel(), at, photons / exposure).reshape(q.shape)
    # noise of an integrating detector can be less than nothing
    error = np.interp(q.ravel(), at, np.sqrt(np.maximum(photons, 0.0)) / exposure).reshape(q.shape)
    return (
        (rate * panel.efficiency).astype(np.float32),
        (error * panel.efficiency).astype(np.float32),
    )


def _join_poor_bins(photons: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Group numbers of radial bins, so that each group has enough photons to be a mean."""
    groups = np.empty(len(photons), dtype=np.int64)
    group, sum_photons = 0, 0.0
    for i, count in enumerate(photons):
        groups[i] = group
        sum_photons += count
        if sum_photons >= _FEWEST_PHOTONS:
            group, sum_photons = group + 1, 0.0
    # What is left at the far end joins the last full group
    if group > 0 and sum_photons < _FEWEST_PHOTONS:
        groups[groups == group] = group - 1
    return groups


def _adapted(
    total: np.ndarray, weight: np.ndarray, mean: np.ndarray, error: np.ndarray, smooth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct a smooth background in blocks of pixels that contradict it, large blocks first.

    A block's counts replace those of the model where the two differ by more than chance would
    make one block in all the panel differ (Poisson deviance against the universal threshold 2 ln
    N of wavelet smoothing: Donoho & Johnstone, Biometrika 81, 425 (1994), with some margin).

    Args:
        total: photons, weight: dose of each pixel, 0 where it is not usable
        mean, error: the model and its standard deviation, photons per unit of dose
        smooth: (n_slow, n_fast) bool, pixels that large blocks go by

    Returns:
        (mean, error, (n_slow, n_fast) bool: pixels that small blocks corrected)
    """
    corrected = np.zeros(mean.shape, dtype=bool)
    if not np.isfinite(mean).all():
        return mean, error, corrected
    model = mean.astype(np.float64)
    relative = np.divide(error, mean, out=np.zeros_like(error), where=mean > 0).astype(np.float64)
    for block in _BLOCKS:
        of_pixels = smooth if block > _SMALL else 1.0
        photons = np.maximum(_block_sums(total * of_pixels, block), 0.0)
        expected = _block_sums(model * weight * of_pixels, block)
        n_blocks = max(2, np.count_nonzero(expected))
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithm = np.where(photons > 0, photons * np.log(photons / expected), 0.0)
            deviance = 2 * (logarithm - (photons - expected))
            wrong = (expected > 0) & (deviance > 2 * np.log(n_blocks) + _MARGIN)
            factor = np.where(wrong, photons / expected, 1.0)
            of_block = 1 / np.sqrt(photons + 1)
        model *= _spread_out(factor, block, model.shape)
        wrong = _spread_out(wrong, block, model.shape)
        if block <= _SMALL:
            corrected |= wrong
        relative[wrong] = _spread_out(of_block, block, model.shape)[wrong]
    return model.astype(np.float32), (model * relative).astype(np.float32), corrected


def _block_sums(values: np.ndarray, block: int) -> np.ndarray:
    """Sums over blocks x blocks pixels, those at the far edges cut short."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], block), axis=0)
    return np.add.reduceat(rows, np.arange(0, values.shape[1], block), axis=1)


def _spread_out(values: np.ndarray, block: int, shape: tuple[int, int]) -> np.ndarray:
    """Inverse of _block_sums: every pixel gets its block's value."""
    wide = np.repeat(np.repeat(values, block, axis=0), block, axis=1)
    return wide[: shape[0], : shape[1]]
