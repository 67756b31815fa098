"""The files of an extraction, one batch of stills after the other."""

from __future__ import annotations

import logging
from pathlib import Path

from cctbx import sgtbx
from dxtbx.model import ExperimentList

from dials_diffuse.adapters.identifiers import name_experiments
from dials_diffuse.adapters.sweeps import is_sweep
from dials_diffuse.extraction.extractor import ExtractedStill
from dials_diffuse.extraction.observations import numbered_rows, write_derived_columns
from dials_diffuse.grid.lattice_settings import LatticeSetting, changed
from dials_diffuse.grid.reindexing import note_reindexing
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.batches import batch_name, stills_a_file
from dials_diffuse.io.model_copy import models_to_json
from dials_diffuse.io.scratch import ColumnScratch
from dials_diffuse.io.table_file import ColumnWriter
from dials_diffuse.masking.masker import Masker
from dials_diffuse.masking.spots.rows import CollectedSpots

logger = logging.getLogger("dials.diffuse.extract")


class ExtractedFiles:
    """Writes stills in batches, with their masked files where the masker makes them.

    Args:
        output: extracted output scope of dials.diffuse_extract
        grid: for the experiments
        scratch: where the observations are
        masker: of the stills
        n_stills: how many there are in all
        setting: that crystals of reindexed stills get

    Attributes:
        models: copies of the scaling models written so far, if output.json is wanted
    """

    def __init__(
        self,
        output,
        grid: VoxelGrid,
        scratch: ColumnScratch,
        masker: Masker,
        n_stills: int,
        setting: LatticeSetting | None = None,
    ):
        self._setting = setting
        self._output, self._grid, self._scratch, self._masker = output, grid, scratch, masker
        self._n_stills = n_stills
        self._batch_size: int | None = output.batch_size
        self._n_written = 0
        self.models: dict = {}
        self._rows = ColumnWriter(Path(output.reflections).absolute().parent)
        self._sweep: str | None = None
        self._start()

    def __enter__(self) -> ExtractedFiles:
        return self

    def __exit__(self, *_) -> None:
        self._rows.close()

    def _start(self) -> None:
        self._rows.close()
        self._experiments, self._spots = ExperimentList(), CollectedSpots()
        self._slots: list[int] = []
        self._operators: list[str | None] = []

    def add(self, experiment, still: ExtractedStill) -> None:
        """Add a still; those that failed stay, without rows, so that ids are those of the input.

        The images of a sweep come one after the other, and stay one experiment.
        """
        if not (is_sweep(experiment) and experiment.identifier == self._sweep):
            self._begin(experiment, still)
        columns, stored, index = None, still.observations, len(self._experiments) - 1
        if stored is not None:
            columns = self._scratch.stored(stored.slot, stored.n_rows, stored.repeated)
            self._slots.append(stored.slot)
            if self._batch_size is None and not self._n_written and not is_sweep(experiment):
                self._batch_size = stills_a_file(stored.n_rows, self._n_stills)
        self._rows.append(numbered_rows(columns, index))
        for rows, other, z in still.spots:
            self._spots.add(rows, index, z, other)
        if not is_sweep(experiment):
            self._write_if_full()

    def _begin(self, experiment, still: ExtractedStill) -> None:
        self._write_if_full()
        self._sweep = experiment.identifier if is_sweep(experiment) else None
        self._experiments.append(experiment)
        self._operators.append(still.operator)

    def _write_if_full(self) -> None:
        if self._batch_size is not None and len(self._experiments) >= self._batch_size:
            self.write()

    def write(self) -> None:
        """Write the stills that wait, if there are any."""
        if not len(self._experiments):
            return
        output = self._output
        name_experiments(self._experiments)
        self._masker.write(
            self._experiments,
            self._spots,
            self._name(output.masked_experiments),
            self._name(output.masked_reflections),
        )
        self._write_extracted(self._name(output.experiments), self._name(output.reflections))
        for slot in self._slots:
            self._scratch.free(slot)
        self._n_written += 1
        self._start()

    def _name(self, name: str) -> str:
        return batch_name(name, self._n_written, 1 if self._batch_size is None else None)

    def _write_extracted(self, expt: str, refl: str) -> None:
        attach_grid(self._experiments, self._grid)
        for experiment, xyz in zip(self._experiments, self._operators):
            if xyz is not None:
                operator = sgtbx.change_of_basis_op(xyz)
                experiment.crystal = changed(experiment.crystal, operator, self._setting)
                note_reindexing(experiment, operator)
        logger.info(
            "Saving %d observations of %d stills to %s and %s",
            self._rows.n_rows,
            len(self._experiments),
            expt,
            refl,
        )
        with replacing(expt) as new_expt, replacing(refl) as new_refl:
            self._experiments.as_file(new_expt)
            self._rows.write(new_refl, dict(enumerate(self._experiments.identifiers())))
            if self._output.derived:
                write_derived_columns(new_refl, self._experiments, self._grid)
        if self._output.json:
            self.models |= models_to_json(self._experiments)
