"""dials.diffuse_process as a whole: two processes against one, and cost against the number of stills.

    python benchmarks/bench_pipeline.py                          # 2,500, 5,000 and 10,000 tiny stills
    python benchmarks/bench_pipeline.py --stills 500 1000 2000   # a look
    python benchmarks/bench_pipeline.py --stills 500 --dask      # the same on a dask LocalCluster

Simulates some stills and repeats them, under names of their own, as the 32 x 32 pixel stills of a long
run that came in files of 500. Times are wall-clock times of whole runs, start of processes included,
compilation not; seconds of a step are those of its tasks added up, two of which may have run at a time. Memory is the
most that one process had, in the whole run and in each step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path

from measured import ours

from dials.array_family import flex
from dials.util import tabulate

STEPS = ("mask", "extract", "grid", "scale")
SIMULATED = 100
PER_FILE = 500
SIMULATION = [
    "detector.image_size=32,32",
    "detector.pixel_size=3.75",
    "crystal.unit_cell=30,30,40,90,90,90",
    "exposure.mean_photons=20",
    "output.html=None",
]
# Scaling by b alone: its other components are the business of bench_scale.py
CHAIN = [
    "subdivide=2,2,2",
    "scale.model.offset=False",
    "scale.model.sensitivity=False",
    "output.html=None",
    "output.json=run.json",
]


def repeated(source: Path, n: int, folder: Path) -> list[str]:
    """n stills as pairs of files in a folder, each with an image of its own name.

    Args:
        source: folder of simulated.expt and .refl
    """
    contents = json.loads((source / "simulated.expt").read_text())
    table = flex.reflection_table.from_file(str(source / "simulated.refl"))
    for number in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[number]
    n_source = len(contents["experiment"])
    parts = [table.select(table["id"] == i) for i in range(n_source)]
    (folder / "images").mkdir()
    files = []
    for first in range(0, n, PER_FILE):
        part = {**contents, "experiment": [], "imageset": [], "crystal": []}
        rows = flex.reflection_table()
        for position, number in enumerate(range(first, min(first + PER_FILE, n))):
            original = contents["experiment"][number % n_source]
            imageset = contents["imageset"][original["imageset"]]
            image = folder / "images" / f"{number:06d}.cbf"
            os.link(source / imageset["images"][0], image)
            part["imageset"].append({**imageset, "images": [str(image)]})
            part["crystal"].append(contents["crystal"][original["crystal"]])
            identifier = str(uuid.UUID(int=number + 1))
            part["experiment"].append(
                {**original, "identifier": identifier, "imageset": position, "crystal": position}
            )
            more = parts[number % n_source].copy()
            more["id"] = flex.int(more.size(), position)
            rows.extend(more)
            rows.experiment_identifiers()[position] = identifier
        stem = f"input_{first // PER_FILE + 1:04d}"
        (folder / f"{stem}.expt").write_text(json.dumps(part))
        rows.as_file(str(folder / f"{stem}.refl"))
        files += [f"{stem}.expt", f"{stem}.refl"]
    return files


def run_chain(source: Path, n: int, options: list[str], parent: Path) -> dict:
    """Numbers of one run"""
    folder = Path(tempfile.mkdtemp(dir=parent))
    files = repeated(source, n, folder)
    taken = ours("process", *files, *options, cwd=folder)
    steps = json.loads((folder / "run.json").read_text())["steps"]
    result = {
        "seconds": taken.wall,
        "processor": taken.cpu,
        "largest": taken.peak,
        "steps": {s["step"]: sum(t["seconds"] for t in s["tasks"]) for s in steps},
        "memory": {s["step"]: max(t["memory"] for t in s["tasks"]) for s in steps},
        "map": (folder / "diffuse_merged.refl").read_bytes(),
        "disk": sum(path.stat().st_size for path in folder.rglob("*.refl")) / n / 1e3,
    }
    shutil.rmtree(folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stills", type=int, nargs="*", default=[2500, 5000, 10000])
    parser.add_argument("--batch-size", type=int, default=None, help="default: that of the program")
    parser.add_argument(
        "--speedup-stills",
        type=int,
        default=1000,
        help="for 1 against 2 processes; 0: leave it out",
    )
    parser.add_argument(
        "--dask", action="store_true", help="a dask LocalCluster instead of child processes"
    )
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work (default: a temporary folder)"
    )
    options = parser.parse_args()
    chain = [*CHAIN, *(["mp.method=dask"] if options.dask else [])]
    size = [f"batch_size={options.batch_size}"] if options.batch_size else []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        source = parent = Path(name)
        ours("simulate", f"stills={SIMULATED}", *SIMULATION, cwd=source)
        run_chain(source, 6, [*chain, "mp.nproc=1"], parent)  # compiles
        run_chain(source, 6, [*chain, "mp.nproc=1", "batch_size=3"], parent)

        n = options.speedup_stills
        if n:
            batch = options.batch_size or max(1, n // 8)
            rows, first = [], None
            for nproc in (1, 2):
                result = run_chain(
                    source, n, [*chain, f"batch_size={batch}", f"mp.nproc={nproc}"], parent
                )
                first = first or result
                seconds, before = result["seconds"], first["seconds"]
                rows.append(
                    [
                        nproc,
                        f"{seconds:.1f}",
                        f"{before / seconds:.2f}",
                        result["map"] == first["map"],
                    ]
                )
            print(f"{n} stills in batches of {batch}, {os.cpu_count()} processors:")
            print(
                tabulate(
                    rows,
                    headers=["processes", "whole run (s)", "faster", "same map"],
                    tablefmt="psql",
                )
            )

        rows = []
        heads = [
            "stills",
            "whole run (s)",
            "ms a still",
            "processor ms a still",
            "largest process (MB)",
            "kB a still",
        ]
        heads += [f"{step} (s / MB)" for step in STEPS]
        for n in sorted(options.stills):
            result = run_chain(source, n, [*chain, *size, "mp.nproc=2"], parent)
            rows.append(
                [n, f"{result['seconds']:.1f}", f"{1000 * result['seconds'] / n:.1f}"]
                + [f"{1000 * result['processor'] / n:.1f}"]
                + [f"{result['largest']:.0f}", f"{result['disk']:.0f}"]
                + [f"{result['steps'][s]:.1f} / {result['memory'][s]:.0f}" for s in STEPS]
            )
            print(tabulate(rows, headers=heads, tablefmt="psql"), flush=True)


if __name__ == "__main__":
    main()
