"""Backgrounds from numbers and maps."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from dxtbx.model import Detector, Panel

from dials_diffuse.extraction.background.load import load_background
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.phil.defaults import default_settings


def load(name, detector):
    return load_background(default_settings(ExtractionSettings, background=name), detector)


@pytest.fixture
def detector():
    """Four panels of two sizes"""
    detector = Detector()
    for size in ((20, 16), (20, 16), (12, 10), (12, 10)):
        detector.add_panel(Panel()).set_image_size(size)
    return detector


def test_no_background(detector):
    assert load(None, detector) is None


def test_a_number_a_map_and_nonsense(detector, tmp_path):
    shapes = [tuple(reversed(panel.get_image_size())) for panel in detector]
    background = load("2.5", detector)
    assert [m.shape for m in background.mean] == shapes and not background.per_dose
    assert all((m == 2.5).all() for m in background.mean)

    maps = [np.random.default_rng(i).random(shape) for i, shape in enumerate(shapes)]
    np.savez(tmp_path / "map.npz", **{f"panel_{i}": m for i, m in enumerate(maps)})
    with h5py.File(tmp_path / "map.h5", "w") as handle:
        for i, m in enumerate(maps):
            handle[f"panel_{i}"] = m
    for name in ("map.npz", "map.h5"):
        background = load(str(tmp_path / name), detector)
        assert all(np.allclose(a, b) for a, b in zip(background.mean, maps))

    np.savez(tmp_path / "map.npz", *maps, **{f"{i}_variance": m / 10 for i, m in enumerate(maps)})
    background = load(str(tmp_path / "map.npz"), detector)
    assert all(np.allclose(a, b) for a, b in zip(background.mean, maps))
    assert all(np.allclose(a, b / 10) for a, b in zip(background.spread, maps))
    assert np.allclose(background.panel(0)[1], maps[0] / 10) and background.panel(0)[2] is None
    for wrong in (-maps[0], maps[0][1:]):
        np.savez(tmp_path / "map.npz", *maps, variance=wrong)
        with pytest.raises(ValueError, match="variances in the background map"):
            load(str(tmp_path / "map.npz"), detector)

    for text in ("-1", "nan", "much"):
        with pytest.raises(ValueError, match="background"):
            load(text, detector)
    with pytest.raises(ValueError, match="No such file"):
        load(str(tmp_path / "none.npz"), detector)
    (tmp_path / "bad.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match="bad.h5"):
        load(str(tmp_path / "bad.h5"), detector)


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_panels_of_a_map_are_numbered_not_spelt(tmp_path, suffix):
    """Twelve panels of one size: their shapes would not tell that arr_10 came before arr_2."""
    detector = Detector()
    for _ in range(12):
        detector.add_panel(Panel()).set_image_size((5, 4))
    maps = [np.full((4, 5), float(i)) for i in range(12)]
    path = tmp_path / f"map.{suffix}"
    if suffix == "npz":
        np.savez(path, *maps)
    else:
        with h5py.File(path, "w") as handle:
            for i, values in enumerate(maps):
                handle[f"arr_{i}"] = values
    background = load(str(path), detector)
    assert [float(mean[0, 0]) for mean in background.mean] == list(range(12))


def test_another_image_size_is_refused(detector, tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((10, 12)))
    with pytest.raises(ValueError, match="1 panels, the detector 4"):
        load(str(tmp_path / "one.npy"), detector)
    arrays = {f"p{i}": np.zeros((10, 12)) for i in range(4)}
    np.savez(tmp_path / "four.npz", **arrays)
    with pytest.raises(ValueError, match=r"\(12, 10\) pixels on panel 0"):
        load(str(tmp_path / "four.npz"), detector)
