"""How well the merged map of simulated stills agrees with their truth.

Simulates stills, runs the commands, and prints the correlation of the map with the truth beside
what counting noise allows, for several doses and kinds of data.

    python benchmarks/bench_truth.py [--nproc 2] [--only demo]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measured import ours

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex
from dials.util import tabulate

import dials_diffuse.model.scaling_model  # noqa: F401
from dials_diffuse.simulation.comparison import compare_with_truth

CASES = {
    "demo": [],
    "0.5 photons a pixel": ["exposure.mean_photons=0.5"],
    "0.05 photons a pixel": ["exposure.mean_photons=0.05"],
    "tilted panels": ["detector.type=tilted"],
    "no Bragg spots": ["bragg.enabled=False"],
    "mosaicity 0.5 degrees": ["crystal.mosaicity=0.5"],
    "air, empty shots": ["background.air=3", "background.empty_shots=8"],
    "panel gains, sensitivity": [
        "detector.type=tilted",
        "scale.panel_spread=0.05",
        "scale.sensitivity=0.1",
    ],
    "offsets c(|q|)": ["scale.offset=0.3"],
}


def reduce_and_compare(folder: Path, settings: list[str], nproc: int):
    """(comparison, seconds of the reduction) of one simulated set"""
    ours("simulate", f"nproc={nproc}", *settings, cwd=folder)
    background = ["background=background.expt"] if (folder / "background.expt").exists() else []
    steps = {
        "mask": ["simulated.expt", "simulated.refl", f"nproc={nproc}"],
        "extract": ["diffuse_masked.expt", "diffuse_masked.refl", f"nproc={nproc}", *background],
        "grid": ["diffuse_extracted.expt", "diffuse_extracted.refl"],
        "scale": ["diffuse_gridded.expt", "diffuse_gridded.refl"],
    }
    seconds = sum(ours(step, *arguments, cwd=folder).wall for step, arguments in steps.items())
    comparison = compare_with_truth(
        folder / "truth.json",
        ExperimentList.from_file(folder / "diffuse_scaled.expt", check_format=False),
        flex.reflection_table.from_file(str(folder / "diffuse_scaled.refl")),
        flex.reflection_table.from_file(str(folder / "diffuse_merged.refl")),
    )
    return comparison, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--only", choices=list(CASES), action="append")
    options = parser.parse_args()
    rows = []
    for name in options.only or CASES:
        with tempfile.TemporaryDirectory() as folder:
            c, seconds = reduce_and_compare(Path(folder), CASES[name], options.nproc)
        rows.append(
            [
                name,
                c.n_voxels,
                f"{c.correlation:.4f}",
                f"{c.ceiling:.4f}",
                f"{c.anisotropic:.4f}",
                f"{c.ceiling_anisotropic:.4f}",
                f"{100 * c.bias:+.2f}",
                f"{c.scales:.5f}",
                f"{seconds:.0f}",
            ]
        )
        print(f"{name}: done", flush=True)
    header = [
        "stills",
        "voxels",
        "CC truth",
        "noise allows",
        "anisotropic",
        "noise allows",
        "bias (%)",
        "CC of b",
        "s",
    ]
    print(tabulate(rows, header))


if __name__ == "__main__":
    main()
