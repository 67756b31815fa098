from __future__ import annotations

import h5py
import numpy as np
import pytest

from dials_diffuse.io.pixel_file import CorrectedDiffusePixelList, pixel_file, read_pixels


def pixels(n, seed=1):
    generator = np.random.default_rng(seed)
    return CorrectedDiffusePixelList(
        q=generator.random((n, 3)).astype(np.float32),
        intensity=generator.random(n).astype(np.float32),
        sigma=generator.random(n).astype(np.float32),
        panel=generator.integers(0, 4, n).astype(np.uint16),
        fast=generator.integers(0, 2463, n).astype(np.uint16),
        slow=generator.integers(0, 2527, n).astype(np.uint16),
    )


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "pixels.h5"
    lists = {"one": pixels(70000), "none": pixels(0), "other": pixels(10, 2)}
    with pixel_file(path) as writer:
        for name, value in lists.items():
            writer.add(value, name, f"{name}.cbf", 0.5)
    found = dict(read_pixels(path))
    assert list(found) == list(lists)
    for name, value in lists.items():
        assert len(found[name]) == len(value)
        for field in ("q", "intensity", "sigma", "panel", "fast", "slow"):
            one, other = getattr(found[name], field), getattr(value, field)
            assert one.dtype == other.dtype and np.array_equal(one, other)
    with h5py.File(path) as handle:
        group = handle["still_000000"]
        assert (group.attrs["image"], group.attrs["exposure_time"]) == ("one.cbf", 0.5)
        assert all(dataset.compression == "gzip" for dataset in group.values())


def test_an_error_leaves_no_file(tmp_path):
    with (
        pytest.raises(RuntimeError, match="half way"),
        pixel_file(tmp_path / "pixels.h5") as writer,
    ):
        writer.add(pixels(10), "one", "one.cbf", 0.5)
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="text.h5"):
        next(read_pixels(tmp_path / "text.h5"))
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["data"] = [1, 2, 3]
    with pytest.raises(ValueError, match="not a file of corrected pixels"):
        next(read_pixels(tmp_path / "other.h5"))
