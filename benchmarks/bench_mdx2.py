"""The chain of mdx2 and ours on the same simulated rotation series: time per image and Mpixel, by step.

    python benchmarks/bench_mdx2.py                              # 90 images of 2.5 Mpixel, 2 processes each
    python benchmarks/bench_mdx2.py --images 30 --size 487 619 --folder /tmp/look

Simulates the series and ten empty shots, takes the series through DIALS (import, find_spots, index, refine: not
counted, both start there), and runs

    mdx2   import_geometry, import_data, find_peaks, mask_peaks, integrate, import_data and bin_image_series of the
           empty shots, correct, scale, merge; as in the scripts of its insulin examples
    ours   dials.sequence_to_stills (a command of DIALS, counted), mask, extract with background, grid, scale
           (of its components the images' scale factors only, as mdx2 by default; --all-components: all that the data bear)

each on a third of the images and on all of them: the difference is the marginal cost of an image, free of what commands
take to start and compile. Wall-clock times, and CPU times beside them, because other work on the machine does
not change those much. Needs the network once: mdx2 (MIT licence) is installed by pip into a virtual environment of its own that
sees the DIALS of this interpreter. mdx2 wants a detector of one panel whose size dxtbx knows (1475 x 1679: PILATUS 2M).

S. P. Meisburger & N. Ando (2024). Acta Cryst. D80, 299-313, for mdx2.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench_rotation import CELL, SPACE_GROUP, refine_sweep, run
from measured import measure, touch_memory

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import ScanFactory
from dxtbx.model.experiment_list import Experiment, ExperimentList

from dials.util import tabulate

VERSION = "1.0.5"
# What it imports besides what DIALS brings; papermill, for its notebooks, is not needed
NEEDS = ("nexusformat", "joblib", "numexpr", "simple-parsing", "loguru", "pandas", "scipy")
EMPTY_SHOTS = 10
CONVERSION = "sequence_to_stills"
# What mdx2.scale refines unless told otherwise: one factor an image (there smooth along the series)
SCALE_ONLY = ("model.panel=False", "model.sensitivity=False", "model.offset=False")


@dataclass
class Timing:
    """Of one command: seconds of wall clock and of processors."""

    step: str
    wall: float
    cpu: float


def timed(step: str, folder: Path, *command: str) -> Timing:
    """Run a command and time it with all its processes."""
    found = measure(command, folder)
    return Timing(step, found.wall, found.cpu)


def install_mdx2(venv: Path) -> Path:
    """Folder of mdx2's commands in a virtual environment that sees this interpreter's DIALS.

    dxtbx, on mdx2's list of requirements, is there already: pip must not replace it by the
    years-old one of PyPI. So mdx2 goes in without what it requires, and that by name.
    """
    if not (venv / "bin" / "mdx2.merge").exists():
        subprocess.run(
            [sys._base_executable, "-m", "venv", "--system-site-packages", str(venv)], check=True
        )
        pip = [
            str(venv / "bin" / "python"),
            "-m",
            "pip",
            "-qq",
            "--disable-pip-version-check",
            "install",
        ]
        subprocess.run([*pip, "--no-deps", f"mdx2=={VERSION}"], check=True)
        # pip notes that papermill is missing, and carries on
        subprocess.run([*pip, *NEEDS], check=True, stderr=subprocess.DEVNULL)
        # libtbx looks for its environment below sys.prefix
        there = Path(sys.prefix, "lib", "cctbx")
        if there.exists():
            (venv / "lib" / "cctbx").symlink_to(there.resolve())
    return venv / "bin"


def empty_shots_as_sweep(data: Path, work: Path) -> None:
    """empty_sweep.expt: the empty shots as mdx2 wants them, a sweep"""
    first = ExperimentList.from_file(work / "refined.expt", check_format=False)[0]
    n = EMPTY_SHOTS
    times = first.scan.get_exposure_times()
    scan = ScanFactory.make_scan(
        (1, n), times[0], first.scan.get_oscillation(), {i + 1: 0 for i in range(n)}
    )
    imageset = ImageSetFactory.make_sequence(
        str(data / "images" / "empty_#####.cbf"),
        list(range(1, n + 1)),
        beam=first.beam,
        detector=first.detector,
        goniometer=first.goniometer,
        scan=scan,
    )
    sweep = Experiment(
        beam=first.beam,
        detector=first.detector,
        goniometer=copy.deepcopy(first.goniometer),
        scan=scan,
        imageset=imageset,
    )
    ExperimentList([sweep]).as_file(work / "empty_sweep.expt")


def run_mdx2(
    work: Path, n_images: int, commands: Path, nproc: int, threshold: float
) -> list[Timing]:
    """Its chain on work/refined.expt"""
    folder = work / "mdx2"
    folder.mkdir()
    jobs = ("--nproc", str(nproc))
    # 20 images, 10 of the empty shots, as in its examples; -1: of a module of the detector
    chunks = ("--chunks", str(min(20, n_images)), "-1", "-1")
    empty_chunks = ("--chunks", str(EMPTY_SHOTS), "-1", "-1")
    steps = [
        ("import", "import_geometry", str(work / "refined.expt")),
        ("import", "import_data", str(work / "refined.expt"), *chunks, *jobs),
        (
            "find and mask peaks",
            "find_peaks",
            "geometry.nxs",
            "data.nxs",
            "--count_threshold",
            str(threshold),
            *jobs,
        ),
        ("find and mask peaks", "mask_peaks", "geometry.nxs", "data.nxs", "peaks.nxs", *jobs),
        (
            "integrate",
            "integrate",
            "geometry.nxs",
            "data.nxs",
            "--mask",
            "mask.nxs",
            "--subdivide",
            "3",
            "3",
            "3",
            *jobs,
        ),
        (
            "background",
            "import_data",
            str(work / "empty_sweep.expt"),
            *empty_chunks,
            "--outfile",
            "empty.nxs",
            "--datastore",
            "empty_store",
            *jobs,
        ),
        # 5 of the 10: a single bin along phi is more than its next step can interpolate in
        (
            "background",
            "bin_image_series",
            "empty.nxs",
            "5",
            "20",
            "20",
            "--outfile",
            "binned.nxs",
            *jobs,
        ),
        ("correct", "correct", "geometry.nxs", "integrated.nxs", "--background", "binned.nxs"),
        ("scale", "scale", "corrected.nxs"),
        ("merge", "merge", "corrected.nxs", "--scale", "scales.nxs"),
    ]
    return [
        timed(step, folder, str(commands / f"mdx2.{name}"), *arguments)
        for step, name, *arguments in steps
    ]


def run_ours(data: Path, work: Path, name: str, nproc: int, scale: tuple[str, ...]) -> list[Timing]:
    """Our chain on work/refined.expt and .refl, with data/background.expt; scale: parameters of that step"""
    folder = work / name
    folder.mkdir()
    python = (sys.executable, "-m")
    ours = "dials_diffuse.command_line.diffuse_"
    jobs = f"nproc={nproc}"
    background = f"background={data / 'background.expt'}"
    subdivide = "subdivide=3,3,3"
    sweep = (str(work / "refined.expt"), str(work / "refined.refl"))
    return [
        timed(CONVERSION, folder, *python, "dials.command_line.sequence_to_stills", *sweep),
        timed("mask", folder, *python, f"{ours}mask", "stills.expt", "stills.refl", jobs),
        timed(
            "extract",
            folder,
            *python,
            f"{ours}extract",
            "diffuse_masked.expt",
            "diffuse_masked.refl",
            jobs,
            background,
            subdivide,
        ),
        timed(
            "grid",
            folder,
            *python,
            f"{ours}grid",
            "diffuse_extracted.expt",
            "diffuse_extracted.refl",
        ),
        timed(
            "scale",
            folder,
            *python,
            f"{ours}scale",
            "diffuse_gridded.expt",
            "diffuse_gridded.refl",
            jobs,
            *scale,
        ),
    ]


def simulate(folder: Path, options, more: list[str]) -> None:
    """A rotation series with empty shots"""
    folder.mkdir()
    run(
        folder,
        "dials_diffuse.command_line.diffuse_simulate",
        f"stills={options.images}",
        f"nproc={options.nproc}",
        "crystal.orientation=rotation",
        f"crystal.rotation_step={options.step}",
        f"crystal.unit_cell={CELL}",
        f"crystal.space_group={SPACE_GROUP}",
        f"detector.image_size={options.size[0]},{options.size[1]}",
        "detector.pixel_size=0.172",
        "detector.distance=200",
        "background.air=1",
        f"background.empty_shots={EMPTY_SHOTS}",
        f"exposure.mean_photons={options.photons}",
        "output.html=None",
        *more,
    )


def print_table(
    name: str, few: list[Timing], many: list[Timing], images: tuple[int, int], mpixel: float
) -> list[float]:
    """Print a chain's figures; [marginal, whole] ms of wall clock per image and Mpixel

    marginal: slope between both numbers of images; start: what is left at no image, s; whole: all of the
    larger number, start included
    """

    def figures(step: str | None) -> list[float]:
        sums = [
            [
                sum(getattr(t, clock) for t in timings if step in (None, t.step))
                for timings in (few, many)
            ]
            for clock in ("wall", "cpu")
        ]
        slopes = [(last - first) / (images[1] - images[0]) for first, last in sums]
        (_, wall), (_, cpu) = sums
        unit = 1000 / (images[1] * mpixel)
        return [
            1000 * slopes[0] / mpixel,
            1000 * slopes[1] / mpixel,
            wall - slopes[0] * images[1],
            wall * unit,
            cpu * unit,
        ]

    rows = [[step, *figures(step)] for step in dict.fromkeys(t.step for t in many)]
    rows.append(["all", *figures(None)])
    print(f"\n{name}:")
    header = ["step", "marginal", "marginal CPU", "start (s)", "whole", "whole CPU"]
    print(
        tabulate(
            [[row[0], *(f"{value:.1f}" for value in row[1:])] for row in rows],
            header,
            tablefmt="psql",
        )
    )
    return [rows[-1][1], rows[-1][4]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=90)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(1475, 1679), help="pixels, fast and slow"
    )
    parser.add_argument("--step", type=float, default=0.5, help="degrees an image")
    parser.add_argument("--photons", type=float, default=2.0, help="mean photons a pixel")
    parser.add_argument("--threshold", type=float, default=20.0, help="of mdx2.find_peaks")
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="where to work, kept (default: a temporary folder)",
    )
    parser.add_argument(
        "--all-components",
        action="store_true",
        help="let our scaling try all of its components, as it does by default",
    )
    options, more = parser.parse_known_args()  # the rest: parameters of dials.diffuse_simulate
    scale = () if options.all_components else SCALE_ONLY
    with tempfile.TemporaryDirectory() as temporary:
        parent = (options.folder or Path(temporary)).resolve()
        parent.mkdir(exist_ok=True)
        commands = install_mdx2(parent / "mdx2")
        print(f"Simulating {options.images} images ...", flush=True)
        data = parent / "series"
        simulate(data, options, more)
        images = sorted(data.glob("images/still_*.cbf"))
        numbers = (options.images // 3, options.images)
        mdx2, ours = [], []
        for n in numbers:
            print(f"{n} images: refining the crystal, running both chains ...", flush=True)
            work = parent / f"first_{n}"
            work.mkdir()
            refine_sweep(work, images[:n], options.nproc)
            empty_shots_as_sweep(data, work)
            if n == numbers[0]:  # compiles
                run_ours(data, work, "compile", options.nproc, scale)
            touch_memory()
            mdx2.append(run_mdx2(work, n, commands, options.nproc, options.threshold))
            touch_memory()
            ours.append(run_ours(data, work, "ours", options.nproc, scale))
    mpixel = options.size[0] * options.size[1] / 1e6
    print(
        f"\nmilliseconds per image and Mpixel, {numbers[0]} and {numbers[1]} images of {options.size[0]} x "
        f"{options.size[1]} pixels, {options.nproc} processes, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    )
    theirs = print_table(f"mdx2 {VERSION}", *mdx2, numbers, mpixel)
    both = print_table("dials_diffuse", *ours, numbers, mpixel)
    conversion = [[t for t in timings if t.step == CONVERSION] for timings in ours]
    of_dials = print_table("of that, a command of DIALS", *conversion, numbers, mpixel)
    for label, column in (("marginal cost", 0), ("whole run", 1)):
        print(
            f"{label}: mdx2 takes {theirs[column] / both[column]:.1f} times as long as ours, "
            f"{theirs[column] / (both[column] - of_dials[column]):.1f} without {CONVERSION}"
        )


if __name__ == "__main__":
    main()
