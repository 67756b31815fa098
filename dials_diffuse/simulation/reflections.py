"""Reflection tables as dials.stills_process leaves them, for simulated stills."""

from __future__ import annotations

import numba
import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    double_column,
    int6_column,
    int_column,
    miller_index_column,
    size_t_column,
    vec3_column,
)
from dials_diffuse.simulation.crystals import Lattice, StillState
from dials_diffuse.simulation.forward import Peaks, Simulator

# Pixels between foreground and background, and width of the frame of background
GAP, FRAME = 1.0, 3


@numba.njit(cache=True)
def _sum_spots(image, trusted, centre, radius, frame, gap, out):
    """Summation integration: foreground a disc, background the frame around it.

    out: (N, 8): sum less background, its variance, mean background, foreground
    pixels, background pixels, centroid fast, slow, total of the foreground.
    """
    n_slow, n_fast = image.shape
    for n in range(centre.shape[0]):
        reach = int(np.ceil(radius[n] + gap)) + frame
        f0, s0 = int(np.floor(centre[n, 0])), int(np.floor(centre[n, 1]))
        inside = n_in = outside = n_out = 0.0
        sum_f = sum_s = weight = 0.0
        for s in range(max(0, s0 - reach), min(n_slow, s0 + reach + 1)):
            for f in range(max(0, f0 - reach), min(n_fast, f0 + reach + 1)):
                if not trusted[s, f]:
                    continue
                distance = np.hypot(f + 0.5 - centre[n, 0], s + 0.5 - centre[n, 1])
                if distance <= radius[n]:
                    inside += image[s, f]
                    n_in += 1
                    sum_f += image[s, f] * (f + 0.5)
                    sum_s += image[s, f] * (s + 0.5)
                    weight += image[s, f]
                elif distance > radius[n] + gap:
                    outside += image[s, f]
                    n_out += 1
        level = outside / n_out if n_out > 0 else 0.0
        below = level * n_in
        out[n, 0] = inside - below
        out[n, 1] = inside + (level * n_in * n_in / n_out if n_out > 0 else 0.0)
        out[n, 2] = level
        out[n, 3] = n_in
        out[n, 4] = n_out
        out[n, 5] = sum_f / weight if weight > 0 else centre[n, 0]
        out[n, 6] = sum_s / weight if weight > 0 else centre[n, 1]
        out[n, 7] = inside


def foreground_radius(peaks: Peaks, blur: float) -> np.ndarray:
    """Radius (N,), pixels, that holds a peak: 3 standard deviations and a pixel.

    Args:
        peaks: (N,) peaks.
        blur: standard deviation of the broadening on the detector, pixels.
    """
    width = np.maximum(peaks.along, peaks.across) * peaks.pixels_per_q
    return 3.0 * np.hypot(width, blur) + 1.0


def integrate(
    simulator: Simulator,
    still: StillState,
    lattice: Lattice,
    image: list[np.ndarray],
    identifier: str,
) -> flex.reflection_table:
    """The reflections of one lattice, summed on its image.

    All reflections within `bragg.predict` standard deviations of the Ewald
    sphere, flagged predicted and integrated_sum; strong and indexed besides
    where I/sigma is above `bragg.strong`. Intensities are in photons.

    Args:
        simulator: that made the still.
        still, lattice: of the experiment.
        image: the still's counts, ADU.
        identifier: of the experiment.
    """
    table = flex.reflection_table()
    table.experiment_identifiers()[0] = identifier
    peaks = simulator.peaks(still, lattice)
    settings = simulator.settings
    if peaks is None:
        return table
    keep = np.abs(peaks.excitation) <= settings.bragg.predict * peaks.sigma
    peaks = Peaks(**{name: value[keep] for name, value in vars(peaks).items()})
    n = len(peaks.hkl)
    radius = foreground_radius(peaks, settings.bragg.blur)
    sums = np.zeros((n, 8))
    detector, _ = simulator.models(still)
    for number, panel in enumerate(image):
        here = np.flatnonzero(peaks.panel == number)
        adu_low, adu_high = detector[number].get_trusted_range()
        trusted = (panel > adu_low) & (panel < adu_high)
        photons = (panel - settings.detector.pedestal) / settings.detector.gain
        part = np.zeros((len(here), 8))
        _sum_spots(photons, trusted, peaks.pixel[here], radius[here], FRAME, GAP, part)
        sums[here] = part
    measured = sums[:, 3] > 0
    partiality = np.exp(-0.5 * (peaks.excitation / peaks.sigma) ** 2)
    if settings.bragg.partiality == "ones":
        partiality = np.ones(n)
    strong = measured & (sums[:, 0] > settings.bragg.strong * np.sqrt(np.maximum(sums[:, 1], 1.0)))
    reach = (np.ceil(radius + GAP) + FRAME).astype(int)
    whole = np.floor(peaks.pixel).astype(int)
    sizes = np.array([panel.get_image_size() for panel in detector])[peaks.panel]
    low = np.maximum(whole - reach[:, None], 0)
    high = np.minimum(whole + reach[:, None] + 1, sizes)
    zeros, ones = np.zeros(n), np.ones(n)
    centroid = np.where(strong[:, None], sums[:, 5:7], peaks.pixel)
    variance = np.maximum(sums[:, 1], 1.0) / np.maximum(sums[:, 0], 1.0) ** 2
    pixel_size = np.array([panel.get_pixel_size() for panel in detector])[peaks.panel]

    table["miller_index"] = miller_index_column(peaks.hkl)
    table["id"] = int_column(zeros)
    table["panel"] = size_t_column(peaks.panel)
    table["s1"] = vec3_column(peaks.s1)
    table["xyzcal.px"] = vec3_column(np.column_stack([peaks.pixel, zeros]))
    table["xyzcal.mm"] = vec3_column(np.column_stack([peaks.millimetre, zeros]))
    table["xyzobs.px.value"] = vec3_column(np.column_stack([centroid, 0.5 * ones]))
    table["xyzobs.px.variance"] = vec3_column(
        np.column_stack([radius**2 * variance + 0.01, radius**2 * variance + 0.01, ones / 12])
    )
    shift = (centroid - peaks.pixel) * pixel_size
    table["xyzobs.mm.value"] = vec3_column(np.column_stack([peaks.millimetre + shift, zeros]))
    table["bbox"] = int6_column(
        np.column_stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1], zeros, ones])
    )
    table["d"] = double_column(1.0 / np.linalg.norm(peaks.g, axis=1))
    table["partiality"] = double_column(partiality)
    table["intensity.sum.value"] = double_column(sums[:, 0])
    table["intensity.sum.variance"] = double_column(sums[:, 1])
    table["background.mean"] = double_column(sums[:, 2])
    table["num_pixels.foreground"] = int_column(sums[:, 3])
    table["num_pixels.background"] = int_column(sums[:, 4])
    table["num_pixels.valid"] = int_column(sums[:, 3] + sums[:, 4])
    flags = table.flags
    value = np.full(n, int(flags.predicted), dtype=np.uint64)
    value[measured] |= np.uint64(int(flags.integrated_sum))
    value[strong] |= np.uint64(
        int(flags.strong) | int(flags.indexed) | int(flags.used_in_refinement)
    )
    table["flags"] = size_t_column(value)
    if settings.bragg.shoeboxes:
        table["shoebox"] = _shoeboxes(table, image, peaks, radius, settings)
    return table


def _shoeboxes(table, image, peaks: Peaks, radius: np.ndarray, settings) -> flex.shoebox:
    """Shoeboxes with photons and DIALS's mask codes."""
    from dxtbx import flumpy

    from dials.algorithms.shoebox import MaskCode

    boxes = flex.shoebox(table["panel"], table["bbox"], allocate=True)
    for number, box in enumerate(boxes):
        f0, f1, s0, s1, _, _ = box.bbox
        counts = image[int(peaks.panel[number])][s0:s1, f0:f1]
        photons = (counts - settings.detector.pedestal) / settings.detector.gain
        f, s = np.meshgrid(np.arange(f0, f1) + 0.5, np.arange(s0, s1) + 0.5)
        distance = np.hypot(f - peaks.pixel[number, 0], s - peaks.pixel[number, 1])
        # int or uint8, depending on the version of DIALS; a wrong type aborts the process
        mask_type = flumpy.to_numpy(box.mask).dtype
        mask = np.full(counts.shape, int(MaskCode.Valid), dtype=mask_type)
        mask[distance <= radius[number]] |= int(MaskCode.Foreground)
        mask[distance > radius[number] + GAP] |= int(MaskCode.Background)
        # in place, because the types of the arrays differ between versions of DIALS
        flumpy.to_numpy(box.data)[0] = photons
        flumpy.to_numpy(box.mask)[0] = mask
    return boxes
