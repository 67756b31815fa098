"""Write and read the Bragg masks of all images as one HDF5 file, one bit a pixel."""

from __future__ import annotations

import os
from collections.abc import Sequence

import h5py
import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.io.atomic import replacing
from dials_diffuse.masking.masker import RowMasker


def write_bragg_masks(
    path: str | os.PathLike, groups: Sequence[Sequence[Still]], masker: RowMasker
) -> None:
    """Write the Bragg mask of every image.

    Layout: /image_00000/panel_000 etc. are uint8: the bits of each row of pixels, packed along the
    fast axis (first pixel in the highest bit); their attribute shape is (n_slow, n_fast).
    Attributes of an image: path, image_index, experiments (row ids).

    Args:
        path: of the file
        groups: stills by image
        masker: of their Bragg masks

    Raises:
        ValueError: the folder can't be written to.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as handle:
        for number, group in enumerate(groups):
            entry = handle.create_group(f"image_{number:05d}")
            entry.attrs["path"] = group[0].path
            entry.attrs["image_index"] = group[0].image_index
            entry.attrs["experiments"] = [still.index for still in group]
            for panel, mask in enumerate(masker.bragg(group)):
                data = entry.create_dataset(
                    f"panel_{panel:03d}", data=np.packbits(mask, axis=1), compression="gzip"
                )
                data.attrs["shape"] = mask.shape


def read_bragg_mask(path: str | os.PathLike, image: int) -> list[np.ndarray]:
    """Read the Bragg mask of an image, given its number in the file.

    Returns:
        a (n_slow, n_fast) bool array a panel, True = under a spot

    Raises:
        ValueError: there is no such image in the file.
    """
    with h5py.File(path, "r") as handle:
        name = f"image_{image:05d}"
        if name not in handle:
            raise ValueError(f"{path} holds no image {image}")
        return [
            np.unpackbits(data[:], axis=1, count=int(data.attrs["shape"][1])).astype(bool)
            for _, data in sorted(handle[name].items())
        ]
