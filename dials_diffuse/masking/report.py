"""The report of dials.diffuse_mask: what the masks remove, the size of the spots, example images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from dials.util import tabulate

from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.io.model_copy import models_to_json
from dials_diffuse.masking.bright.features import RegionCounts
from dials_diffuse.masking.bright.rings import N_RINGS
from dials_diffuse.masking.image_check import MANY_PANELS, ImageCheck, picture_size
from dials_diffuse.masking.pixels.sums import PixelSums
from dials_diffuse.masking.result import MaskResult
from dials_diffuse.masking.spots.prediction import detector_d_min
from dials_diffuse.masking.spots.size import SizeFit
from dials_diffuse.report import plotly
from dials_diffuse.report.html import ReportSection
from dials_diffuse.report.picture import image_with_masks

logger = logging.getLogger("dials.diffuse.masking.report")

# Images whose bright groups are listed one by one, at most
MANY_IMAGES = 20


def causes_table(causes: dict[str, list[np.ndarray]]) -> list[list]:
    """Pixels removed by each cause and by any of them: the worst panels, and all panels together.

    Args:
        causes: cause -> masks, a (n_slow, n_fast) bool array a panel, True = removed
    """
    masks = [*causes.values(), [np.any(panel, axis=0) for panel in zip(*causes.values())]]
    counts = np.array([[mask.sum() for mask in panel] for panel in zip(*masks)])
    pixels = np.array([mask.size for mask in masks[0]])
    worst = np.argsort(-counts[:, -1] / pixels, kind="stable")[:MANY_PANELS]
    rows = [(str(i), counts[i], pixels[i]) for i in sorted(worst)] if len(pixels) > 1 else []
    rows.append(("all", counts.sum(axis=0), pixels.sum()))
    return [["panel", *causes, "any", "% of the panel"]] + [
        [label, *map(int, numbers), f"{100 * numbers[-1] / size:.2f}"]
        for label, numbers, size in rows
    ]


def checks_table(checks: Sequence[ImageCheck]) -> list[list]:
    """A row for each image that was compared with its mask."""
    rows = [
        [
            "image",
            "% under Bragg",
            "untrusted pixels",
            "bright groups at nodes, before",
            "after",
            "brightest (sigma), before",
            "after",
            "Bragg photons seen outside (%)",
        ]
    ]
    for check in checks:
        steps = check.before, check.after
        rows.append(
            [
                check.path.rsplit("/", 1)[-1],
                f"{100 * check.bragg:.1f}",
                check.untrusted,
                *(sum(groups.number for groups in step) for step in steps),
                *(f"{max(groups.brightest for groups in step):.1f}" for step in steps),
                f"{100 * check.seen_outside:.2g}",
            ]
        )
    return rows


def images_table(result: MaskResult) -> list[list]:
    """Rows of the table of images: those masked and those left out."""
    masked = len(group_by_image(stills_of(result.experiments)))
    return [
        ["images masked", "left out: several lattices", "images or stills not used"],
        [masked, result.multi_lattice, len(result.failures)],
    ]


def bright_table(counts: Mapping[str, RegionCounts]) -> list[list]:
    """Bright groups that no lattice explains: the images with most of them, and all images together.

    Args:
        counts: path of an image -> numbers of its regions
    """
    total = sum(counts.values(), RegionCounts())
    worst = sorted(counts, key=lambda path: -counts[path].found)[:MANY_IMAGES]
    rows = [(path.rsplit("/", 1)[-1], counts[path]) for path in counts if path in worst]
    header = ["image", "found", "kept (the crystal's)", "% kept", "masked", "next to a node"]
    return [header] + [
        [
            name,
            count.found,
            count.kept,
            f"{100 * count.kept / max(count.found, 1):.1f}",
            count.found - count.kept,
            count.near,
        ]
        for name, count in [*rows, (f"all {len(counts)}", total)]
    ]


def spots_per_still(result: MaskResult) -> list[int]:
    """Number of Bragg rows of every still."""
    ids = as_numpy(result.reflections["id"])
    return np.bincount(ids[ids >= 0], minlength=len(result.experiments)).tolist()


def numbers(result: MaskResult) -> dict:
    """The content of the JSON file."""
    content = {
        "pixels_removed": causes_table(result.causes),
        "spots_per_still": spots_per_still(result),
        "failures": result.failures,
        "multi_lattice_images_left_out": result.multi_lattice,
        "trusted_limit": result.trusted_limit,
    }
    if result.size_fit is not None:
        content["spot_size"] = result.size_fit.table()
    if result.bright:
        content["bright_groups"] = {path: list(count) for path, count in result.bright.items()}
    if result.checks:
        content["images"] = checks_table(result.checks)
    return {**content, "models": models_to_json(result.experiments)}


def log_result(result: MaskResult) -> None:
    """Log the tables of removed pixels and of images with their masks."""
    header, *rows = images_table(result)
    logger.info("Images:\n%s", tabulate(rows, header))
    header, *rows = causes_table(result.causes)
    logger.info("Pixels removed from every image:\n%s", tabulate(rows, header))
    if result.checks:
        header, *rows = checks_table(result.checks)
        logger.info("Images compared with their masks:\n%s", tabulate(rows, header))
    if result.bright:
        header, *rows = bright_table(result.bright)
        logger.info("Bright groups of pixels that no lattice explains:\n%s", tabulate(rows, header))
    logger.info(
        "%d spots a still (median) on %d panels",
        int(np.median(spots_per_still(result))),
        len(result.good),
    )


def sections(result: MaskResult) -> list[ReportSection]:
    """The sections of the HTML report."""
    limit = ""
    if result.trusted_limit is not None:
        limit = (
            " The trusted range of the detector model was wrong: larger values than "
            f"{result.trusted_limit:.10g} mark overloads and gaps."
        )
    parts = [
        ReportSection("Images", tables=[images_table(result)]),
        ReportSection(
            "Pixels removed from every image",
            "Several causes may remove the same pixel. The column any counts it once." + limit,
            tables=[causes_table(result.causes)],
        ),
    ]
    if result.size_fit is not None:
        parts.append(
            ReportSection(
                "Size of Bragg spots",
                "Standard deviations were measured on the images. The height is that of the mean "
                "peak, relative to the scattering around it.",
                tables=[result.size_fit.table()],
                plots={"spot_size": _size_plot(result.size_fit)},
            )
        )
    if result.bright:
        parts.append(
            ReportSection(
                "Bright groups that no lattice explains",
                "Groups that are bright at the same h on other stills, or at the same distance from "
                "other nodes, are sharp features of the crystal (satellites, rods) and are kept. The "
                "others are masked, with those next to a node, where another domain may have its spots.",
                tables=[bright_table(result.bright)],
            )
        )
    if result.checks:
        still = stills_of(result.experiments)[0]
        q = (np.arange(N_RINGS) + 0.5) / N_RINGS / detector_d_min(still.detector, still.beam)
        parts.append(
            ReportSection(
                "Images with their masks",
                "Dark pixels have many counts. Blue pixels are bad in every image or untrusted. "
                "Orange pixels are under Bragg spots. A bright group is 3 x 3 pixels whose mean is "
                "more than 10 robust standard deviations above their resolution ring.",
                tables=[checks_table(result.checks)],
                plots={"radial_profile": _profile_plot(result.checks, q)},
                images={
                    f"{check.path.rsplit('/', 1)[-1]}, panel {number}": picture
                    for check in result.checks
                    for number, picture in check.pictures.items()
                },
            )
        )
    if result.survey is not None:
        parts.append(_mean_image(result.survey.pixels, result.good))
    if result.failures:
        table = [["image or still", "reason"], *map(list, result.failures.items())]
        parts.append(ReportSection("Images and stills that are not used", tables=[table]))
    return parts


def _mean_image(sums: PixelSums, good: Sequence[np.ndarray]) -> ReportSection:
    panels = list(zip(sums.total, sums.valid, good))[:MANY_PANELS]
    return ReportSection(
        "Mean image",
        f"The mean of {sums.images} images without Bragg spots. Dark pixels have many counts. Blue "
        "pixels are removed from every image.",
        images={
            f"panel {number}": image_with_masks(
                total / np.maximum(valid, 1), ~mask | (valid == 0), None, picture_size(len(good))
            )
            for number, (total, valid, mask) in enumerate(panels)
        },
    )


def _lines(x, named: dict[str, np.ndarray], mode: str = "lines") -> list[dict]:
    """Lines over |q|, which is rounded to 1e-4/A."""
    x = plotly.rounded(np.round(x, 4))
    return [{**plotly.line(name, [], y, mode, digits=4), "x": x} for name, y in named.items()]


def _size_plot(fit: SizeFit) -> dict:
    lines = {"radial": fit.radial, "tangential": fit.tangential, "along s1": fit.excitation}
    title = "Standard deviation of Bragg spots"
    return plotly.plot(
        _lines(fit.q, lines, "lines+markers"),
        plotly.axes(title, "|q| (1/A)", "sigma (1/A)", yaxis={"rangemode": "tozero"}),
        "Radial and tangential: extent of spots on the Ewald sphere, with the errors of their "
        "predicted positions. Along s1: distance of nodes from the sphere at which their spots are "
        "still seen.",
    )


def _profile_plot(checks: Sequence[ImageCheck], q: np.ndarray) -> dict:
    # Rings without pixels on one of the images are left out
    profiles = np.mean([check.profiles for check in checks], axis=0)
    seen = np.isfinite(profiles).all(axis=0)
    title = "Radial profile before and after the Bragg mask"
    return plotly.plot(
        _lines(q[seen], dict(zip(("all good pixels", "Bragg masked"), profiles[:, seen]))),
        plotly.axes(title, "|q| (1/A)", "mean value of a pixel (ADU)"),
        "The mean of the images shown. The difference between the lines is Bragg scattering. The "
        "lower line must be smooth.",
    )
