"""Real stills by dials.ssx_index and dials.ssx_integrate, which keep goniometer and scan and write ellipsoid profiles."""

from __future__ import annotations

import bz2
import json
import shutil
import subprocess

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.stills import stills_of
from dials_diffuse.adapters.stills_processor import check_available
from dials_diffuse.adapters.tables import as_numpy

pytestmark = pytest.mark.regression

IMAGES = (4, 5)
CRYSTAL = ("unit_cell=58.4,58.4,152,90,90,90", "space_group=P41212")


def run(folder, command: str, *arguments: str) -> None:
    result = subprocess.run(
        [shutil.which(command), *arguments], cwd=folder, capture_output=True, text=True
    )
    assert not result.returncode, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.fixture(scope="module")
def integrated(thaumatin_images, tmp_path_factory):
    try:
        check_available()
    except ValueError:
        pytest.skip("this DIALS can't refine stills")
    folder = tmp_path_factory.mktemp("ssx")
    for number in IMAGES:
        name = f"thau_3_2_{number:04d}.cbf"
        (folder / name).write_bytes(bz2.decompress((thaumatin_images / f"{name}.bz2").read_bytes()))
    run(folder, "dials.import", *(f"thau_3_2_{number:04d}.cbf" for number in IMAGES))
    run(folder, "dials.find_spots", "imported.expt", "nproc=2", "d_min=2.5")
    run(folder, "dials.ssx_index", "imported.expt", "strong.refl", "nproc=2", *CRYSTAL)
    run(
        folder,
        "dials.ssx_integrate",
        "indexed.expt",
        "indexed.refl",
        "nproc=2",
        "prediction.d_min=2.5",
    )
    return folder


def test_orientation_is_that_of_the_spots(integrated):
    """h of the strong spots where they are seen"""
    stills = stills_of(load_experiments(integrated / "integrated_1.expt", check_format=False))
    assert len(stills) == len(IMAGES)
    table = flex.reflection_table.from_file(str(integrated / "indexed.refl"))
    for still in stills:
        spots = table.select((table["id"] == still.index) & table.get_flags(table.flags.indexed))
        assert spots.size() > 100
        s1 = as_numpy(spots["s1"])
        q = s1 - np.array(still.beam.get_s0())
        off = q @ np.linalg.inv(still.setting_matrix()).T - as_numpy(spots["miller_index"])
        assert np.median(np.abs(off), axis=0) == pytest.approx(0, abs=0.1)


def test_spots_are_masked_by_the_ellipsoids(integrated, tmp_path):
    names = [str(integrated / f"integrated_1.{kind}") for kind in ("expt", "refl")]
    run(
        tmp_path,
        "dials.diffuse_mask",
        *names,
        "d_min=2.5",
        "output.json=mask.json",
        "output.html=None",
    )
    header, *rows = json.loads((tmp_path / "mask.json").read_text())["images"]
    assert header[3:5] == ["bright groups at nodes, before", "after"]
    assert len(rows) == len(IMAGES)
    for row in rows:
        assert 5 < float(row[header.index("% under Bragg")]) < 16
        assert int(row[3]) > 500
        assert int(row[4]) <= 3
