"""Time, rows, bytes and memory of mask, extract and grid on sweeps of fine slices.

    python benchmarks/bench_sweep.py [--images 300 900] [--pixels 800] [--nproc 1] [--folder FOLDER]

Simulates a few images of a rotation series of 0.1 degree, repeats them under the numbers of a long sweep (what is on
them does not change the time), and runs the commands, and dxtbx's get_raw_data of the same images in one process.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory

from dials.array_family import flex
from dials.util import tabulate

_READ = """
import sys
from dxtbx.model.experiment_list import ExperimentList
imageset = ExperimentList.from_file("sweep.expt")[0].imageset
for index in range(len(imageset)):
    imageset.get_raw_data(index)
    imageset.clear_cache()
"""
_KINDS = 10


def run(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds of CPU, which other work on the machine changes little, and Mbyte of the largest process."""
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL
    ) as job:
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
    if job.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: see its log in {folder}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def make_sweep(folder: Path, n_images: int, source: ExperimentList) -> int:
    """Write a sweep of n images; bytes of them."""
    imageset = source[0].imageset
    names = [str(folder / f"long_{i + 1:05d}.cbf") for i in range(n_images)]
    for i, name in enumerate(names):
        content = Path(imageset.get_path(i % len(imageset))).read_bytes()
        angle = b"Start_angle %.4f" % (0.1 * i)
        Path(name).write_bytes(re.sub(rb"Start_angle [-0-9.]+", angle, content, count=1))
    experiments = ExperimentListFactory.from_filenames(names)
    scan = experiments[0].scan
    if scan.get_num_images() != n_images:
        raise SystemExit(f"dxtbx sees {scan.get_num_images()} images of {n_images}")
    experiments[0].crystal = source[0].crystal
    experiments[0].identifier = "sweep"
    experiments.as_file(str(folder / "sweep.expt"))
    return sum(os.path.getsize(name) for name in names)


def measure(folder: Path, n_images: int, size: int, nproc: int) -> list[list]:
    """Rows of the table for a sweep of n images, which is in the folder."""
    module = "dials_diffuse.command_line.diffuse_"
    options = ["output.html=None", f"nproc={nproc}"]
    read, memory = run(folder, "-c", _READ)
    rows: list[list] = [
        [n_images, "get_raw_data", f"{read:.1f}", "", f"{memory:.0f}", "", size // n_images]
    ]
    total = 0.0
    for step, inputs, output in (
        ("mask", ["sweep.expt"], "masked"),
        ("extract", ["diffuse_masked.expt", "diffuse_masked.refl"], "extracted"),
        ("grid", ["diffuse_extracted.expt", "diffuse_extracted.refl"], "gridded"),
    ):
        seconds, memory = run(folder, "-m", module + step, *inputs, *options)
        total += seconds
        path = folder / f"diffuse_{output}.refl"
        n_rows = len(flex.reflection_table.from_file(str(path)))
        n_bytes = path.stat().st_size // n_images
        ratio = f"{seconds / read:.2f}"
        rows.append(
            [n_images, step, f"{seconds:.1f}", ratio, f"{memory:.0f}", n_rows // n_images, n_bytes]
        )
    rows.append([n_images, "all three", f"{total:.1f}", f"{total / read:.2f}", "", "", ""])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[300, 900])
    parser.add_argument("--pixels", type=int, default=800, help="of the detector, along each side")
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        simulation = [
            "crystal.orientation=rotation",
            "crystal.rotation_step=0.1",
            f"stills={_KINDS}",
        ]
        simulation += [f"detector.image_size={args.pixels},{args.pixels}", "output.html=None"]
        simulation += [f"detector.pixel_size={120 / args.pixels}", "nproc=2"]
        run(folder, "-m", "dials_diffuse.command_line.diffuse_simulate", *simulation)
        source = ExperimentList.from_file(str(folder / "sequence.expt"))
        rows = []
        for n_images in args.images:
            own = folder / str(n_images)
            own.mkdir()
            rows += measure(own, n_images, make_sweep(own, n_images, source), args.nproc)
    header = ["images", "step", "CPU s", "of reading", "Mbyte", "rows an image", "bytes an image"]
    print(tabulate(rows, header))


if __name__ == "__main__":
    main()
