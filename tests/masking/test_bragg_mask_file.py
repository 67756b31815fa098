from __future__ import annotations

import h5py
import numpy as np
import pytest

from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.masking.bragg_mask_file import read_bragg_mask, write_bragg_masks


class Masker:
    """Gives masks of two panels, of which 13 columns fill no whole bytes."""

    def bragg(self, stills):
        rng = np.random.default_rng(stills[0].index)
        return [rng.random(size) > 0.5 for size in ((5, 13), (4, 8))]


def test_masks_are_read_as_written(pair, tmp_path):
    groups = group_by_image(stills_of(pair[0]))
    path = tmp_path / "bragg.h5"
    write_bragg_masks(path, groups, Masker())
    for number, group in enumerate(groups):
        for mask, expected in zip(read_bragg_mask(path, number), Masker().bragg(group)):
            assert np.array_equal(mask, expected)
    with pytest.raises(ValueError, match="no image 4"):
        read_bragg_mask(path, 4)
    with h5py.File(path) as handle:
        image = handle["image_00002"]
        assert image.attrs["path"] == groups[2][0].path
        assert list(image.attrs["experiments"]) == [2]
        # One bit a pixel, rows of whole bytes
        assert image["panel_000"].shape == (5, 2) and image["panel_000"].dtype == np.uint8
        assert list(image["panel_000"].attrs["shape"]) == [5, 13]


def test_a_folder_that_is_not_there(pair, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        write_bragg_masks(tmp_path / "nowhere" / "bragg.h5", [], Masker())
