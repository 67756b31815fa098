"""Seconds a still for its masks: prediction, other spots, painting, and the complete mask of an image.

Usage: python benchmarks/bench_mask.py integrated.expt integrated.refl
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dials.util import tabulate

from dials_diffuse.adapters.images import read_raw, static_mask
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills import stills_of
from dials_diffuse.masking.bright.other_spots import OtherSpots
from dials_diffuse.masking.masker import RowMasker, complete_mask
from dials_diffuse.masking.workflow import make_masks
from dials_diffuse.phil.mask import phil_scope


def timed(function, *args):
    """(seconds of processor time, result) of a call: what others do on the machine doesn't count."""
    start = time.process_time()
    result = function(*args)
    return time.process_time() - start, result


def main(expt: str, refl: str) -> None:
    """Print the table for the stills of a pair of files."""
    experiments, reflections = DataPair(Path(expt), Path(refl)).load()
    params = phil_scope.fetch().extract()
    params.nproc, params.dynamic.n_images = 1, 5
    with tempfile.TemporaryDirectory() as folder:
        params.output.mask = str(Path(folder) / "pixels.mask")
        result = make_masks(experiments, reflections, params)
    others = OtherSpots(result.good, params.bragg.padding)
    masker = RowMasker(result.reflections)
    times = {"read": [], "predict": [], "other spots": [], "paint Bragg": [], "complete mask": []}
    for still in stills_of(result.experiments):
        static = static_mask(still.imageset)
        still.imageset.clear_cache()
        seconds, raw = timed(read_raw, still.imageset, still.image_index)
        times["read"].append(seconds)
        seconds, rows = timed(result.predictor.predict, still)
        times["predict"].append(seconds)
        # Without reading, which is counted above
        times["other spots"].append(timed(others.find, [still], [rows])[0])
        times["paint Bragg"].append(timed(masker.bragg, [still])[0])
        times["complete mask"].append(timed(complete_mask, [still], masker, raw, static)[0])
    pixels = sum(mask.size for mask in result.good)
    print(f"{len(times['read'])} stills of {pixels / 1e6:.1f} Mpixels, median and fastest")
    rows = [
        [name, f"{1e3 * np.median(values):.1f}", f"{1e3 * min(values):.1f}"]
        for name, values in times.items()
    ]
    print(tabulate(rows, ["step", "ms", "ms"]))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
