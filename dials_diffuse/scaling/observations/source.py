"""Gridded observations in pairs of files, read one pair at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dxtbx.model import ExperimentList

from dials_diffuse.adapters.identifiers import matched_ids
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills import check_given_once
from dials_diffuse.grid.voxel_grid import VoxelGrid, grid_of
from dials_diffuse.io.model_copy import restore_models
from dials_diffuse.io.table_file import Columns, read_columns
from dials_diffuse.scaling.observations.frames import Bins, bins_of, frames_of
from dials_diffuse.scaling.observations.rows import Part, check_columns, parts_of_table
from dials_diffuse.scaling.observations.sweep_parts import Parts, parts_of

logger = logging.getLogger("dials.diffuse.scaling.observations")


@dataclass
class ObservationSource:
    """All pairs of files. Their experiments are read once, their tables whenever they are asked for.

    A sweep counts as several stills here: its parts, see `sweep_parts`.

    Attributes:
        pairs: input files
        model_copies: JSON files to restore lost models from
        sweep_degrees: by which a crystal turns during a part of a sweep, at most
        first_stills: number of the first still of each pair
        experiments: stills and parts of sweeps of all pairs
        files: experiments of each pair as they are in its file
        grid: that all pairs share
        bins: ranges of the look-up tables of the scaling model

    Raises:
        ValueError: unreadable, no table, grid missing, or grids that differ.
    """

    pairs: Sequence[DataPair]
    model_copies: Sequence = ()
    sweep_degrees: float = 2.0
    first_stills: list[int] = field(default_factory=list)
    experiments: list = field(default_factory=list)
    grid: VoxelGrid | None = None
    files: list[ExperimentList] = field(default_factory=list)
    _parts: list[Parts] = field(default_factory=list)
    _seen: dict[str, object] = field(default_factory=dict)

    def __post_init__(self):
        for pair in self.pairs:
            self._register(pair)
        self.bins: Bins = bins_of(self.experiments, self.grid.d_min)

    def parts(
        self, number: int, readout_noise: float, everything: bool = False, n_threads: int = 1
    ) -> Iterator[Part]:
        """The rows of one pair, part by part; see rows.parts_of_table.

        Raises:
            ValueError: unreadable, not matching, or not gridded.
        """
        table = self.table(number)
        check_columns(table.columns)
        frames = frames_of(self.experiments_of(number))
        for part in parts_of_table(
            table.columns, frames, self.bins, readout_noise, everything, n_threads
        ):
            ids, z = part.rows["still"], table.columns["xyzobs.px.value"][part.rows["row"], 2]
            stills = self._parts[number].number(ids, z)
            part.rows["still"] = stills + self.first_stills[number]
            yield part

    def experiments_of(self, number: int) -> ExperimentList:
        """The experiments of one pair, as in its file."""
        return self.files[number]

    def models_of(self, number: int, models: list) -> list:
        """The scaling models of the experiments of one pair, of those of all stills and parts of sweeps."""
        first, last = [*self.first_stills, len(self.experiments)][number : number + 2]
        return self._parts[number].models(models[first:last])

    def table(self, number: int) -> Columns:
        """The table of one pair, with ids that are indices of its experiments.

        Raises:
            ValueError: unreadable, or of other experiments.
        """
        pair = self.pairs[number]
        table = read_columns(pair.reflections)
        if "id" in table.columns:
            table.columns["id"] = matched_ids(
                table.columns["id"],
                table.identifiers,
                self.experiments_of(number),
                str(pair.reflections),
                str(pair.experiments),
            )
        return table

    def _register(self, pair: DataPair) -> None:
        if pair.reflections is None:
            raise ValueError(f"There is no .refl file for {pair.experiments}")
        experiments, _ = DataPair(pair.experiments).load(check_format=False)
        for path in self.model_copies:
            restore_models(experiments, path)
        grid = grid_of(experiments)
        if self.grid is None:
            self.grid = grid
        elif grid.to_dict() != self.grid.to_dict():
            raise ValueError(
                f"{pair.experiments} carries another grid than "
                f"{self.pairs[0].experiments}: grid them together"
            )
        check_given_once(experiments, pair.experiments, self._seen)
        parts = parts_of(experiments, self.sweep_degrees)
        self.first_stills.append(len(self.experiments))
        self.experiments.extend(parts.experiments)
        self.files.append(experiments)
        self._parts.append(parts)
