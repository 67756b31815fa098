"""Geometries of detectors that many stills share: computed once, and mapped into memory by all processes."""

from __future__ import annotations

import collections
import hashlib
import json
import os
from dataclasses import astuple

import numpy as np

from dials_diffuse.geometry.panel import PanelGeometry, detector_geometry
from dials_diffuse.geometry.settings import GeometrySettings
from dials_diffuse.io.json_file import write_json


def geometry_key(detector, beam, settings: GeometrySettings) -> str:
    """A name for all that a geometry depends on: equal models and settings have equal keys."""
    parts = (settings.corrections, settings.sensor, settings.flight_path)
    content = json.dumps(
        [detector.to_dict(), beam.to_dict(), settings.probe, [astuple(part) for part in parts]],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha1(content.encode()).hexdigest()


class GeometryCache:
    """Geometries that were used last, and those that an earlier process stored in a folder.

    A geometry is the list of PanelGeometry of all panels. Stored ones are mapped, so that all processes
    together hold them once.

    Args:
        settings: of the geometries
        folder: where `store` puts geometries and `get` looks for them; None: nowhere
        max_bytes: beyond this, what was used longest ago is forgotten
    """

    def __init__(
        self,
        settings: GeometrySettings,
        folder: str | os.PathLike | None = None,
        max_bytes: int = 400_000_000,
    ):
        self._settings = settings
        self._folder = folder
        self._max_bytes = max_bytes
        self._geometries: collections.OrderedDict[str, list[PanelGeometry]] = (
            collections.OrderedDict()
        )

    def get(self, detector, beam, key: str | None = None) -> list[PanelGeometry]:
        """The geometry of a detector and beam.

        Args:
            key: their geometry_key, if it is known; it takes long for many panels

        Raises:
            ValueError: see compute_panel
        """
        key = key or geometry_key(detector, beam, self._settings)
        if key not in self._geometries:
            self._geometries[key] = self._load(key) or detector_geometry(
                detector, beam, self._settings
            )
            while len(self._geometries) > 1 and self._nbytes() > self._max_bytes:
                self._geometries.popitem(last=False)
        self._geometries.move_to_end(key)
        return self._geometries[key]

    def store(self, detector, beam, key: str | None = None) -> None:
        """Compute a geometry and put it into the folder for other processes."""
        key = key or geometry_key(detector, beam, self._settings)
        panels = self.get(detector, beam, key)
        arrays = [array.ravel() for panel in panels for array in (panel.planes, panel.acceptance)]
        path = self._path(key)
        np.save(path, np.concatenate(arrays))
        # Written last: the geometry is complete where there is this file
        write_json(f"{path}.json", [list(panel.shape) for panel in panels])
        del self._geometries[key]

    def _nbytes(self) -> int:
        return sum(panel.nbytes for panels in self._geometries.values() for panel in panels)

    def _path(self, key: str) -> str:
        return os.path.join(self._folder or "", f"{key}.npy")

    def _load(self, key: str) -> list[PanelGeometry] | None:
        if self._folder is None or not os.path.exists(f"{self._path(key)}.json"):
            return None
        with open(f"{self._path(key)}.json") as handle:
            shapes = json.load(handle)
        # Private, not read-only: numba would compile everything once more for read-only arrays
        flat = np.load(self._path(key), mmap_mode="c").view(np.ndarray)
        ends = np.cumsum([4 * n_slow * n_fast for n_slow, n_fast in shapes])
        panels = []
        for shape, part in zip(shapes, np.split(flat, ends[:-1])):
            values = part.reshape(4, *shape)
            panels.append(PanelGeometry(values[:3], values[3]))
        return panels
