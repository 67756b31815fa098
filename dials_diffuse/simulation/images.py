"""Image files that dxtbx reads as it reads those of a beamline.

miniCBF (one panel normal to the beam, one image a file) and NXmx (any detector,
any number of images a file). dxtbx's own writers round the geometry to six
digits, or exist in one of its versions only. What a header can't say (gain,
pedestal, polarization) is in the experiments file.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from dxtbx.ext import compress
from scitbx import matrix

from dials_diffuse.io.atomic import replacing
from dials_diffuse.simulation.crystals import StillState
from dials_diffuse.simulation.instrument.pixels import as_flex


def file_stem(name: str, index: int) -> str:
    """Name without suffix of the file of an image, index from 0, that has one of its own."""
    return f"{name}_{index + 1:05d}"


def is_normal_to_beam(detector) -> bool:
    """True for one panel whose axes are the lab's x and -y, as miniCBF supposes."""
    if len(detector) != 1:
        return False
    axes = detector[0].get_fast_axis(), detector[0].get_slow_axis()
    return np.allclose(axes, ((1, 0, 0), (0, -1, 0)), rtol=0, atol=1e-6)


def write_minicbf(path: str | Path, image: np.ndarray, detector, still: StillState) -> None:
    """Write one image as a byte-offset compressed miniCBF.

    Args:
        path: file to write, whole or not at all.
        image: (S, F) integers.
        detector: of one panel normal to the beam.
        still: whose wavelength, dose and angles go into the header.

    Raises:
        ValueError: the detector is not such a one, or the folder can't be written to.
    """
    if not is_normal_to_beam(detector):
        raise ValueError("miniCBF holds one panel normal to the beam: use format=nexus")
    panel = detector[0]
    pixel = panel.get_pixel_size()
    centre = panel.get_beam_centre((0, 0, -1))
    data = compress(as_flex(image))
    sensor = (
        f"# Silicon sensor, thickness {panel.get_thickness() / 1000:.9f} m\r\n"
        if panel.get_thickness() > 0
        else ""
    )
    n_slow, n_fast = image.shape
    # Trusted up to Count_cutoff, the highest pixel value that still counts
    header = (
        "###CBF: VERSION 1.5\r\n\r\n"
        f"data_{Path(path).stem}\r\n\r\n"
        '_array_data.header_convention "GENERIC_MINI"\r\n'
        "_array_data.header_contents\r\n;\r\n"
        "# Detector: simulated by dials.diffuse_simulate\r\n"
        "# 1970-01-01T00:00:00.000\r\n"
        f"# Pixel_size {pixel[0] / 1000:.9e} m x {pixel[1] / 1000:.9e} m\r\n"
        f"{sensor}"
        f"# Exposure_time {still.exposure_time:.9f} s\r\n"
        f"# Exposure_period {still.exposure_time:.9f} s\r\n"
        f"# Count_cutoff {int(panel.get_trusted_range()[1])} counts\r\n"
        f"# Wavelength {still.wavelength:.9f} A\r\n"
        f"# Detector_distance {panel.get_distance() / 1000:.9f} m\r\n"
        f"# Beam_xy ({centre[0] / pixel[0]:.6f}, {centre[1] / pixel[1]:.6f}) pixels\r\n"
        f"# Transmission {still.transmission:.9f}\r\n"
        f"# Start_angle {still.start_angle:.6f} deg.\r\n"
        f"# Angle_increment {still.angle_width:.6f} deg.\r\n"
        ";\r\n\r\n"
        "_array_data.data\r\n;\r\n"
        "--CIF-BINARY-FORMAT-SECTION--\r\n"
        "Content-Type: application/octet-stream;\r\n"
        '     conversions="x-CBF_BYTE_OFFSET"\r\n'
        "Content-Transfer-Encoding: BINARY\r\n"
        f"X-Binary-Size: {len(data)}\r\n"
        "X-Binary-ID: 1\r\n"
        'X-Binary-Element-Type: "signed 32-bit integer"\r\n'
        "X-Binary-Element-Byte-Order: LITTLE_ENDIAN\r\n"
        f"Content-MD5: {base64.b64encode(hashlib.md5(data).digest()).decode()}\r\n"
        f"X-Binary-Number-of-Elements: {image.size}\r\n"
        f"X-Binary-Size-Fastest-Dimension: {n_fast}\r\n"
        f"X-Binary-Size-Second-Dimension: {n_slow}\r\n"
        "X-Binary-Size-Padding: 0\r\n\r\n"
    )
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        handle.write(header.encode("ascii"))
        handle.write(b"\x0c\x1a\x04\xd5")
        handle.write(data)
        handle.write(b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n")


# NeXus's laboratory frame (McStas) against that of imgCIF, which dxtbx uses
_TO_MCSTAS = matrix.sqr((-1, 0, 0, 0, 1, 0, 0, 0, -1))


@contextmanager
def open_nexus(path: str | Path, detector, stills: list[StillState]) -> Iterator[NexusWriter]:
    """Write an NXmx file, whole or not at all.

    Args:
        path: file to write.
        detector: dxtbx detector.
        stills: one an image; all with the same exposure time.

    Raises:
        ValueError: exposure times differ, or the folder can't be written to.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="v110") as handle:
        yield NexusWriter(handle, detector, stills)


def _group(parent, name: str, nx_class: str):
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _with_units(group, name: str, value, units: str) -> None:
    group[name] = value
    group[name].attrs["units"] = units


def _axis(group, name: str, value, kind: str, vector, depends_on: str, units: str):
    """Write an axis of NXtransformations; returns its attributes, to add to."""
    group[name] = np.atleast_1d(np.asarray(value, dtype=float))
    attributes = group[name].attrs
    attributes["transformation_type"] = kind
    attributes["vector"] = np.array(vector, dtype=float)
    attributes["depends_on"] = depends_on
    attributes["units"] = units
    return attributes


class NexusWriter:
    """An NXmx file, written image by image.

    All frames of the detector's hierarchy are NXtransformations, so that dxtbx
    makes the same hierarchy (each panel in a group of its own). The panels'
    pixels lie one below the other in one image.

    Args:
        handle: open, empty file.
        detector: dxtbx detector.
        stills: one an image; all with the same exposure time.
    """

    def __init__(self, handle: h5py.File, detector, stills: list[StillState]):
        if len({still.exposure_time for still in stills}) != 1:
            raise ValueError("images of one NXmx file have one exposure time")
        sizes = [panel.get_image_size() for panel in detector]
        self._starts = np.concatenate([[0], np.cumsum([size[1] for size in sizes])])
        width = max(size[0] for size in sizes)
        self._next = 0
        entry = _group(handle, "entry", "NXentry")
        entry["definition"] = "NXmx"
        entry["start_time"] = "1970-01-01T00:00:00Z"
        entry["end_time_estimated"] = "1970-01-01T00:00:00Z"
        source = _group(entry, "source", "NXsource")
        source["name"] = "simulation"
        instrument = _group(entry, "instrument", "NXinstrument")
        instrument["name"] = "dials.diffuse_simulate"
        beam = _group(instrument, "beam", "NXbeam")
        wavelengths = [still.wavelength for still in stills]
        if len(set(wavelengths)) == 1:
            wavelengths = wavelengths[0]
        _with_units(beam, "incident_wavelength", wavelengths, "angstrom")
        attenuator = _group(instrument, "attenuator", "NXattenuator")
        attenuator["attenuator_transmission"] = [still.transmission for still in stills]
        self._write_sample(entry, len(stills))
        self._write_detector(instrument, detector, sizes, stills[0].exposure_time)
        data = _group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        self._data = data.create_dataset(
            "data",
            (len(stills), int(self._starts[-1]), width),
            dtype="i4",
            chunks=(1, int(self._starts[-1]), width),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
        )

    def _write_sample(self, entry, n_images: int) -> None:
        # A sample that is moved, not turned: gives dxtbx one scan point an image,
        # and with it the exposure time, without pretending a rotation
        sample = _group(entry, "sample", "NXsample")
        sample["name"] = "simulated crystal"
        moves = _group(sample, "transformations", "NXtransformations")
        _axis(moves, "omega", 0.0, "rotation", (-1, 0, 0), ".", "deg")
        _axis(moves, "x", np.zeros(n_images), "translation", (1, 0, 0), f"{moves.name}/omega", "mm")
        sample["depends_on"] = f"{moves.name}/x"

    def _write_detector(self, instrument, detector, sizes, exposure_time: float) -> None:
        group = _group(instrument, "detector", "NXdetector")
        panel = detector[0]
        group["description"] = "simulated"
        group["type"] = "HPC"
        _with_units(group, "frame_time", exposure_time, "s")
        _with_units(group, "count_time", exposure_time, "s")
        group["sensor_material"] = "Si"
        # NXmx knows no ideal sensor: one of no thickness is written as thin as can be
        _with_units(group, "sensor_thickness", max(panel.get_thickness(), 1e-9) / 1000, "m")
        group["saturation_value"] = int(panel.get_trusted_range()[1])
        group["underload_value"] = int(np.ceil(panel.get_trusted_range()[0]))
        group["bit_depth_readout"] = 32
        leaves = _write_frames(group, detector)
        group["depends_on"] = (
            leaves[0] if len(detector) == 1 else f"{group.name}/transformations/frame"
        )
        for number, path in enumerate(leaves):
            module = _group(group, f"module_{number:04d}", "NXdetector_module")
            n_fast, n_slow = sizes[number]
            module["data_origin"] = np.array([self._starts[number], 0])
            module["data_size"] = np.array([n_slow, n_fast])
            pixel = detector[number].get_pixel_size()
            for name, size, vector in (
                ("fast_pixel_direction", pixel[0], (-1, 0, 0)),
                ("slow_pixel_direction", pixel[1], (0, 1, 0)),
            ):
                attributes = _axis(module, name, size, "translation", vector, path, "mm")
                attributes["offset"] = np.zeros(3)
                attributes["offset_units"] = "mm"

    def write(self, image: list[np.ndarray]) -> None:
        """Append an image: one (S, F) array of integers a panel."""
        for number, panel in enumerate(image):
            first, last = self._starts[number], self._starts[number + 1]
            self._data[self._next, first:last, : panel.shape[1]] = panel
        self._next += 1


def _angle_and_axis(rotation) -> tuple[float, object]:
    """Angle (rad) and unit axis of a rotation matrix."""
    quaternion = rotation.r3_rotation_matrix_as_unit_quaternion()
    w, vector = quaternion.elems[0], matrix.col(quaternion.elems[1:])
    if vector.length() < 1e-14:
        return 0.0, matrix.col((0, 0, 1))
    return 2 * float(np.arctan2(vector.length(), w)), vector.normalize()


def _write_frames(group, detector) -> list[str]:
    """Write the frames of the detector's hierarchy; returns the path of each panel's."""
    frames = _group(group, "transformations", "NXtransformations")
    panels: list[str] = []

    def add(node, parent: str, level: int, name: str) -> None:
        fast = matrix.col(node.get_local_fast_axis())
        slow = matrix.col(node.get_local_slow_axis())
        angle, axis = _angle_and_axis(matrix.sqr((*fast, *slow, *fast.cross(slow))).transpose())
        attributes = _axis(frames, name, angle, "rotation", _TO_MCSTAS * axis, parent, "rad")
        attributes["offset"] = np.array((_TO_MCSTAS * matrix.col(node.get_local_origin())).elems)
        attributes["offset_units"] = "mm"
        attributes["equipment"] = "detector"
        attributes["equipment_component"] = f"detector_level_{level}"
        path = f"{frames.name}/{name}"
        if node.is_panel():
            panels.append(path)
            return
        for number, child in enumerate(node):
            add(child, path, level + 1, f"{name}_{number}")

    add(detector[0] if len(detector) == 1 else detector.hierarchy(), ".", 0, "frame")
    return panels
