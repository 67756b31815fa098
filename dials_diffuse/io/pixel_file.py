"""Read and write corrected diffuse pixels in HDF5 files with a group for each still.

Layout (version 1)::

    /                     attributes: format "dials_diffuse corrected pixels", version
    /still_000000         attributes: identifier, image, exposure_time (s)
        q                 (N, 3) float32, 1/Angstrom, lab frame, |q| = 1/d
        intensity         (N,) float32, photons/(s sr), background subtracted
        sigma             (N,) float32, its standard deviation by the photons observed
        panel             (N,) uint16
        fast, slow        (N,) uint16, pixel, counted from 0
    /still_000001 ...

The datasets are compressed (gzip, shuffled) and chunked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from dials_diffuse.io.atomic import replacing

FORMAT = "dials_diffuse corrected pixels"
VERSION = 1
_CHUNK = 1 << 16


@dataclass(frozen=True)
class CorrectedDiffusePixelList:
    """The usable diffuse pixels of one still, corrected.

    Attributes:
        q: (N, 3) float32, 1/Angstrom, lab frame
        intensity, sigma: (N,) float32, photons/(s sr)
        panel, fast, slow: (N,) uint16; the pixel's centre is at fast + 0.5, slow + 0.5
    """

    q: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    panel: np.ndarray
    fast: np.ndarray
    slow: np.ndarray

    def __len__(self) -> int:
        return len(self.intensity)

    @classmethod
    def joined(cls, parts: list[CorrectedDiffusePixelList]) -> CorrectedDiffusePixelList:
        """The pixels of several panels as one list."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


class PixelFileWriter:
    """Adds stills to an open HDF5 file."""

    def __init__(self, handle):
        self._handle = handle
        self._handle.attrs["format"] = FORMAT
        self._handle.attrs["version"] = VERSION
        self._count = 0

    def add(
        self, pixels: CorrectedDiffusePixelList, identifier: str, image: str, exposure_time: float
    ) -> None:
        """Write the pixels of the next still."""
        group = self._handle.create_group(f"still_{self._count:06d}")
        self._count += 1
        group.attrs["identifier"] = identifier
        group.attrs["image"] = image
        group.attrs["exposure_time"] = exposure_time
        for item in fields(pixels):
            data = getattr(pixels, item.name)
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            if len(data):
                packed["chunks"] = (min(len(data), _CHUNK), *data.shape[1:])
            group.create_dataset(item.name, data=data, maxshape=(None, *data.shape[1:]), **packed)


@contextlib.contextmanager
def pixel_file(path: str | os.PathLike) -> Iterator[PixelFileWriter]:
    """Open a new pixel file; it gets its name when the block ends without an error.

    Raises:
        ValueError: the folder can't be written to.
    """
    import h5py

    with replacing(path) as temporary, h5py.File(temporary, "w") as handle:
        yield PixelFileWriter(handle)


def read_pixels(path: str | os.PathLike) -> Iterator[tuple[str, CorrectedDiffusePixelList]]:
    """The stills of a pixel file, one after the other.

    Yields:
        (experiment identifier, CorrectedDiffusePixelList)

    Raises:
        ValueError: not such a file.
    """
    import h5py

    try:
        handle = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"Can't read {path}: {error}") from error
    with handle:
        if handle.attrs.get("format") != FORMAT:
            raise ValueError(f"{path} is not a file of corrected pixels")
        for name in sorted(handle):
            group = handle[name]
            yield (
                group.attrs["identifier"],
                CorrectedDiffusePixelList(
                    *(group[item.name][()] for item in fields(CorrectedDiffusePixelList))
                ),
            )
