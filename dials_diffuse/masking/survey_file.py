"""The survey of a mask, as a file: what masking some stills determines for all stills of a data set, and
the masks of others by it."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.images import lower_trusted_range, panel_sizes
from dials_diffuse.grid.lattice_settings import LatticeSetting, brings_together
from dials_diffuse.grid.reference_cell import common_space_group
from dials_diffuse.io.atomic import replacing
from dials_diffuse.masking.bragg_rows import bragg_rows
from dials_diffuse.masking.bright.features import CrystalFeatures
from dials_diffuse.masking.lattices import select_lattices
from dials_diffuse.masking.pixels import static
from dials_diffuse.masking.spot_predictor import SpotPredictor


@dataclass(frozen=True)
class MaskSurvey:
    """The result of masking some stills, as far as it holds for all stills of the same detector and
    crystal form.

    Attributes:
        method: bragg.method
        predictor: of the spots, None where none are predicted
        good: pixels that are good in every image, a (n_slow, n_fast) bool array a panel
        mask: file that holds the same, absolute
        space_group: symbol
        multi_lattice: bragg.multi_lattice
        trusted_limit: see MaskResult
        setting: of the lattice that most of these stills have, so that all batches take the same
        features: tells which bright groups are the crystal's; None: they are all masked
    """

    method: str
    predictor: SpotPredictor | None
    good: list[np.ndarray]
    mask: str
    space_group: str
    multi_lattice: str = "keep"
    trusted_limit: float | None = None
    setting: LatticeSetting | None = None
    features: CrystalFeatures | None = None

    @classmethod
    def from_result(cls, result, params) -> MaskSurvey:
        """The survey of stills that were masked.

        Args:
            result: MaskResult of these stills
            params: extract of dials_diffuse.phil.mask that they were masked with
        """
        return cls(
            params.bragg.method,
            result.predictor,
            result.good,
            os.path.abspath(params.output.mask),
            str(result.experiments[0].crystal.get_space_group().info()),
            params.bragg.multi_lattice,
            result.trusted_limit,
            LatticeSetting.most_frequent([e.crystal for e in result.experiments]),
            result.features,
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> MaskSurvey:
        """Read what `write` has written.

        Raises:
            ValueError: missing, or not such a file.
        """
        try:
            survey = pickle.loads(Path(path).read_bytes())
        except OSError as error:
            raise ValueError(f"Can't read survey={path}: {error.strerror}") from error
        except Exception as error:
            raise ValueError(f"survey={path} is not a file that output.survey wrote") from error
        if not isinstance(survey, cls):
            raise ValueError(f"survey={path} is not a file that output.survey wrote")
        return survey

    def write(self, path: str | os.PathLike) -> None:
        """Write a file, as a pickle like DIALS's masks."""
        with replacing(path) as temporary:
            Path(temporary).write_bytes(pickle.dumps(self, pickle.HIGHEST_PROTOCOL))

    def check(self, experiments) -> None:
        """Raises ValueError if stills are of another detector or space group."""
        crystals = [experiment.crystal for experiment in experiments]
        space_group = self.space_group
        if self.setting is None:
            space_group = str(common_space_group(crystals).info())
        elif not brings_together(self.setting, crystals):
            space_group = str(LatticeSetting.most_frequent(crystals).space_group.info())
        if space_group != self.space_group:
            raise ValueError(
                f"The crystals' space group is {space_group}, that of the survey {self.space_group}: "
                "reindex them or reduce them separately"
            )
        static.check_same_panels(experiments.imagesets())
        if panel_sizes(experiments[0].detector) != [mask.shape for mask in self.good]:
            raise ValueError(
                "The detector is not that of the survey: reduce these stills separately"
            )

    @property
    def needs_images(self) -> bool:
        """Whether masking a still by the survey reads its image"""
        return self.predictor is not None and self.predictor.settings.other_spots


@dataclass
class BatchMasks:
    """Masks of a batch.

    Attributes:
        experiments: the stills that are left
        reflections: Bragg rows of all of them
        failures: path of an image or identifier of a still -> why it is left out
    """

    experiments: ExperimentList
    reflections: flex.reflection_table
    failures: dict[str, str]


def mask_batch(experiments, reflections, params, survey: MaskSurvey) -> BatchMasks:
    """Mask stills by a survey of others.

    Args:
        experiments: with crystals; with images where survey.needs_images
        reflections: their table, or None
        params: extract of dials_diffuse.phil.mask
        survey: of stills with the same detector and symmetry

    Raises:
        ValueError: the survey is of another detector or space group.
        NothingLeft: no still could be masked.
    """
    survey.check(experiments)
    lower_trusted_range(experiments.detectors(), survey.trusted_limit)
    experiments, reflections, _ = select_lattices(
        experiments, reflections, params.bragg.multi_lattice
    )
    settings = params.nproc, survey.features
    experiments, table, failures, _ = bragg_rows(
        experiments, reflections, survey.method, survey.predictor, survey.good, *settings
    )
    static.set_lookup_mask(experiments.imagesets(), survey.good, survey.mask)
    return BatchMasks(experiments, table, failures)
