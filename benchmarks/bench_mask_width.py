"""How wide should Bragg spots be masked? Our mask against fixed ellipsoids, by the truth of the map.

Simulates stills of random orientation, masks them with bragg.n_sigma=Auto and with fixed numbers of
standard deviations, reduces each to maps of several subdivisions, and compares these with the truth:
correlation of the anisotropic part and intensity over truth by thirds of |q|, for voxels at nodes and
their face neighbours, and for all others. The comparison is plain numpy on the columns of the map.

    python benchmarks/bench_mask_width.py [--stills 60] [--mosaicity 0.05] [--domain 300] [--subdivide 3]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from measured import ours

from dials.array_family import flex
from dials.util import tabulate

from dials_diffuse.simulation.truth import DiffuseTruth

MASKS = "Auto", 2.5, 3.0, 3.5, 4.0
MOSAICITIES, DOMAINS, SUBDIVISIONS = (0.05, 0.5), (300, 1000), (2, 3, 4)
MIN_STILLS = 3


def without_mean(values: np.ndarray, shell: np.ndarray) -> np.ndarray:
    """Values (N,) less their mean in each shell (N,)."""
    return values - (np.bincount(shell, values) / np.maximum(np.bincount(shell), 1))[shell]


def against_truth(folder: Path, n: int) -> list[str]:
    """Correlations (all, nodes and neighbours, others) and intensity over truth by thirds of |q|."""
    record = json.loads((folder / "truth.json").read_text())
    merged = flex.reflection_table.from_file(str(folder / "diffuse_merged.refl"))
    hkl, voxel = (np.array(merged[name]).reshape(-1, 3) for name in ("hkl", "voxel"))
    found = np.array(merged["intensity"])
    truth = DiffuseTruth.from_dict(record["truth"])
    expected = truth.total(hkl) * record["photons_per_electron2"]
    q = truth.q(hkl)
    seen = (np.array(merged["n_stills"]) >= MIN_STILLS) & np.isfinite(found)
    found, expected, q, voxel = found[seen], expected[seen], q[seen], voxel[seen].astype(int)
    shell = np.searchsorted(np.quantile(q, np.linspace(0, 1, 21)[1:-1]), q)
    a, b = without_mean(found, shell), without_mean(expected, shell)
    near = np.abs(voxel - n * np.rint(voxel / n)).sum(axis=1) <= 1
    cells = [f"{near.sum()}/{len(near)}"]
    for part in (np.ones_like(near), near, ~near):
        cells.append(f"{np.corrcoef(a[part], b[part])[0, 1]:.4f}" if part.sum() > 10 else "")
    for part in (near, ~near):
        thirds = np.array_split(np.flatnonzero(part)[np.argsort(q[part])], 3)
        ratios = [found[rows].sum() / expected[rows].sum() for rows in thirds if len(rows)]
        cells.append(" ".join(f"{ratio:.3f}" for ratio in ratios))
    return cells


def reduce(folder: Path, mask, subdivisions, nproc: int):
    """Rows of the table for one mask: masked part of the pixels, then a row a subdivision."""
    pair = "simulated.expt", "simulated.refl"
    ours("mask", *pair, f"bragg.n_sigma={mask}", f"nproc={nproc}", cwd=folder)
    for n in subdivisions:
        pair = "diffuse_masked.expt", "diffuse_masked.refl"
        ours("extract", *pair, f"subdivide={n},{n},{n}", f"nproc={nproc}", cwd=folder)
        ours("grid", "diffuse_extracted.expt", "diffuse_extracted.refl", cwd=folder)
        ours("scale", "diffuse_gridded.expt", "diffuse_gridded.refl", cwd=folder)
        rows = flex.reflection_table.from_file(str(folder / "diffuse_gridded.refl"))
        pixels, bragg = np.array(rows["num_pixels.valid"]), np.array(rows["bragg"])
        masked = pixels[bragg].sum() / pixels.sum()
        yield [str(mask), n, f"{100 * masked:.2f}", *against_truth(folder, n)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--stills", type=int, default=60)
    parser.add_argument("--mosaicity", type=float, action="append")
    parser.add_argument("--domain", type=float, action="append")
    parser.add_argument("--subdivide", type=int, action="append")
    parser.add_argument("--settings", nargs="*", default=[], help="more of dials.diffuse_simulate")
    options = parser.parse_args()
    parts = "nodes/all", "CC", "CC at nodes", "CC others", "I/T at nodes", "I/T others"
    header = ["n_sigma", "n", "masked (%)", *parts]
    for mosaicity in options.mosaicity or MOSAICITIES:
        for domain in options.domain or DOMAINS:
            with tempfile.TemporaryDirectory() as name:
                crystal = f"crystal.mosaicity={mosaicity}", f"crystal.domain_size={domain}"
                stills = f"stills={options.stills}", f"nproc={options.nproc}"
                ours("simulate", *stills, *crystal, *options.settings, cwd=name)
                rows = [
                    row
                    for mask in MASKS
                    for row in reduce(
                        Path(name), mask, options.subdivide or SUBDIVISIONS, options.nproc
                    )
                ]
            print(f"mosaicity {mosaicity:g} degrees, domains of {domain:g} A")
            print(tabulate(sorted(rows, key=lambda row: row[1]), header), flush=True)


if __name__ == "__main__":
    main()
