"""Cost of mask, extract and grid per image, against what dxtbx takes to read the image.

    python benchmarks/bench_extract.py [DATA] [--small 15] [--large 150] [--nproc 1 2] [--own-geometry]

DATA is the folder that holds integrated.expt and integrated.refl (thaumatin_integrated), by default
$DIALS_DIFFUSE_DATA/thaumatin_integrated; its images are found through the paths in it, or in $DIALS_DATA. Images are
unpacked to .cbf in a temporary folder and repeated as often as asked.

Two chains are run: one command after the other, which read every image twice, and with the masks made while
extracting (dials.diffuse_extract survey=), as dials.diffuse_process does. The marginal cost is the slope between the
small and the large number of stills; what is left over is start-up, the survey of some images by dials.diffuse_mask
included (of as many as the small number in both runs). Everything is run once before, so that compiled code and the page
cache are warm. With --own-geometry, q and the corrections are computed anew for every still, as for stills whose detector or
wavelength was refined shot by shot. The fastest of some runs counts: a virtual machine's neighbours slow the others down by up to a half.
"""

from __future__ import annotations

import argparse
import bz2
import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass

from measured import Measured, ours, touch_memory

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments, load_reflections

INPUT = ["integrated.expt", "integrated.refl"]
MASKED = ["diffuse_masked.expt", "diffuse_masked.refl"]
EXTRACTED = ["diffuse_extracted.expt", "diffuse_extracted.refl"]
GRIDDED = ["diffuse_gridded.expt", "diffuse_gridded.refl"]


@dataclass(frozen=True)
class Step:
    """A command, its input and what it writes."""

    command: str
    inputs: list[str]
    outputs: list[str]
    more: tuple[str, ...] = ()


GRID = Step("grid", EXTRACTED, GRIDDED)
CHAINS = {
    "every image read twice": [
        Step("mask", INPUT, MASKED),
        Step("extract", MASKED, EXTRACTED),
        GRID,
    ],
    "masked while extracting": [
        Step("extract", INPUT, [*MASKED, *EXTRACTED], ("survey={survey}",)),
        GRID,
    ],
}


def data_folder(given: str | None) -> pathlib.Path:
    folder = pathlib.Path(
        given or os.environ.get("DIALS_DIFFUSE_DATA", ".") + "/thaumatin_integrated"
    )
    if not (folder / "integrated.expt").is_file():
        sys.exit(f"{folder} holds no integrated.expt: give the folder, or set DIALS_DIFFUSE_DATA")
    return folder.resolve()


def unpacked(data: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """The images of integrated.expt as plain .cbf files."""
    content = json.loads((data / "integrated.expt").read_text())
    images = []
    for imageset in content["imageset"]:
        path = (data / imageset["images"][0]).resolve()
        if not path.is_file():
            path = pathlib.Path(os.environ["DIALS_DATA"]) / "thaumatin_grid_scan" / path.name
        plain = folder / path.name.removesuffix(".bz2")
        read = bz2.open if path.suffix == ".bz2" else open
        with read(path, "rb") as packed, open(plain, "wb") as handle:
            shutil.copyfileobj(packed, handle)
        images.append(plain)
    return images


def repeated(
    data, images, folder: pathlib.Path, n: int, own_geometry: bool = False
) -> pathlib.Path:
    """A folder with integrated.expt and .refl of n stills, each with an image file of its own name.

    Args:
        own_geometry: each with a detector of its own too, some micrometres from the others
    """
    target = folder / f"{n}_stills"
    (target / "images").mkdir(parents=True)
    content = json.loads((data / "integrated.expt").read_text())
    source = load_reflections(data / "integrated.refl")
    parts = [source.select(source["id"] == i) for i in range(len(images))]
    table = flex.reflection_table()
    experiments, imagesets, crystals, detectors = [], [], [], []
    names = []
    for i in range(n):
        original = content["experiment"][i % len(images)]
        image = target / "images" / f"{i:05d}.cbf"
        os.link(images[i % len(images)], image)
        imagesets.append({**content["imageset"][original["imageset"]], "images": [str(image)]})
        crystals.append(content["crystal"][original["crystal"]])
        names.append(str(uuid.UUID(int=i + 1)))
        experiments.append({**original, "identifier": names[-1], "imageset": i, "crystal": i})
        if own_geometry:
            experiments[-1]["detector"] = i
            detectors.append(copy.deepcopy(content["detector"][original["detector"]]))
            for panel in detectors[-1]["panels"]:
                panel["origin"][2] -= 0.002 * i
        part = parts[i % len(images)]
        for key in list(part.experiment_identifiers().keys()):
            del part.experiment_identifiers()[key]
        part["id"] = flex.int(part.size(), i)
        table.extend(part)
    for key in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[key]
    for i, name in enumerate(names):
        table.experiment_identifiers()[i] = name
    content |= {"experiment": experiments, "imageset": imagesets, "crystal": crystals}
    if own_geometry:
        content["detector"] = detectors
    (target / "integrated.expt").write_text(json.dumps(content))
    table.as_file(str(target / "integrated.refl"))
    return target


def run_step(step: Step, folder: pathlib.Path, nproc: int, *more: str) -> Measured:
    """Run a command of a chain on the files in a folder; more: parameters"""
    # To remove gigabytes of an earlier run takes the file system a while
    for name in step.outputs:
        (folder / name).unlink(missing_ok=True)
    touch_memory()
    return ours(step.command, *step.inputs, f"nproc={nproc}", "output.html=None", *more, cwd=folder)


_READ = """
import sys, time
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList
if sys.argv[2] == "keep":
    from dials_diffuse.adapters.system import keep_freed_memory
    keep_freed_memory()
seconds = {"get_raw_data": 0.0, "get_mask": 0.0}
experiments = ExperimentList.from_file(sys.argv[1])
for experiment in experiments:
    for name in seconds:
        start = time.perf_counter()
        getattr(experiment.imageset, name)(0)
        seconds[name] += time.perf_counter() - start
    experiment.imageset.clear_cache()
print(*(s / len(experiments) for s in seconds.values()))
"""


def reading(folder: pathlib.Path, memory: str = "") -> list[float]:
    """Seconds an image of dxtbx's get_raw_data and get_mask, in a process that does nothing else: what this one has
    done with its memory before would change them.

    Args:
        memory: "keep": the process keeps the memory of arrays that were freed, as the commands' do
    """
    command = [sys.executable, "-c", _READ, str(folder / "integrated.expt"), memory]
    found = [
        [
            float(text)
            for text in subprocess.run(
                command, check=True, capture_output=True, text=True
            ).stdout.split()
        ]
        for _ in range(3)
    ]
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="?")
    parser.add_argument("--small", type=int, default=15)
    parser.add_argument("--large", type=int, default=150)
    parser.add_argument("--nproc", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--repeat", type=int, default=2, help="runs of each command; the fastest counts"
    )
    parser.add_argument("--d_min", type=float, default=None)
    parser.add_argument(
        "--own-geometry", action="store_true", help="a detector of its own for every still"
    )
    parser.add_argument("--folder", help="where to put temporary files")
    options = parser.parse_args()
    data = data_folder(options.data)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = pathlib.Path(name)
        images = unpacked(data, folder)
        folders = {
            n: repeated(data, images, folder, n, options.own_geometry)
            for n in (options.small, options.large)
        }
        survey = folder / "survey.pickle"
        more = {
            "mask": [f"dynamic.n_images={options.small}", f"output.survey={survey}"],
            "extract": [] if options.d_min is None else [f"d_min={options.d_min}"],
            "grid": [],
        }

        def run(step: Step, target: pathlib.Path, nproc: int) -> Measured:
            parameters = (*more[step.command], *(text.format(survey=survey) for text in step.more))
            # What else happens on the machine only adds to it
            return min(
                (run_step(step, target, nproc, *parameters) for _ in range(options.repeat)),
                key=lambda m: m.wall,
            )

        for chain in CHAINS.values():
            for step in chain:
                run(step, folders[options.small], 1)
        # The survey of the small number of stills serves all runs
        kept = folder / "kept.pickle"
        survey.rename(kept)
        more["mask"].pop()
        survey = kept
        raw, mask = reading(folders[options.small])
        kept_raw, _ = reading(folders[options.small], "keep")
        pixels = sum(
            panel.get_image_size()[0] * panel.get_image_size()[1]
            for panel in load_experiments(data / "integrated.expt", check_format=False)[0].detector
        )
        print(
            f"dxtbx get_raw_data {1e3 * raw:8.1f} ms an image ({pixels / 1e6:.1f} Mpixel), of which "
            f"{1e3 * (raw - kept_raw):.1f} ms go by if freed memory is kept"
        )
        print(f"dxtbx get_mask     {1e3 * mask:8.1f} ms an image")
        for label, chain in CHAINS.items():
            print(
                f"\n{label}:\n{'processes':>9} {'step':>8} {options.small:>6} stills {options.large:>6} stills "
                f"{'start-up':>9} {'ms/image':>9} {'of reading':>10} {'CPU ms':>8} {'Mpixel/s':>9} {'peak Mb':>8}"
            )
            totals = {}
            for nproc in options.nproc:
                total = 0.0
                for step in chain:
                    times = {n: run(step, target, nproc) for n, target in folders.items()}
                    few, many = times[options.small], times[options.large]
                    slope = (many.wall - few.wall) / (options.large - options.small)
                    busy = (many.cpu - few.cpu) / (options.large - options.small)
                    total += slope
                    print(
                        f"{nproc:9d} {step.command:>8} {few.wall:11.2f} s {many.wall:11.2f} s "
                        f"{few.wall - slope * options.small:7.2f} s "
                        f"{1e3 * slope:9.1f} {slope / raw:10.2f} {1e3 * busy:8.1f} {1e-6 * pixels / slope:9.1f} {many.peak:8.0f}",
                        flush=True,
                    )
                totals[nproc] = total
                print(
                    f"{nproc:9d} {'all':>8} {'':>13} {'':>13} {'':>9} {1e3 * total:9.1f} {total / raw:10.2f}"
                )
            if len(totals) > 1:
                first, last = options.nproc[0], options.nproc[-1]
                print(
                    f"{last} processes are {totals[first] / totals[last]:.2f} times as fast as {first}"
                )


if __name__ == "__main__":
    main()
