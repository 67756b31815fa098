"""The Bragg masks of all images in one HDF5 file, one bit a pixel."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.io.atomic import replacing
from dials_diffuse.masking.masker import RowMasker


def write_bragg_masks(
    path: str | os.PathLike, groups: Sequence[Sequence[Still]], masker: RowMasker
) -> None:
    """Write the Bragg mask of every image (a group of stills).

    Layout: /image_00000/panel_000 etc.: uint8, the bits of the rows packed along the fast
    axis (first pixel in the highest bit), attribute shape = (n_slow, n_fast); attributes
    of an image: path, image_index, experiments (row ids).

    Raises:
        ValueError: the folder can't be written to.
    """
    import h5py

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
    """The Bragg mask of an image by its number in the file, a (n_slow, n_fast) bool array
    a panel, True = under Bragg.

    Raises:
        ValueError: there is no such image in the file.
    """
    import h5py

    with h5py.File(path, "r") as handle:
        name = f"image_{image:05d}"
        if name not in handle:
            raise ValueError(f"{path} holds no image {image}")
        return [
            np.unpackbits(data[:], axis=1, count=int(data.attrs["shape"][1])).astype(bool)
            for _, data in sorted(handle[name].items())
        ]
