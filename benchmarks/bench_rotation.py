"""A rotation series through dials.sequence_to_stills against random stills of the same exposure.

Simulates both from one crystal with the same dose, takes the series through DIALS (import, find_spots, index,
refine with a scan-varying crystal: nothing but images, cell and space group is given) and
dials.diffuse_process, the stills through dials.diffuse_process, and prints how well each
map agrees with the truth on the voxels that both measure.

    python benchmarks/bench_rotation.py                      # 90 images
    python benchmarks/bench_rotation.py --images 20 --step 2

The crystal turns while an image of the series is exposed. Stills of random orientation see more voxels, and a series
sees most of its voxels more often: so beside each correlation stands what counting noise
allows (`dials_diffuse.simulation.comparison`), and voxels are compared once all together, once with as many stills.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex
from dials.util import tabulate

import dials_diffuse.model.scaling_model  # noqa: F401
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.simulation.comparison import compare_with_truth

CELL, SPACE_GROUP = "57.9,57.9,38.1,90,90,90", "P43212"


def run(folder: Path, module: str, *arguments: str) -> None:
    """Run a command's module; SystemExit with its last words if it fails"""
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(
            f"{module} failed in {folder}: {(result.stderr or result.stdout).strip()[-2000:]}"
        )


def refine_sweep(folder: Path, images: list[Path], nproc: int) -> tuple[str, str]:
    """From images to a scan-varying crystal and strong spots with shoeboxes; names of .expt and .refl"""
    commands = "dials.command_line"
    run(folder, f"{commands}.dials_import", *map(str, images))
    run(folder, f"{commands}.find_spots", "imported.expt", f"nproc={nproc}")
    run(
        folder,
        f"{commands}.index",
        "imported.expt",
        "strong.refl",
        f"unit_cell={CELL}",
        f"space_group={SPACE_GROUP}",
    )
    run(folder, f"{commands}.refine", "indexed.expt", "indexed.refl", "scan_varying=True")
    return "refined.expt", "refined.refl"


def reduced(folder: Path):
    """(experiments, scaled, merged) of dials.diffuse_process"""
    return (
        ExperimentList.from_file(folder / "diffuse_scaled.expt", check_format=False),
        flex.reflection_table.from_file(str(folder / "diffuse_scaled.refl")),
        flex.reflection_table.from_file(str(folder / "diffuse_merged.refl")),
    )


def stills_per_voxel(merged) -> dict[tuple, int]:
    voxels, n_stills = as_numpy(merged["voxel"]), as_numpy(merged["n_stills"])
    return dict(zip(map(tuple, voxels.tolist()), n_stills.tolist()))


def shared_voxels(first, second, equal: bool) -> np.ndarray:
    """(M, 3) voxels that at least 3 stills of both saw; equal: as many of both"""
    a, b = stills_per_voxel(first), stills_per_voxel(second)
    both = [v for v in a.keys() & b.keys() if min(a[v], b[v]) >= 3 and (not equal or a[v] == b[v])]
    return np.array(sorted(both)).reshape(-1, 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=90)
    parser.add_argument("--step", type=float, default=0.5, help="degrees an image")
    parser.add_argument("--photons", type=float, default=5.0, help="mean photons a pixel")
    parser.add_argument(
        "--samples", type=int, default=10, help="angles that stand for a step; 1: no rotation"
    )
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="where to work, kept (default: a temporary folder)",
    )
    options, settings = parser.parse_known_args()  # the rest: parameters of dials.diffuse_simulate
    with tempfile.TemporaryDirectory() as temporary:
        parent = options.folder or Path(temporary)
        common = [
            f"stills={options.images}",
            f"exposure.mean_photons={options.photons}",
            f"nproc={options.nproc}",
            "crystal.unit_cell=" + CELL,
            "crystal.space_group=" + SPACE_GROUP,
            "output.html=None",
            *settings,
        ]
        turning = [
            "crystal.orientation=rotation",
            f"crystal.rotation_step={options.step}",
            f"crystal.rotation_samples={options.samples}",
        ]
        results = {}
        for name, more in {"rotation series": turning, "random stills": []}.items():
            folder = parent / name.replace(" ", "_")
            folder.mkdir(parents=True)
            run(folder, "dials_diffuse.command_line.diffuse_simulate", *common, *more)
            files = ("simulated.expt", "simulated.refl")
            if more:
                files = refine_sweep(
                    folder, sorted(folder.glob("images/still_*.cbf")), options.nproc
                )
            run(
                folder,
                "dials_diffuse.command_line.diffuse_process",
                *files,
                f"mp.nproc={options.nproc}",
                "output.html=None",
            )
            results[name] = reduced(folder)
            print(f"{name}: done", flush=True)
        merged = [result[2] for result in results.values()]
        rows = []
        for label, equal in (("both measure", False), ("as many stills", True)):
            voxels = shared_voxels(*merged, equal)
            for name, result in results.items():
                truth = parent / name.replace(" ", "_") / "truth.json"
                c = compare_with_truth(truth, *result, voxels=voxels)
                seen = as_numpy(result[2]["n_stills"])
                rows.append(
                    [
                        label,
                        name,
                        c.n_voxels,
                        int((seen >= 3).sum()),
                        f"{c.correlation:.4f}",
                        f"{c.ceiling:.4f}",
                        f"{c.anisotropic:.4f}",
                        f"{c.ceiling_anisotropic:.4f}",
                        f"{100 * c.bias:+.2f}",
                        f"{c.scales:.5f}",
                    ]
                )
    header = [
        "voxels that",
        "images",
        "compared",
        "of (3+ stills)",
        "CC truth",
        "noise allows",
        "anisotropic",
        "noise allows",
        "bias (%)",
        "CC of b",
    ]
    print(
        f"{options.images} images of {options.photons} photons a pixel, {options.step} degrees an image of the series:"
    )
    print(tabulate(rows, header, tablefmt="psql"))


if __name__ == "__main__":
    main()
