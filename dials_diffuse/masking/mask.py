"""dials.diffuse_mask's work: the global mask, and the Bragg rows of every still."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

import libtbx
from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.stills import Still, group_by_image, stills_of
from dials_diffuse.adapters.system import map_in_processes, resolve_nproc
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.reference_cell import common_space_group
from dials_diffuse.masking.bright.other_spots import OtherSpots
from dials_diffuse.masking.pixels import static
from dials_diffuse.masking.pixels.dynamic import MIN_IMAGES, judge_pixels
from dials_diffuse.masking.pixels.shadow import find_shadows
from dials_diffuse.masking.spots.painting import paint_bragg
from dials_diffuse.masking.spots.prediction import (
    CollectedSpots,
    ObservedSpots,
    SpotRows,
    detector_d_min,
    predict_spots,
    spots_table,
)
from dials_diffuse.masking.spots.shape import (
    FWHM_PER_SIGMA,
    SIGMA_TIMES_DOMAIN_SIZE,
    SpotShape,
    shape_of_model,
)
from dials_diffuse.masking.spots.size import SizeFit, fit_spot_size
from dials_diffuse.masking.survey import Survey, run_survey, spread_subset

logger = logging.getLogger("dials.diffuse.masking")

DEFAULT_N_SIGMA = 4.0
# However many pixels that costs, no more than this part of the Bragg photons is left
MOST_BRAGG_LEFT = 0.003
# Images on which the cost in pixels is measured
LOSS_IMAGES = 5
LOSS_STEPS = 6


@dataclass
class MaskResult:
    """What the command writes.

    Attributes:
        experiments: the stills that are left
        reflections: Bragg rows of all of them
        mask: tuple of flex.bool, True = good, of the pixels.mask file
        good: the same as numpy arrays
        causes: cause -> masks (True = removed by it), for the report
        survey: sums over the subset of images, or None
        size_fit: of the spots, or None
        failures: path of an image or identifier of a still -> what was wrong with it
        settings: how spots were predicted, None where they were not
    """

    experiments: object
    reflections: object
    mask: tuple
    good: list[np.ndarray]
    causes: dict[str, list[np.ndarray]]
    survey: Survey | None
    size_fit: SizeFit | None
    failures: dict[str, str] = field(default_factory=dict)
    settings: BraggSettings | None = None


@dataclass(frozen=True)
class BraggSettings:
    """How the spots of a still are predicted; picklable.

    Attributes:
        n_sigma: number, or function of |q|
        padding: pixels
        d_min: Angstrom or None
        halo_radius: 1/Angstrom, 0 for none
        size: auto, images or model
        fitted: shape measured on the images, or None
        mosaicity (rad), domain (1/Angstrom): standard deviations given by the user, or None
        bandwidth: relative, or None
        other_spots: look at every image for bright groups that no lattice explains
        floor: what may be left of a spot, as function of |q|, ADU a pixel; None where unknown
    """

    n_sigma: object
    padding: float
    d_min: float | None
    halo_radius: float
    size: str
    fitted: SpotShape | None
    mosaicity: float | None
    domain: float | None
    bandwidth: float | None
    other_spots: bool
    floor: object

    @classmethod
    def from_params(
        cls, params, fit: SizeFit | None, residual: float | None = None
    ) -> BraggSettings:
        """From the PHIL scope bragg and what the images told.

        Args:
            residual: in place of the parameter
        """
        residual = params.residual if residual is None else residual
        n_sigma = params.n_sigma
        automatic = n_sigma is None or n_sigma is libtbx.Auto
        if automatic:
            n_sigma = fit.extent(residual) if fit else DEFAULT_N_SIGMA
        return cls(
            n_sigma,
            params.padding,
            params.d_min,
            params.halo_radius if params.method == "halo" else 0.0,
            params.size,
            fit.shape if fit and (fit.reliable or params.size == "images") else None,
            None if params.mosaicity is None else np.radians(params.mosaicity) / FWHM_PER_SIGMA,
            None if params.domain_size is None else SIGMA_TIMES_DOMAIN_SIZE / params.domain_size,
            params.bandwidth,
            params.other_spots,
            fit.floor(residual) if fit and automatic else None,
        )

    def shape_of(self, experiment) -> SpotShape:
        """Spot shape of a crystal: what the user gave, else the images, else the models.

        Raises:
            ValueError: nothing is known.
        """
        model = shape_of_model(experiment)
        shape = self.fitted
        if self.size == "model" or (model and shape is None):
            shape = model
        if self.mosaicity is not None or self.domain is not None:
            angle, size = self.mosaicity, self.domain
            if angle is None:
                angle = shape.angle if shape else 0.0
            if size is None:
                size = shape.size if shape else 0.0
            shape = SpotShape.isotropic(size, angle, source="parameters")
        if shape is None:
            raise ValueError(
                "The images show no Bragg spots to measure and the crystal model holds no "
                "mosaicity: give bragg.mosaicity and bragg.domain_size"
            )
        return shape if self.bandwidth is None else shape.changed(along=self.bandwidth)

    def predict(self, still: Still, spots=None) -> SpotRows:
        """The ellipses of a still.

        Args:
            spots: (miller_index (N, 3), counts (N,)) of its integrated reflections, or None

        Raises:
            ValueError: the size of its spots is not known.
        """
        return predict_spots(
            still,
            self.shape_of(still.experiment),
            self.n_sigma,
            self.padding,
            self.d_min,
            self.halo_radius,
            ObservedSpots(*spots, self.floor) if spots and self.floor else None,
        )


def integrated_spots(reflections, stills: list[Still]) -> dict:
    """Index of a still -> (miller_index (N, 3), counts (N,)) of its integrated reflections,
    or None where the table does not hold them."""
    if reflections is None or not {"id", "miller_index", "intensity.sum.value"} <= set(
        reflections.keys()
    ):
        return {still.index: None for still in stills}
    done = as_numpy(reflections.get_flags(reflections.flags.integrated_sum))
    ids = as_numpy(reflections["id"])[done]
    order = np.argsort(ids, kind="stable")
    indices = as_numpy(reflections["miller_index"])[done][order]
    counts = as_numpy(reflections["intensity.sum.value"])[done][order]
    wanted = [still.index for still in stills]
    first, last = (np.searchsorted(ids[order], wanted, side) for side in ("left", "right"))
    return {i: (indices[a:b], counts[a:b]) for i, a, b in zip(wanted, first, last)}


def choose_residual(params, fit: SizeFit | None, groups, reflections, good) -> float:
    """How far spots are masked: the parameter residual, or the least above it that costs no
    more than max_loss of the good pixels; but at most one that leaves MOST_BRAGG_LEFT.

    Args:
        params: PHIL scope bragg
        groups: stills by image
        reflections: integrated ones, or None
        good: pixels good in every image
    """
    automatic = params.n_sigma is None or params.n_sigma is libtbx.Auto
    if fit is None or not automatic:
        return params.residual
    n_good = sum(int(mask.sum()) for mask in good)
    sizes = [mask.shape for mask in good]
    sample = spread_subset(groups, LOSS_IMAGES)
    spots = integrated_spots(reflections, [still for group in sample for still in group])

    def loss(residual):
        settings = BraggSettings.from_params(params, fit, residual)
        lost = []
        for group in sample:
            try:
                rows = SpotRows.joined([settings.predict(s, spots[s.index]) for s in group])
            except (ValueError, RuntimeError, np.linalg.LinAlgError):
                continue
            painted = paint_bragg(spots_table(rows, 0, 0.5), sizes)
            lost.append(sum(int((a & b).sum()) for a, b in zip(painted, good)) / n_good)
        return np.mean(lost) if lost else 0.0

    if loss(params.residual) <= params.max_loss:
        return params.residual
    steps = np.geomspace(params.residual, 1.0, 200)
    left = np.array([fit.bragg_left(step, params.padding) for step in steps])
    highest = steps[left <= max(MOST_BRAGG_LEFT, left[0])][-1]
    low, high = params.residual, highest
    if loss(high) <= params.max_loss:
        for _ in range(LOSS_STEPS):
            middle = np.sqrt(low * high)
            low, high = (low, middle) if loss(middle) <= params.max_loss else (middle, high)
    logger.info(
        "At bragg.residual=%g more than %g %% of the pixels would be under Bragg spots "
        "(bragg.max_loss): masking until they have fallen to %.3g of the scattering around them",
        params.residual,
        100 * params.max_loss,
        high,
    )
    return float(high)


# For the worker processes that look at images
_other_spots: OtherSpots | None = None


def _start_worker(good, padding) -> None:
    global _other_spots
    _other_spots = OtherSpots(good, padding) if good else None


def _predict(task):
    """Rows of the stills on one image, rows of what else is bright there, and reasons of failures."""
    group, spots, settings = task
    rows, reasons = [], []
    for still, observed in zip(group, spots):
        try:
            rows.append(settings.predict(still, observed))
            reasons.append(None)
        except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
            rows.append(SpotRows.none())
            reasons.append(str(error))
    others, unread = SpotRows.none(), None
    if settings.other_spots:
        try:
            others = _other_spots.find(group, rows)
        except ValueError as error:
            unread = str(error)
    return [part.for_table() for part in rows], reasons, others.for_table(), unread


def bragg_rows(stills: list[Still], reflections, settings: BraggSettings, good, nproc: int):
    """The table of Bragg rows of all stills, and what failed: identifier or path -> reason.

    Args:
        reflections: integrated ones, whose bright spots are masked further out, or None
        good: pixels good in every image, a (n_slow, n_fast) bool array a panel
    """
    failures = {}
    spots = integrated_spots(reflections, stills)
    groups = group_by_image(stills)
    tasks = ((g, [spots[s.index] for s in g], settings) for g in groups)
    found = map_in_processes(
        _predict,
        tasks,
        nproc,
        initializer=_start_worker,
        initargs=(good if settings.other_spots else None, settings.padding),
    )
    collected = CollectedSpots()
    for group, (rows, reasons, others, unread) in zip(groups, found):
        for still, spots_of_still, reason in zip(group, rows, reasons):
            if reason is not None:
                failures[still.experiment.identifier] = reason
            else:
                collected.add(spots_of_still, still.index, still.image_number)
        if unread is not None:
            failures[group[0].path] = unread
            logger.warning("Not looked at for other spots: %s", unread)
        else:
            collected.add(others, group[0].index, group[0].image_number, other=True)
    return _with_identifiers(collected.into_table(), stills), failures


def _with_identifiers(table, stills):
    for still in stills:
        table.experiment_identifiers()[still.index] = still.experiment.identifier
    return table


def empty_table(stills):
    """A table without rows that names the stills"""
    return _with_identifiers(spots_table(SpotRows.none(), 0, 0.5), stills)


def shoebox_rows(stills, reflections):
    """The rows of a table with shoeboxes, and no more columns than the mask needs.

    Raises:
        ValueError: there are no shoeboxes.
    """
    if reflections is None or "shoebox" not in reflections:
        raise ValueError(
            "bragg.method=shoebox needs a .refl file with shoeboxes "
            "(keep them when integrating, or use bragg.method=predicted)"
        )
    table = _with_identifiers(flex.reflection_table(), stills)
    for name in ("id", "panel", "miller_index", "xyzcal.px", "bbox", "flags", "shoebox"):
        if name in reflections:
            table[name] = reflections[name]
    return table


def select_lattices(experiments, reflections, policy: str):
    """Apply the policy for images with several lattices.

    Returns:
        (experiments, reflections), those of the images that are left

    Raises:
        ValueError: nothing is left.
    """
    groups = group_by_image(stills_of(experiments))
    several = [group for group in groups if len(group) > 1]
    if not several:
        return experiments, reflections
    if policy == "mask":
        logger.info("%d images have several lattices; all of their spots are masked", len(several))
        return experiments, reflections
    keep = [group[0].experiment for group in groups if len(group) == 1]
    logger.info("%d images with several lattices are left out", len(several))
    if not keep:
        raise ValueError("All images have several lattices: use bragg.multi_lattice=mask")
    return select_stills(keep, reflections)


def select_stills(experiments: list, reflections):
    """(ExperimentList, table) of some experiments of a longer list, and of their rows alone"""
    if reflections is not None:
        reflections = reflections.select_on_experiment_identifiers(
            [experiment.identifier for experiment in experiments]
        )
        reflections.reset_ids()
    return ExperimentList(experiments), reflections


def spots_of_another_unknown(index: int) -> str:
    """Why a still is left out whose own spots are known."""
    return f"the Bragg spots of another lattice on its image (still {index}) are not known"


def leave_out_unmasked(experiments, table, failures: dict[str, str]):
    """Leave out the images with a lattice whose Bragg spots are not known: they would pass for diffuse
    scattering, also for the other lattices.

    Args:
        table: Bragg rows of all
        failures: identifier or path -> reason; those of the other lattices are added

    Returns:
        (experiments, table) of the images that are left

    Raises:
        ValueError: none is.
    """
    keep = []
    for group in group_by_image(stills_of(experiments)):
        unknown = [still for still in group if still.experiment.identifier in failures]
        if not unknown:
            keep.extend(group)
            continue
        for still in group:
            logger.warning(
                "Still %d (%s) is left out: %s",
                still.index,
                still.path,
                failures.setdefault(
                    still.experiment.identifier, spots_of_another_unknown(unknown[0].index)
                ),
            )
    if not keep:
        raise ValueError(f"No still could be masked. {next(iter(failures.values()))}")
    if len(keep) == len(experiments):
        return experiments, table
    return select_stills([still.experiment for still in sorted(keep, key=lambda s: s.index)], table)


def look_at_images(groups, good, params, nproc) -> Survey | None:
    """The survey of a subset of the images, if anything is to be learnt from it.

    Raises:
        ValueError: none of these images can be read.
    """
    bragg = params.bragg
    want_spots = (
        bragg.method in ("predicted", "halo")
        and bragg.size != "model"
        and (bragg.mosaicity is None or bragg.domain_size is None)
    )
    if not (want_spots or params.dynamic.enable or params.dynamic.shadow):
        return None
    subset = spread_subset(groups, params.dynamic.n_images)
    still = subset[0][0]
    q_max = 1 / detector_d_min(still.detector, still.beam)
    # Half way to the next node
    window = 0.5 * min(np.linalg.norm(group[0].setting_matrix(), axis=0).min() for group in subset)
    logger.info("Looking at %d of %d images", len(subset), len(groups))
    survey = run_survey(subset, good, q_max, window, want_spots, resolve_nproc(nproc, len(subset)))
    for path, reason in survey.failures.items():
        logger.warning("Not looked at: %s", reason)
    if survey.pixels.images == 0:
        raise ValueError(f"None of the images can be used. {next(iter(survey.failures.values()))}")
    return survey


def dynamic_causes(survey: Survey, good, detector, beam, params) -> dict[str, list[np.ndarray]]:
    """cause -> masks of faulty and shadowed pixels, True = bad."""
    causes = {}
    if params.enable:
        if survey.pixels.images < MIN_IMAGES:
            logger.info(
                "%d images are too few to find hot, cold and stuck pixels (%d are needed)",
                survey.pixels.images,
                MIN_IMAGES,
            )
        causes.update(judge_pixels(survey.pixels, params.fraction))
    if params.shadow:
        known = [mask.copy() for mask in good]
        for masks in causes.values():
            for mask, bad in zip(known, masks):
                mask &= ~bad
        causes["shadow"] = find_shadows(survey.pixels, known, detector, beam)
    return causes


def make_masks(experiments, reflections, params) -> MaskResult:
    """The masks of a set of stills.

    Args:
        experiments: with crystals and images
        reflections: their table, or None
        params: extract of dials_diffuse.phil.mask

    Raises:
        ValueError: input that can't be used, or nothing is left of the detector.
    """
    stills_of(experiments)
    common_space_group([experiment.crystal for experiment in experiments])
    bragg = params.bragg
    experiments, reflections = select_lattices(experiments, reflections, bragg.multi_lattice)
    stills = stills_of(experiments)
    groups = group_by_image(stills)
    imagesets = experiments.imagesets()
    static.check_same_panels(imagesets)
    causes = {
        "detector and lookup mask": static.lookup_masks(imagesets),
        "parameters": static.parameter_mask(imagesets[0], params),
    }
    causes = {cause: [~mask for mask in masks] for cause, masks in causes.items()}
    good = _remaining(causes)
    nproc = resolve_nproc(params.nproc)

    survey = look_at_images(groups, good, params, nproc)
    failures = dict(survey.failures) if survey else {}
    fit = None
    if survey:
        fit = fit_spot_size(survey.spots)
        found = dynamic_causes(survey, good, stills[0].detector, stills[0].beam, params.dynamic)
        causes.update(found)
        good = _remaining(causes)

    settings = None
    if bragg.method == "none":
        table = empty_table(stills)
    elif bragg.method == "shoebox":
        table = shoebox_rows(stills, reflections)
    else:
        if bragg.size == "images" and fit is None:
            raise ValueError(
                "The images show no Bragg spots to measure their size: use bragg.size=model or "
                "give bragg.mosaicity and bragg.domain_size"
            )
        residual = choose_residual(bragg, fit, groups, reflections, good)
        settings = BraggSettings.from_params(bragg, fit, residual)
        log_size(fit, settings, stills[0])
        if fit is not None:
            logger.info(
                "About %.2g %% of the Bragg photons are left",
                100 * fit.bragg_left(residual, bragg.padding),
            )
        table, failed = bragg_rows(stills, reflections, settings, good, min(nproc, len(groups)))
        experiments, table = leave_out_unmasked(experiments, table, failed)
        failures.update(failed)
    as_flex = static.set_lookup_mask(imagesets, good, params.output.mask)
    return MaskResult(experiments, table, as_flex, good, causes, survey, fit, failures, settings)


def _remaining(causes) -> list[np.ndarray]:
    """Pixels that no cause removes.

    Raises:
        ValueError: none.
    """
    good = [~np.any(masks, axis=0) for masks in zip(*causes.values())]
    if not any(mask.any() for mask in good):
        worst = max(causes, key=lambda cause: sum(mask.sum() for mask in causes[cause]))
        raise ValueError(
            f"The masks leave no pixel of the detector; most go by: {worst}. "
            "Check the lookup mask, d_min, d_max, border, untrusted and dynamic"
        )
    return good


def log_size(fit: SizeFit | None, settings: BraggSettings, still: Still) -> None:
    """Log the size of the spots and where it is from."""
    from dials.util import tabulate

    if fit is not None:
        rows = fit.table()
        logger.info(
            "Standard deviations of the spots, measured on the images:\n%s",
            tabulate(rows[1:], rows[0]),
        )
    try:
        shape = settings.shape_of(still.experiment)
    except ValueError:
        return
    logger.info(
        "Spots (size from %s): mosaicity %.3f deg across, %.3f deg towards the sphere (full width at "
        "half maximum), domain size %.0f A, relative bandwidth %.5f, detector %.2f px",
        shape.source,
        *(np.degrees(np.sqrt(a)) * FWHM_PER_SIGMA for a in (shape.across[0], shape.across[2])),
        SIGMA_TIMES_DOMAIN_SIZE / max(shape.size, 1e-9),
        shape.along,
        shape.point_spread,
    )
