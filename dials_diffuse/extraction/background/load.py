"""The background that the parameter names: a number, a map or empty shots."""

from __future__ import annotations

import os
import re
from pathlib import Path

import h5py
import numpy as np

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.images import panel_sizes
from dials_diffuse.extraction.background.empty_shots import average_of_empty_shots
from dials_diffuse.extraction.background.planes import Background
from dials_diffuse.extraction.settings import ExtractionSettings


def load_background(
    settings: ExtractionSettings, detector, usable: list[np.ndarray] | None = None
) -> Background | None:
    """Read the background that the settings name.

    Args:
        settings: whose background is a number of photons a pixel and image, an .expt of empty shots, or a map:
            an .npy of one panel, an .npz with an array a panel in the order of the panels, or an .h5 with an
            array a panel, their names in the panels' order (panel_2 before panel_10), photons a pixel
            and image; in .npz and .h5 arrays whose names end in "variance" are the variances of the others
        detector: of the stills
        usable: (n_slow, n_fast) bool a panel, pixels that the stills' masks allow; None: all

    Returns:
        the background, None where the settings name none

    Raises:
        ValueError: unreadable, or of another shape than the detector.
    """
    name = settings.background
    if name is None:
        return None
    path = Path(name)
    if path.suffix == ".expt":
        background = average_of_empty_shots(load_experiments(path), settings, usable)
    elif path.suffix in (".npy", ".npz", ".h5"):
        background = _load_map(path)
    else:
        value = _photons(name)
        background = Background(
            [np.full(size, value, dtype=np.float32) for size in panel_sizes(detector)]
        )
    background.check_shapes(detector, name)
    return background


def _photons(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(
            f"background={text} is neither a number of photons >= 0 nor an .expt of empty shots nor a map "
            "(.npy, .npz, .h5)"
        )
    return value


def _natural_order(name: str) -> list:
    """Sort key with numbers by their value: h5py lists names as text, panel_10 before panel_2."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _load_map(path: Path) -> Background:
    if not path.is_file():
        raise ValueError(f"No such file: {path}")
    try:
        if path.suffix == ".h5":
            with h5py.File(path, "r") as handle:
                arrays = {name: handle[name][()] for name in sorted(handle, key=_natural_order)}
        elif path.suffix == ".npz":
            with np.load(path) as archive:
                arrays = dict(archive)
        else:
            arrays = {"mean": np.load(path)}
        arrays = {
            name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Can't read a background map from {os.fspath(path)}: {error}") from error
    if any(array.ndim != 2 or not np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"The background map {path} must hold finite 2D arrays, one a panel")
    variances = [array for name, array in arrays.items() if name.endswith("variance")]
    mean = [array for name, array in arrays.items() if not name.endswith("variance")]
    if not variances:
        return Background(mean)
    if [array.shape for array in variances] != [array.shape for array in mean] or min(
        array.min() for array in variances
    ) < 0:
        raise ValueError(
            f"The variances in the background map {path} must be 0 or more, an array for each panel and of its size"
        )
    return Background(mean, spread=variances)
