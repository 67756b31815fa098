"""How much of a sweep's strong spots its Bragg mask covers, and how many pixels it takes.

Strong pixels are those of dials.find_spots in the shoeboxes of reflections that dials.index indexed.

    dials.find_spots sequence.expt
    dials.index sequence.expt strong.refl
    dials.diffuse_mask sequence.expt sequence.refl
    python benchmarks/bench_sweep_mask.py diffuse_masked.expt diffuse_masked.refl indexed.refl
"""

from __future__ import annotations

import sys

import numpy as np

from dxtbx.model.experiment_list import ExperimentList

from dials.algorithms.shoebox import MaskCode
from dials.array_family import flex

from dials_diffuse.masking.spots.painting import BraggRows


def main() -> None:
    """Print both numbers for the first experiment of the files."""
    masked, rows_file, indexed = sys.argv[1:4]
    experiment = ExperimentList.from_file(masked, check_format=False)[0]
    rows = BraggRows(flex.reflection_table.from_file(rows_file))
    spots = flex.reflection_table.from_file(indexed)
    spots = spots.select(spots.get_flags(spots.flags.indexed) & (spots["id"] == 0))
    sizes = [panel.get_image_size()[::-1] for panel in experiment.detector]
    painted = {i: rows.paint([(0, i)], sizes) for i in range(*experiment.scan.get_array_range())}
    inside = total = 0
    for panel, box in zip(spots["panel"], spots["shoebox"]):
        x0, x1, y0, y1, z0, z1 = box.bbox
        strong = (box.mask.as_numpy_array() & MaskCode.Foreground) != 0
        for z in range(z0, z1):
            if z in painted:
                under = painted[z][panel][y0:y1, x0:x1]
                inside += int((under & strong[z - z0]).sum())
                total += int(strong[z - z0].sum())
    takes = np.mean([np.mean(np.concatenate([p.ravel() for p in m])) for m in painted.values()])
    print(
        f"{len(spots)} indexed spots, {total} strong pixels: {100 * inside / total:.1f} % under the mask"
    )
    print(f"The mask takes {100 * takes:.2f} % of the pixels")


if __name__ == "__main__":
    main()
