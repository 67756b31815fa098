"""Maps as HDF5 files with a NeXus NXdata group and h, k, l axes.

Layout (https://manual.nexusformat.org, classes NXdata and NXsample):

    /entry            NXentry, default = map
        title, program_name
        map           NXdata, signal = intensity, axes = h, k, l
            h, k, l             voxel centres in Miller indices (r.l.u.)
            intensity           float32, NaN where nothing was measured
            intensity_errors    its standard deviation
            ...                 further columns of the table (multiplicity, half sets ...)
        sample        NXsample: reference cell and symmetry
        grid          NXcollection: n, first voxel, limits, whether expanded; the whole
                      definition as JSON in its attribute "definition"
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from dataclasses import dataclass, field

import numpy as np

import dials_diffuse
from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.grid.expand import dense_rows
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.atomic import replacing

# Edge of a chunk of the file
CHUNK = 32
# Level of gzip; higher levels take longer and save a tenth
EFFORT = 1

_LONG_NAMES = {
    "intensity": "intensity",
    "intensity_errors": "standard deviation of the intensity",
    "n_obs": "observations merged",
    "n_stills": "stills that saw the voxel",
    "half_1": "intensity from the first half of the stills",
    "half_2": "intensity from the second half of the stills",
    "exposure": "sum of exposure",
    "masked_fraction": "share of the exposure under the Bragg mask",
    "incoherent": "incoherent scattering that was subtracted",
}


@dataclass
class DiffuseMap:
    """A map as read from a file.

    Attributes:
        grid: definition of the grid
        first: voxel of element [0, 0, 0]
        columns: name -> (n_h, n_k, n_l) array; floats are NaN and whole numbers 0 where
            nothing was measured; the standard deviation is called "sigma"
        units: name -> unit
        title: what the map shows
        expanded: True if it is the whole sphere, False for the asymmetric unit
    """

    grid: VoxelGrid
    first: np.ndarray
    columns: dict[str, np.ndarray]
    units: dict[str, str] = field(default_factory=dict)
    title: str = ""
    expanded: bool = True

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """h, k and l of the elements, in r.l.u."""
        shape = self.columns["intensity"].shape
        return tuple(
            (self.first[i] + np.arange(shape[i])) / self.grid.subdivide[i] for i in range(3)
        )

    def measured(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The measured voxels (N, 3) int32 and their values, name -> (N,)"""
        where = np.isfinite(self.columns["intensity"])
        voxel = (np.argwhere(where) + self.first).astype(np.int32)
        return voxel, {name: values[where] for name, values in self.columns.items()}


def _stored_columns(columns: dict) -> dict[str, np.ndarray]:
    """Columns as they go to file: sigma for variance, 32 bits."""
    if "intensity" not in columns:
        raise ValueError("A map needs a column intensity")
    stored = {"intensity": np.asarray(columns["intensity"], dtype=np.float32)}
    if "variance" in columns:
        sigma = np.sqrt(np.asarray(columns["variance"], dtype=float))
        stored["intensity_errors"] = sigma.astype(np.float32)
    elif "sigma" in columns:
        stored["intensity_errors"] = np.asarray(columns["sigma"], dtype=np.float32)
    for name, values in columns.items():
        if name in ("intensity", "variance", "sigma"):
            continue
        values = np.asarray(values)
        whole = np.issubdtype(values.dtype, np.integer) or values.dtype == bool
        stored[name] = values.astype(np.int32 if whole else np.float32)
    return stored


def write_map(
    path: str | os.PathLike,
    voxel: np.ndarray,
    columns: dict[str, np.ndarray],
    grid: VoxelGrid,
    title: str,
    units: str = "photons/(s sr)",
    expand: bool = True,
    n_threads: int = 1,
) -> None:
    """Write a merged table as a NeXus map.

    Memory is one int32 array of the map's shape and a few layers of it.

    Args:
        path: file to write
        voxel: (N, 3) voxels, no two equivalent
        columns: name -> (N,); "intensity", "variance" (or "sigma") and any others
            ("n_obs", "n_stills", "half_1", "half_2", ...): floats become float32 with NaN where
            unmeasured, whole numbers int32 with 0
        grid: definition of the grid
        title: what the map shows
        units: unit of intensity, sigma, half sets and incoherent part
        expand: write the whole sphere; else only the voxels of the table
        n_threads: threads for compression; the file does not depend on their number

    Raises:
        ValueError: empty or unmerged table, no intensity, folder not writable.
    """
    import h5py

    stored = _stored_columns(columns)
    rows, first = dense_rows(voxel, grid, expand=expand)
    with replacing(path) as temporary, h5py.File(temporary, "w") as handle:
        handle.attrs["default"] = "entry"
        handle.attrs["creator"] = "dials_diffuse"
        entry = _group(handle, "entry", "NXentry")
        entry.attrs["default"] = "map"
        entry["title"] = title
        entry["program_name"] = "dials_diffuse"
        entry["program_name"].attrs["version"] = dials_diffuse.__version__
        data = _group(entry, "map", "NXdata")
        data.attrs["title"] = title
        data.attrs["signal"] = "intensity"
        data.attrs["axes"] = ["h", "k", "l"]
        extra = [name for name in stored if name not in ("intensity", "intensity_errors")]
        if extra:
            data.attrs["auxiliary_signals"] = extra
        for i, name in enumerate("hkl"):
            axis = (first[i] + np.arange(rows.shape[i])) / grid.subdivide[i]
            data.create_dataset(name, data=axis)
            data[name].attrs["long_name"] = f"{name} (r.l.u.)"
            data[name].attrs["units"] = "r.l.u."
            data.attrs[f"{name}_indices"] = i
        blocks = _measured_blocks(rows)
        for name, values in stored.items():
            _write_dense(data, name, values, rows, blocks, n_threads)
            data[name].attrs["long_name"] = _LONG_NAMES.get(name, name)
            if name in ("intensity", "intensity_errors", "half_1", "half_2", "incoherent"):
                data[name].attrs["units"] = units
        _write_grid(entry, grid, first, expand)


def _group(parent, name: str, nx_class: str):
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _write_dense(
    group, name: str, values: np.ndarray, rows: np.ndarray, blocks: list, n_threads: int
) -> None:
    """values[rows], with NaN or 0 where rows is -1, block by block.

    Compression takes most of the time, and HDF5 compresses in one thread. Therefore chunks are compressed here, as
    HDF5 would do it.
    """
    empty = np.nan if values.dtype.kind == "f" else 0
    shape = tuple(min(n, CHUNK) for n in rows.shape)
    dataset = group.create_dataset(
        name,
        rows.shape,
        values.dtype,
        chunks=shape,
        compression="gzip",
        compression_opts=EFFORT,
        shuffle=True,
        fillvalue=empty,
    )
    with_empty = np.append(values, np.array([empty], dtype=values.dtype))  # row -1

    def compressed(block: tuple[slice, ...]) -> bytes:
        chunk = np.full(shape, empty, dtype=values.dtype)
        part = with_empty[rows[block]]
        chunk[tuple(slice(n) for n in part.shape)] = part
        shuffled = np.ascontiguousarray(chunk.reshape(-1, 1).view(np.uint8).T)
        # most of a chunk is often empty: runs of one byte, which this strategy looks for
        packer = zlib.compressobj(EFFORT, strategy=zlib.Z_RLE)
        return packer.compress(shuffled.data) + packer.flush()

    for block, chunk in zip(blocks, map_in_threads(compressed, blocks, n_threads)):
        dataset.id.write_direct_chunk(tuple(part.start for part in block), chunk)


def _measured_blocks(rows: np.ndarray) -> list[tuple[slice, ...]]:
    """Blocks of the size of a chunk that hold measured voxels: a file's other chunks take no space
    and read as the fill value."""
    starts = [range(0, n, CHUNK) for n in rows.shape]
    blocks = (tuple(slice(i, i + CHUNK) for i in corner) for corner in itertools.product(*starts))
    return [block for block in blocks if rows[block].max() >= 0]


def _write_grid(entry, grid: VoxelGrid, first: np.ndarray, expanded: bool) -> None:
    cell = np.array(grid.unit_cell.parameters())
    sample = _group(entry, "sample", "NXsample")
    sample["unit_cell_abc"] = cell[:3]
    sample["unit_cell_abc"].attrs["units"] = "angstrom"
    sample["unit_cell_alphabetagamma"] = cell[3:]
    sample["unit_cell_alphabetagamma"].attrs["units"] = "degree"
    collection = _group(entry, "grid", "NXcollection")
    collection.attrs["definition"] = json.dumps(grid.to_dict())
    collection["subdivide"] = np.array(grid.subdivide)
    collection["first_voxel"] = first
    collection["laue_group"] = str(grid.laue_group.info())
    collection["laue_group_hall"] = grid.to_dict()["laue_group"]
    collection["expanded"] = np.int8(expanded)
    for name in ("d_min", "d_max"):
        limit = getattr(grid, name)
        if limit is not None:
            collection[name] = float(limit)
            collection[name].attrs["units"] = "angstrom"


def read_map(path: str | os.PathLike, names: list[str] | None = None) -> DiffuseMap:
    """Read a map that write_map wrote.

    Args:
        path: file
        names: columns to read ("intensity" always comes, "sigma" is the standard
            deviation); None for all

    Raises:
        ValueError: missing, or not such a map.
    """
    import h5py

    if not os.path.isfile(path):
        raise ValueError(f"No such file: {path}")
    try:
        with h5py.File(path, "r") as handle:
            data, collection = handle["entry/map"], handle["entry/grid"]
            grid = VoxelGrid.from_dict(json.loads(collection.attrs["definition"]))
            columns, units = {}, {}
            for key, dataset in data.items():
                name = "sigma" if key == "intensity_errors" else key
                if key in "hkl" or (names is not None and name not in ("intensity", *names)):
                    continue
                columns[name] = dataset[()]
                if "units" in dataset.attrs:
                    units[name] = str(dataset.attrs["units"])
            return DiffuseMap(
                grid=grid,
                first=collection["first_voxel"][()],
                columns=columns,
                units=units,
                title=str(data.attrs.get("title", "")),
                expanded=bool(collection["expanded"][()]),
            )
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a map written by dials_diffuse ({error})") from error
