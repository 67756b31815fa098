"""The absolute scale of simulated stills by the whole chain, in units of the true one.

    python benchmarks/bench_absolute.py MODEL.pdb [--stills 100] [--nproc 2] [--folder FOLDER]

Simulates stills of a crystal of the model (structure factors and diffuse scattering of its atoms, which move
independently; no solvent) with air and empty shots on a detector to 0.9/A at its edges, runs the commands, and
prints every estimate of the scale over the true one, from the whole profile, from one that ends at 0.5/A, and
with the air left in; and how the absolute map lies against the truth, averaged over each voxel.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from measured import ours

import iotbx.pdb

from dials.array_family import flex
from dials.util import tabulate

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.simulation.truth import DiffuseTruth

SIMULATION = [
    "bragg.intensities=model",
    "bragg.model=model.pdb",
    "truth.composition=model",
    "truth.b_factor=18",
    "truth.solvent=0",
    "detector.distance=44",
    "detector.image_size=800,800",
    "detector.pixel_size=0.15",
    "background.air=3",
    "background.empty_shots=20",
]
COMPOSITION = [
    "composition.model=model.pdb",
    "composition.hydrogens=as_is",
    "composition.solvent_content=0",
    "output.json=absolute.json",
]
# Voxels that fewer stills have seen are left out of the comparison of maps
MIN_STILLS = 3
# Points a voxel along each axis for the mean of the truth
POINTS = 5


def reduced(folder: Path, background: list[str], nproc: int) -> None:
    """Run the commands up to the relative map."""
    ours(
        "mask", "simulated.expt", "simulated.refl", f"nproc={nproc}", "output.html=None", cwd=folder
    )
    for step, before, more in (
        ("extract", "masked", background),
        ("grid", "extracted", []),
        ("scale", "gridded", []),
    ):
        files = [f"diffuse_{before}.expt", f"diffuse_{before}.refl"]
        ours(step, *files, f"nproc={nproc}", "output.html=None", *more, cwd=folder)


def estimates(folder: Path, true_scale: float, name: str, *options: str) -> list[list[str]]:
    """Run dials.diffuse_absolute; a row an estimate"""
    files = ["diffuse_scaled.expt", "diffuse_scaled.refl", "diffuse_merged.refl"]
    ours("absolute", *files, *COMPOSITION, "output.html=None", *options, cwd=folder)
    found = json.loads((folder / "absolute.json").read_text())
    return [
        [name, key, f"{e['scale'] / true_scale:.4f}", f"{e['error'] / true_scale:.4f}"]
        + ["used" if key == found["method"] else ""]
        for key, e in found["estimates"].items()
    ]


def line_through(
    folder: Path, truth: DiffuseTruth, subdivide: int
) -> tuple[float, float, float, int]:
    """(slope, its error, offset over the mean, voxels) of the absolute map against the truth."""
    table = flex.reflection_table.from_file(str(folder / "diffuse_absolute.refl"))
    found = as_numpy(table["intensity"])
    keep = np.isfinite(found) & (as_numpy(table["n_stills"]) >= MIN_STILLS)
    # Weights by the variance would know the noise of the intensities that it is expected from
    found, weight, hkl = (
        found[keep],
        as_numpy(table["exposure"])[keep],
        as_numpy(table["hkl"])[keep],
    )
    expected = np.zeros(len(found))
    steps = ((np.arange(POINTS) + 0.5) / POINTS - 0.5) / subdivide
    for shift in itertools.product(steps, repeat=3):
        at = hkl + np.array(shift)
        expected += (truth.intensity(at) + truth.isotropic(truth.q(at))) / POINTS**3
    mean_x, mean_y = (np.sum(weight * v) / weight.sum() for v in (expected, found))
    spread = np.sum(weight * (expected - mean_x) ** 2)
    slope = np.sum(weight * (expected - mean_x) * (found - mean_y)) / spread
    chi2 = np.sum(weight * (found - mean_y - slope * (expected - mean_x)) ** 2) / (len(found) - 2)
    return slope, np.sqrt(chi2 / spread), (mean_y - slope * mean_x) / mean_x, len(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--stills", type=int, default=100)
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--folder", help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    symmetry = iotbx.pdb.input(str(options.model)).crystal_symmetry()
    crystal = [
        "crystal.unit_cell=" + ",".join(map(str, symmetry.unit_cell().parameters())),
        f"crystal.space_group={symmetry.space_group_info()}",
    ]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        shutil.copy(options.model, folder / "model.pdb")
        simulation = [f"stills={options.stills}", f"nproc={options.nproc}", "output.html=None"]
        ours("simulate", *simulation, *crystal, *SIMULATION, cwd=folder)
        record = json.loads((folder / "truth.json").read_text())
        mean_b = np.mean([scale for still in record["stills"] for scale in still["scales"]])
        true_scale = 1 / (record["photons_per_electron2"] * mean_b)
        reduced(folder, ["background=background.expt"], options.nproc)
        rows = estimates(folder, true_scale, "to 0.5/A", "total_scattering.q_max=0.5")
        rows = estimates(folder, true_scale, "whole profile") + rows
        truth = DiffuseTruth.from_dict(record["truth"])
        slope, error, offset, n = line_through(folder, truth, 3)
        reduced(folder, [], options.nproc)
        rows += estimates(folder, true_scale, "air left in")
    print(tabulate(rows, ["data", "estimate", "scale / true", "error", ""], tablefmt="psql"))
    print(
        f"Map against truth, {n} voxels of {MIN_STILLS} or more stills: slope {slope:.4f} +- {error:.4f}, "
        f"offset {100 * offset:+.2f} % of the mean"
    )


if __name__ == "__main__":
    main()
