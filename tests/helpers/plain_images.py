"""Images of plain numpy arrays, and experiments of plain dxtbx models, as files that DIALS reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList
from scitbx import matrix

from dials.array_family import flex

CELL = (40.0, 40.0, 60.0)
WAVELENGTH = 1.0


def write_smv(path: Path, pixels: np.ndarray, exposure_time: float = 1.0) -> None:
    """Write a 16-bit image with the header of an ADSC detector.

    Args:
        pixels: (n_slow, n_fast), 0 to 65535
    """
    n_slow, n_fast = pixels.shape
    fields = {
        "HEADER_BYTES": 512,
        "DIM": 2,
        "BYTE_ORDER": "little_endian",
        "TYPE": "unsigned_short",
        "SIZE1": n_fast,
        "SIZE2": n_slow,
        "PIXEL_SIZE": 0.5,
        "BIN": "1x1",
        "DETECTOR_SN": 999,
        "TIME": exposure_time,
        "DISTANCE": 100.0,
        "OSC_RANGE": 0.1,
        "PHI": 0.0,
        "OSC_START": 0.0,
        "TWOTHETA": 0.0,
        "AXIS": "phi",
        "WAVELENGTH": WAVELENGTH,
        "BEAM_CENTER_X": 0.25 * n_slow,
        "BEAM_CENTER_Y": 0.25 * n_fast,
        "DATE": "Mon Jan 01 00:00:00 2024",
    }
    text = "{\n" + "".join(f"{name}={value};\n" for name, value in fields.items()) + "}\n"
    path.write_bytes(text.encode().ljust(512) + pixels.astype("<u2").tobytes())


def flat_detector(shape, distance=100.0, pixel=0.5, trusted=(-1, 60000), two_theta=0.0):
    """One panel whose middle the beam hits, turned about the fast axis by two theta (degrees).

    Args:
        shape: (n_slow, n_fast)
    """
    n_slow, n_fast = shape
    return DetectorFactory.two_theta(
        "PAD",
        distance,
        (0.5 * pixel * n_fast, 0.5 * pixel * n_slow),
        "+x",
        "-y",
        "+x",
        two_theta,
        (pixel, pixel),
        (n_fast, n_slow),
        trusted,
    )


def crystal_at(rng, space_group="P1", cell=CELL) -> Crystal:
    """An orthogonal cell turned at random."""
    a, b, c = cell
    crystal = Crystal((a, 0, 0), (0, b, 0), (0, 0, c), space_group_symbol=space_group)
    axis = rng.normal(size=3)
    crystal.rotate_around_origin(matrix.col(axis / np.linalg.norm(axis)), rng.uniform(0, 360))
    return crystal


def write_stills(
    folder: Path, images, crystals, detector=None, beam=None, masks=None
) -> tuple[str, str]:
    """Write images and the files of experiments on them.

    Args:
        images: (n_slow, n_fast) of each image
        crystals: those on each image, a list an image, or one
        detector, beam: for all images
        masks: lookup mask file of each image, None for none

    Returns:
        names of stills.expt and stills.refl (without reflections) in the folder
    """
    folder.mkdir(parents=True, exist_ok=True)
    detector = detector or flat_detector(images[0].shape)
    beam = beam or BeamFactory.simple(WAVELENGTH)
    experiments = ExperimentList()
    for number, (pixels, several) in enumerate(zip(images, crystals)):
        path = folder / f"image_{number + 1:04d}.img"
        write_smv(path, pixels)
        imageset = ImageSetFactory.make_imageset([str(path)])
        imageset.set_detector(detector)
        imageset.set_beam(beam)
        if masks is not None and masks[number] is not None:
            imageset.external_lookup.mask.filename = str(masks[number])
        for lattice, crystal in enumerate(several if isinstance(several, list) else [several]):
            experiments.append(
                Experiment(
                    beam=beam,
                    detector=detector,
                    crystal=crystal,
                    imageset=imageset,
                    identifier=f"still-{number}-{lattice}",
                )
            )
    experiments.as_file(folder / "stills.expt")
    table = flex.reflection_table()
    table["id"] = flex.int()
    table["miller_index"] = flex.miller_index()
    for index, experiment in enumerate(experiments):
        table.experiment_identifiers()[index] = experiment.identifier
    table.as_file(str(folder / "stills.refl"))
    return "stills.expt", "stills.refl"
