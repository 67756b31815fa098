"""Index and integrate images with dials.stills_process, as a task of the pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path

import dials.util.log

from dials_diffuse.adapters.command import handle_errors
from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.stills import NothingLeft
from dials_diffuse.adapters.stills_processor import process_stills
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.json_file import write_json


@handle_errors()
def run(args: list[str]) -> None:
    """Index and integrate images.

    Args:
        args: image files and one .phil file, --output .expt and .refl, --json for the failures, --log,
            --reference for an .expt whose geometry is taken, --part for the images FROM to TO (0-based, TO
            left out) of one file
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", nargs=2, required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--reference")
    parser.add_argument("--part", nargs=2, type=int)
    options = parser.parse_args(args)
    dials.util.log.config(logfile=options.log)
    images = [path for path in options.files if path.suffix != ".phil"]
    phil = "\n".join(path.read_text() for path in options.files if path.suffix == ".phil")
    reference = None
    if options.reference is not None:
        reference = load_experiments(options.reference, check_format=False)[0]
    found = process_stills(images, phil, reference, options.part)
    stills = [{"image": image, "error": error} for image, error in found.failures.items()]
    write_json(options.json, {"stills": stills, "integrated": len(found.experiments)})
    if len(found.experiments) == 0:
        raise NothingLeft(
            f"Not one image could be integrated: {next(iter(found.failures.values()))}"
        )
    with replacing(options.output[0]) as expt, replacing(options.output[1]) as refl:
        found.experiments.as_file(expt)
        found.reflections.as_file(refl)
