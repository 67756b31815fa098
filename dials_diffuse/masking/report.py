"""What the masks removed: tables, pictures and profiles."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.images import panel_sizes, read_raw, trusted_bounds
from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.masking.bright.check import bright_groups
from dials_diffuse.masking.bright.rings import N_RINGS, RingCache, add_profile
from dials_diffuse.masking.mask import MaskResult
from dials_diffuse.masking.spots.prediction import detector_d_min, predict_spots
from dials_diffuse.masking.still_mask import StillMasker
from dials_diffuse.masking.survey import WIDEST, WIDEST_SIGMA, check_shape, spread_subset
from dials_diffuse.masking.trusted import trusted_pixels
from dials_diffuse.report.html import ReportSection
from dials_diffuse.report.picture import image_with_masks

logger = logging.getLogger("dials.diffuse.masking.report")

# Panels that are listed and pictured one by one, at most
MANY_PANELS = 16


@dataclass
class ImageCheck:
    """One image looked at with its mask.

    Attributes:
        path: of the image
        bragg: part of the good pixels under Bragg spots
        untrusted: number of pixels outside of the trusted range
        before, after: BrightGroups number without and with the Bragg mask
        brightest_before, brightest_after: robust sigma
        profiles: mean by ring without and with the Bragg mask, (2, N_RINGS)
        pictures: panel -> PNG
    """

    path: str
    bragg: float
    untrusted: int
    before: int
    after: int
    brightest_before: float
    brightest_after: float
    profiles: np.ndarray
    pictures: dict[int, bytes]


def causes_table(causes: dict[str, list[np.ndarray]]) -> list[list]:
    """Pixels removed by each cause, by panel and in all, with the union of all causes."""
    names = list(causes)
    n_panels = len(causes[names[0]])
    counts = np.array([[mask.sum() for mask in causes[name]] for name in names]).T
    union = np.array([np.any(masks, axis=0).sum() for masks in zip(*causes.values())])
    pixels = np.array([mask.size for mask in causes[names[0]]])
    rows = [["panel", *names, "any", "% of the panel"]]

    def row(label, numbers, together, of):
        return [label, *(int(n) for n in numbers), int(together), f"{100 * together / of:.2f}"]

    if n_panels > 1:
        worst = np.argsort(-union / pixels, kind="stable")[:MANY_PANELS]
        rows += [row(str(i), counts[i], union[i], pixels[i]) for i in sorted(worst)]
    rows.append(row("all", counts.sum(axis=0), union.sum(), pixels.sum()))
    return rows


def check_images(result: MaskResult, n_images: int, pictures: bool) -> list[ImageCheck]:
    """Look at some images with the masks that they got; unreadable ones are left out.

    Args:
        pictures: draw them too
    """
    stills = stills_of(result.experiments)
    groups = [g for g in group_by_image(stills) if g[0].path not in result.failures]
    masker = StillMasker(result.reflections)
    rings = RingCache()
    checks = []
    for group in spread_subset(groups, n_images) if n_images else []:
        try:
            checks.append(_check_image(group, result, masker, rings, pictures))
        except ValueError as error:
            result.failures[group[0].path] = str(error)
            logger.warning("Not looked at: %s", error)
    return checks


def _check_image(
    group, result: MaskResult, masker: StillMasker, cache: RingCache, draw: bool
) -> ImageCheck:
    still = group[0]
    raw = read_raw(still.imageset, still.image_index)
    check_shape(raw, still)
    bragg = masker.bragg(group)
    rings = cache.of(still.detector, still.beam).number
    nodes = [predict_spots(lattice, WIDEST, WIDEST_SIGMA, 0.0) for lattice in group]
    sums = np.zeros((2, N_RINGS))
    numbers = np.zeros((2, N_RINGS))
    counts = {"before": [], "after": []}
    untrusted = under = usable = 0
    pictures = {}
    for number, pixels in enumerate(raw):
        good = result.good[number]
        trusted = trusted_pixels(pixels, good, *trusted_bounds(still.detector[number]))
        untrusted += int((good & ~trusted).sum())
        under += int((trusted & bragg[number]).sum())
        usable += int(trusted.sum())
        ring = rings[number]
        centres = np.concatenate([n.centre[n.panel == number] for n in nodes])
        clear = trusted & ~bragg[number]
        for step, (name, use) in enumerate((("before", trusted), ("after", clear))):
            add_profile(pixels, use, ring, sums[step], numbers[step])
            counts[name].append(bright_groups(pixels, use, ring, centres))
        if draw and number < MANY_PANELS:
            pictures[number] = image_with_masks(
                pixels, ~trusted, bragg[number], 1000 if len(raw) == 1 else 400
            )
    with np.errstate(invalid="ignore"):
        profiles = np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
    return ImageCheck(
        still.path,
        under / max(usable, 1),
        untrusted,
        *(sum(c.number for c in counts[name]) for name in ("before", "after")),
        *(max(c.brightest for c in counts[name]) for name in ("before", "after")),
        profiles,
        pictures,
    )


def checks_table(checks: list[ImageCheck]) -> list[list]:
    """Rows of the images that were looked at."""
    rows = [
        [
            "image",
            "% under Bragg",
            "untrusted pixels",
            "bright groups at nodes, before",
            "after",
            "brightest (sigma), before",
            "after",
        ]
    ]
    for check in checks:
        rows.append(
            [
                check.path.rsplit("/", 1)[-1],
                f"{100 * check.bragg:.1f}",
                check.untrusted,
                check.before,
                check.after,
                f"{check.brightest_before:.1f}",
                f"{check.brightest_after:.1f}",
            ]
        )
    return rows


def spots_per_still(result: MaskResult) -> np.ndarray:
    """Number of Bragg rows of every still."""
    ids = as_numpy(result.reflections["id"])
    return np.bincount(ids[ids >= 0], minlength=len(result.experiments))


def make_report(
    result: MaskResult, n_images: int, pictures: bool = True
) -> tuple[list[ReportSection], dict]:
    """Sections of the HTML report, and the numbers for output.json.

    Args:
        n_images: to look at with their masks
        pictures: of these and of the mean image
    """
    from dials.util import tabulate

    removed = causes_table(result.causes)
    logger.info("Pixels removed from every image:\n%s", tabulate(removed[1:], removed[0]))
    checks = check_images(result, n_images, pictures)
    spots = spots_per_still(result)
    numbers = {
        "pixels_removed": removed,
        "spots_per_still": [int(n) for n in spots],
        "failures": result.failures,
    }
    sections = [
        ReportSection(
            "Pixels removed from every image",
            "A pixel may be removed by several causes; any counts it once.",
            tables=[removed],
        )
    ]
    if result.size_fit is not None:
        table = result.size_fit.table()
        numbers["spot_size"] = table
        sections.append(
            ReportSection(
                "Size of Bragg spots",
                "Standard deviations measured on the images, and the height of the mean peak "
                "over the scattering around it.",
                tables=[table],
                plots={"spot_size": _size_plot(result.size_fit)},
            )
        )
    if checks:
        table = checks_table(checks)
        logger.info("Images looked at with their masks:\n%s", tabulate(table[1:], table[0]))
        numbers["images"] = table
        still = stills_of(result.experiments)[0]
        q = (np.arange(N_RINGS) + 0.5) / N_RINGS / detector_d_min(still.detector, still.beam)
        sections.append(
            ReportSection(
                "Images with their masks",
                "Blue: bad in every image or untrusted; orange: Bragg. A bright group is 3 x 3 "
                "pixels more than 10 robust sigma above its resolution ring.",
                tables=[table],
                plots={"radial_profile": _profile_plot(checks, q)},
                images={
                    f"{check.path.rsplit('/', 1)[-1]}, panel {number}": picture
                    for check in checks
                    for number, picture in check.pictures.items()
                },
            )
        )
    if result.survey is not None and pictures:
        sums = result.survey.pixels
        bad = [~mask for mask in result.good]
        sections.append(
            ReportSection(
                "Mean image",
                f"Mean of {sums.images} images, Bragg spots left out; blue: removed from every image.",
                images={
                    f"panel {number}": image_with_masks(
                        total / np.maximum(valid, 1),
                        mask | (valid == 0),
                        None,
                        1000 if len(bad) == 1 else 400,
                    )
                    for number, (total, valid, mask) in enumerate(
                        zip(sums.total[:MANY_PANELS], sums.valid, bad)
                    )
                },
            )
        )
    if result.failures:
        sections.append(
            ReportSection(
                "What could not be used",
                tables=[[["image or still", "reason"], *map(list, result.failures.items())]],
            )
        )
    panels = panel_sizes(stills_of(result.experiments)[0].detector)
    logger.info(
        "%d spots a still (median) on %d panels",
        int(np.median(spots)) if len(spots) else 0,
        len(panels),
    )
    return sections, numbers


def _size_plot(fit) -> dict:
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [round(float(q), 4) for q in fit.q],
                "y": [float(f"{s:.3e}") for s in sigma],
            }
            for name, sigma in (
                ("radial", fit.radial),
                ("tangential", fit.tangential),
                ("along s1", fit.excitation),
            )
        ],
        "layout": {
            "title": "Standard deviation of Bragg spots",
            "xaxis": {"title": "|q| (1/A)"},
            "yaxis": {"title": "sigma (1/A)", "rangemode": "tozero"},
        },
        "help": "Radial and tangential: extent of spots on the Ewald sphere, errors of their "
        "predicted positions included. Along s1: how far a node may be from the sphere "
        "and still be seen.",
    }


def _profile_plot(checks: list[ImageCheck], q: np.ndarray) -> dict:
    # Rings that one of the images does not see are left out (nan)
    profiles = np.mean([check.profiles for check in checks], axis=0)
    known = np.isfinite(profiles).all(axis=0)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": [round(float(v), 4) for v in q[known]],
                "y": [float(f"{v:.4g}") for v in profile[known]],
            }
            for name, profile in zip(("all good pixels", "Bragg masked"), profiles)
        ],
        "layout": {
            "title": "Radial profile before and after the Bragg mask",
            "xaxis": {"title": "|q| (1/A)"},
            "yaxis": {"title": "mean value of a pixel (ADU)"},
        },
        "help": "Mean of the images shown. What lies between the lines is Bragg scattering; "
        "the lower line must be smooth.",
    }
