"""Rows of the Bragg mask: ellipses on panels, and the reflection table that holds them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_column
from dials_diffuse.io.table_file import ColumnWriter

ELLIPSE = "mask.ellipse"


@dataclass
class SpotRows:
    """N ellipses on panels, around Bragg spots or other bright regions.

    Attributes:
        panel: (N,) int64
        miller_index: (N, 3) int32, 0 0 0 for what is no Bragg spot
        centre: (N, 2) fast, slow, pixels
        bbox: (N, 4) int32, pixels: fast first, last + 1, slow first, last + 1
        ellipse: (N, 3) a, b, c in 1/px^2: pixels with a dx^2 + 2 b dx dy + c dy^2 <= 1 are masked,
            where (dx, dy) is the displacement of their centre from that of the ellipse
        q: (N,) |r| of the node r, 1/Angstrom; None, as the next two, where it is not needed
        excitation: (N,) |s0 + r| - |s0|, distance of the node from the Ewald sphere, 1/Angstrom; of
            a node that moves during the exposure, the least
        to_pixels: (N, 2, 2) from displacements on the sphere (radial, tangential to the beam
            centre), 1/Angstrom, to pixels (fast, slow)
    """

    panel: np.ndarray
    miller_index: np.ndarray
    centre: np.ndarray
    bbox: np.ndarray
    ellipse: np.ndarray
    q: np.ndarray | None = None
    excitation: np.ndarray | None = None
    to_pixels: np.ndarray | None = None

    @classmethod
    def none(cls) -> SpotRows:
        """No rows."""
        return cls(
            np.zeros(0, np.int64),
            np.zeros((0, 3), np.int32),
            np.zeros((0, 2)),
            np.zeros((0, 4), np.int32),
            np.zeros((0, 3)),
        )

    @classmethod
    def joined(cls, parts: Sequence[SpotRows]) -> SpotRows:
        """The rows of all parts in their order; attributes that one part lacks are None."""
        if not parts:
            return cls.none()
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(
            *(
                None if any(a is None for a in column) else np.concatenate(column)
                for column in columns
            )
        )

    def for_table(self) -> SpotRows:
        """The rows without what tables do not hold, which processes need not hand over."""
        return replace(self, q=None, excitation=None, to_pixels=None)


def spot_columns(rows: SpotRows, index, z, other=False) -> dict[str, np.ndarray]:
    """Columns of a reflection table.

    Args:
        rows: N of them
        index: row id of the experiment, one or (N,)
        z: image coordinate of the still's middle, one or (N,)
        other: whether no lattice explains them, one or (N,): they are strong, others predicted
    """
    n = len(rows.panel)
    z = np.broadcast_to(z, n)
    first = np.floor(z)
    flags = flex.reflection_table.flags
    return {
        "id": np.broadcast_to(np.int32(index), n),
        "panel": rows.panel.astype(np.uint64),
        "miller_index": rows.miller_index,
        "xyzcal.px": np.column_stack([rows.centre, z]),
        "bbox": np.column_stack([rows.bbox, first, first + 1]).astype(np.int32),
        ELLIPSE: rows.ellipse,
        "flags": np.where(
            np.broadcast_to(other, n), int(flags.strong), int(flags.predicted)
        ).astype(np.uint64),
    }


def spots_table(rows: SpotRows, index, z) -> flex.reflection_table:
    """The rows of predicted spots as a reflection table; see spot_columns."""
    return _as_table(spot_columns(rows, index, z))


def _as_table(columns: dict[str, np.ndarray]) -> flex.reflection_table:
    table = flex.reflection_table()
    for name, array in columns.items():
        table[name] = as_column(array)
    return table


class CollectedSpots:
    """Collects the rows of many stills for a table or a file.

    Rows of some stills together become columns, which takes less time than still by still.
    """

    _MOST_WAITING = 200_000  # rows

    def __init__(self):
        self._waiting: list[tuple[SpotRows, int, float, bool]] = []
        self._n_waiting = 0
        self._columns = [spot_columns(SpotRows.none(), 0, 0.5)]

    def __len__(self) -> int:
        return sum(len(columns["id"]) for columns in self._columns) + self._n_waiting

    def add(self, rows: SpotRows, index: int, z: float, other: bool = False) -> None:
        """Add the rows of a still; see spot_columns."""
        self._waiting.append((rows, index, z, other))
        self._n_waiting += len(rows.panel)
        if self._n_waiting > self._MOST_WAITING:
            self._join()

    def _join(self) -> None:
        if self._waiting:
            parts, *values = zip(*self._waiting)
            numbers = [len(part.panel) for part in parts]
            values = [np.repeat(value, numbers) for value in values]
            self._columns.append(spot_columns(SpotRows.joined(parts), *values))
            self._waiting, self._n_waiting = [], 0

    def into_table(self) -> flex.reflection_table:
        """Move all rows to a reflection table, so that memory never holds them twice."""
        self._join()
        table = _as_table(self._columns.pop(0))
        while self._columns:
            table.extend(_as_table(self._columns.pop(0)))
        return table

    def write(self, path: str | os.PathLike, identifiers: Mapping[int, str]) -> None:
        """Write all rows so far as a .refl file.

        Args:
            path: of the file
            identifiers: experiment identifiers by id

        Raises:
            OSError: the disk is full, or the folder can't be written to.
        """
        self._join()
        with ColumnWriter(Path(path).absolute().parent) as writer:
            for columns in self._columns:
                writer.append(columns)
            writer.write(path, identifiers)
