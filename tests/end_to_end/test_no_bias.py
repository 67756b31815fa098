"""Masking spots must not change the diffuse scattering that is measured."""

from __future__ import annotations

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.command_line.diffuse_extract import run as extract
from dials_diffuse.command_line.diffuse_grid import run as grid
from dials_diffuse.command_line.diffuse_mask import run as mask


def merged(folder, name, *arguments):
    """voxel -> (photons, exposure) of the asymmetric unit, from pixels outside of the mask."""
    mask(
        [
            "simulated.expt",
            "simulated.refl",
            "nproc=1",
            "output.html=None",
            "report.n_images=0",
            f"output.mask={name}.mask",
            *arguments,
        ]
    )
    extract(
        ["diffuse_masked.expt", "diffuse_masked.refl", "nproc=1", "d_min=2.5", "output.html=None"]
    )
    grid(["diffuse_extracted.expt", "diffuse_extracted.refl", "output.html=None"])
    table = flex.reflection_table.from_file(str(folder / "diffuse_gridded.refl"))
    table = table.select(~table["bragg"])
    voxels, row = np.unique(as_numpy(table["asu_voxel"]), axis=0, return_inverse=True)
    row = row.ravel()
    counts, exposure = (
        np.bincount(row, as_numpy(table[column])) for column in ("counts", "exposure")
    )
    return {tuple(v): (n, e) for v, n, e in zip(voxels, counts, exposure)}


@pytest.mark.parametrize("photons, largest", [(5.0, 0.002), (0.2, 0.01)])
def test_merged_intensity_is_the_same_with_and_without_bragg_mask(
    run_in_tmp_path, photons, largest
):
    settings = simulation_settings(
        **{
            "bragg": {"enabled": False},
            "exposure": {"mean_photons": photons},
            "scale": {"spread": 0.0},
        },
        stills=8,
    )
    simulate(settings, run_in_tmp_path)
    without = merged(run_in_tmp_path, "without", "bragg.method=none")
    kept = merged(run_in_tmp_path, "with", "bragg.mosaicity=0.2", "bragg.domain_size=400")
    assert set(kept) <= set(without) and len(kept) > 0.8 * len(without)
    n_with, e_with = np.array(list(kept.values())).T
    n_all, e_all = np.array([without[voxel] for voxel in kept]).T
    n_masked, e_masked = n_all - n_with, e_all - e_with
    # Many of them lose pixels
    assert (e_masked > 0).mean() > 0.1 and e_masked.sum() > 0.03 * e_all.sum()
    # The pixels that were masked hold what the others of their voxels let expect
    use = (e_masked > 0) & (e_with > e_masked)
    expected = e_masked * n_all / e_all
    difference = (n_masked - expected)[use].sum()
    noise = np.sqrt((expected * e_with / e_all)[use].sum())
    assert abs(difference) < 4 * noise
    # and so the merged intensities agree: their mean change, by exposure
    mean = n_all[use].sum() / e_all[use].sum()
    assert abs(difference) < largest * mean * e_with[use].sum()
