"""dials.diffuse_process as a whole: two processes against one, and cost against the number of stills.

    python benchmarks/bench_pipeline.py                         # 2,500, 5,000 and 10,000 tiny stills: an hour
    python benchmarks/bench_pipeline.py --stills 50 100 200     # a look
    python benchmarks/bench_pipeline.py --stills 200 --dask     # the same on a dask LocalCluster

Simulates the largest set once, and runs the first stills of it. Times are wall-clock times of whole runs, start of
processes included, compilation not; memory is the most that one process of a step had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dials.util import tabulate

SIMULATION = ["detector.image_size=100,100", "detector.pixel_size=1.2", "exposure.mean_photons=20", "output.html=None"]


def command(module: str, *args: str, cwd: Path) -> float:
    """Run a command of ours; its seconds"""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", f"dials_diffuse.command_line.{module}", *args],
        cwd=cwd, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - start


def first_stills(source: Path, n: int, folder: Path) -> list[str]:
    """The first n stills of simulated.expt and .refl as files of their own"""
    from dials_diffuse.adapters.experiments import DataPair

    experiments, table = DataPair(source / "simulated.expt", source / "simulated.refl").load(check_format=False)
    table = table.select(table["id"] < n)
    for number in range(n, len(experiments)):
        del table.experiment_identifiers()[number]
    experiments[:n].as_file(str(folder / "input.expt"))
    table.as_file(str(folder / "input.refl"))
    return ["input.expt", "input.refl"]


def run_chain(source: Path, n: int, options: list[str], parent: Path) -> dict:
    """Numbers of one run"""
    folder = Path(tempfile.mkdtemp(dir=parent))
    files = first_stills(source, n, folder)
    seconds = command("diffuse_process", *files, *options, "output.json=run.json", "output.html=None", cwd=folder)
    steps = json.loads((folder / "run.json").read_text())["steps"]
    return {
        "seconds": seconds,
        "steps": {s["step"]: sum(t["seconds"] for t in s["tasks"]) for s in steps},
        "memory": {s["step"]: max(t["memory"] for t in s["tasks"]) for s in steps},
        "map": (folder / "diffuse_merged.refl").read_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stills", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--batch-size", type=int, default=None, help="default: that of the program")
    parser.add_argument("--speedup-stills", type=int, default=None, help="for 1 against 2 processes; default: the fewest")
    parser.add_argument("--dask", action="store_true", help="a dask LocalCluster instead of child processes")
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    chain = ["mask.bragg.size=model"]
    if options.batch_size:
        chain.append(f"batch_size={options.batch_size}")
    if options.dask:
        chain.append("mp.method=dask")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        parent = Path(name)
        most = max(options.stills)
        print(f"Simulating {most} stills ...", flush=True)
        seconds = command("diffuse_simulate", f"stills={most}", *SIMULATION, cwd=parent)
        print(f"{seconds:.0f} s\n", flush=True)

        n = options.speedup_stills or min(options.stills)
        batch = options.batch_size or max(1, n // 8)
        run_chain(parent, min(6, most), [*chain, "mp.nproc=1"], parent)  # compiles
        rows, first = [], None
        for nproc in (1, 2):
            result = run_chain(parent, n, [*chain, f"batch_size={batch}", f"mp.nproc={nproc}"], parent)
            first = first or result
            extract, before = result["seconds"], first["seconds"]
            rows.append([nproc, f"{extract:.1f}", f"{before / extract:.2f}", result["map"] == first["map"]])
        print(f"{n} stills in batches of {batch}, {os.cpu_count()} processors:")
        print(tabulate(rows, headers=["processes", "whole run (s)", "faster", "same map"], tablefmt="psql"))

        rows = []
        for n in sorted(options.stills):
            result = run_chain(parent, n, [*chain, "mp.nproc=2"], parent)
            rows.append(
                [n, f"{result['seconds']:.1f}", f"{1000 * result['seconds'] / n:.1f}"]
                + [f"{result['steps'][s]:.1f} / {result['memory'][s]:.0f}" for s in ("mask", "extract", "grid", "scale")]
            )
            print(f"{n} stills done", flush=True)
        heads = ["stills", "whole run (s)", "ms a still"] + [f"{s} (s / MB)" for s in ("mask", "extract", "grid", "scale")]
        print(tabulate(rows, headers=heads, tablefmt="psql"))


if __name__ == "__main__":
    main()
