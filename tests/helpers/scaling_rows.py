"""Random rows of observations, and experiments on tilted detectors of several panels"""

from __future__ import annotations

import numpy as np

from dxtbx.model import Beam, Detector, Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials_diffuse.scaling.observations.rows import ROW
from dials_diffuse.scaling.observations.sorted_rows import RowCollector, SortedRows


def random_rows(n, n_stills=5, seed=0, **bins) -> np.ndarray:
    """(n,) of ROW, sorted by still, with some 10 photons each

    Args:
        bins: numbers of bins: radial, direction, panel, patch
    """
    rng = np.random.default_rng(seed)
    rows = np.zeros(n, dtype=ROW)
    rows["still"] = np.sort(rng.integers(0, n_stills, n))
    rows["row"] = np.arange(n)
    rows["exposure"] = rng.uniform(0.5, 1.5, n)
    rows["background"] = rng.uniform(0, 5, n)
    rows["floor"] = rows["background"] + rng.uniform(0, 1, n)
    rows["net"] = rng.poisson(10, n) - rng.uniform(0, 2, n)
    for name, number in {"radial": 6, "direction": 9, "panel": 3, "patch": 20, **bins}.items():
        rows[name] = rng.integers(0, number, n)
    return rows


def in_memory(rows: np.ndarray, voxels: np.ndarray) -> SortedRows:
    """Rows (N,) of packed voxels (N,), sorted"""
    collector = RowCollector(len(rows), len(rows))
    collector.add(rows.copy(), voxels)
    return collector.finish()


def tilted_detector(n_panels=3, seed=0) -> Detector:
    """Panels of 40 times 30 pixels of unequal sides, turned and shifted at random"""
    rng = np.random.default_rng(seed)
    detector = Detector()
    for number in range(n_panels):
        turn, _ = np.linalg.qr(np.eye(3) + 0.2 * rng.normal(size=(3, 3)))
        fast, slow = (column * np.sign(column[i]) for i, column in enumerate(turn.T[:2]))
        origin = rng.uniform(-40, 0, 3) + (30 * number, 0, -80)
        panel = detector.add_panel()
        panel.set_frame(tuple(fast), tuple(slow), tuple(origin))
        panel.set_pixel_size((0.8, 1.1))
        panel.set_image_size((40, 30))
        panel.set_trusted_range((-0.5, 1e6))
    return detector


def experiments_of(detectors, beams) -> ExperimentList:
    """One still for each detector and direct beam vector s0"""
    out = ExperimentList()
    for i, (detector, s0) in enumerate(zip(detectors, beams)):
        out.append(Experiment(identifier=f"{i}", beam=Beam(s0), detector=detector))
    return out
