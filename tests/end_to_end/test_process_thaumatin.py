"""Real stills by dials.diffuse_process: from images where this DIALS can integrate them, else from integrated stills."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills_processor import check_available
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.pipeline.rearrange import spread

pytestmark = [pytest.mark.regression, pytest.mark.slow]

# A map of half the resolution, to be quick
OPTIONS = ["d_min=2.5", "mp.nproc=2", "output.json=run.json"]


def can_integrate() -> bool:
    try:
        check_available()
    except ValueError:
        return False
    return True


def run(folder, *arguments) -> dict:
    """The numbers of a run"""
    command = [shutil.which("dials.diffuse_process"), *map(str, arguments), *OPTIONS]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not result.returncode and not result.stderr, result.stdout[-3000:] + result.stderr
    content = json.loads((folder / "run.json").read_text())
    assert content["success"]
    return content


def check_map(folder) -> None:
    """Voxels that several stills see agree, and their intensity is above zero (background is subtracted)."""
    merged = flex.reflection_table.from_file(str(folder / "diffuse_merged.refl"))
    assert merged.size() > 30000
    intensity = as_numpy(merged["intensity"])
    first, second = as_numpy(merged["half_1"]), as_numpy(merged["half_2"])
    both = np.isfinite(first) & np.isfinite(second)
    assert both.sum() > 10000
    # Two stills each: much noise, but by chance it would be within 0.03
    assert np.corrcoef(first[both], second[both])[0, 1] > 0.1
    assert np.median(intensity[np.isfinite(intensity)]) > 0
    assert (folder / "diffuse_merged.h5").is_file()
    page = (folder / "dials.diffuse_process.html").read_text()
    assert "dials.diffuse_scale" in page and "Please cite" in page


def test_integrated_stills_to_a_map_in_one_batch_and_in_two(thaumatin, tmp_path):
    pair = DataPair(thaumatin / "integrated.expt", thaumatin / "integrated.refl")
    spread([pair], 4, (tmp_path / "four.expt", tmp_path / "four.refl"))
    background = f"background={thaumatin / 'background.expt'}"
    maps = []
    for name, size in (("one", 4), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        run(
            folder, tmp_path / "four.expt", tmp_path / "four.refl", background, f"batch_size={size}"
        )
        check_map(folder)
        maps.append((folder / "diffuse_merged.refl").read_bytes())
    assert maps[0] == maps[1]


@pytest.mark.skipif(not can_integrate(), reason="this DIALS cannot integrate stills")
def test_images_to_a_map(thaumatin_images, tmp_path):
    images = [thaumatin_images / f"thau_3_2_{n:04d}.cbf.bz2" for n in (3, 4, 5, 6, 18)]
    empty = [str(thaumatin_images / f"thau_3_2_{n:04d}.cbf.bz2") for n in (17, 19)]
    command = [shutil.which("dials.import"), *empty, "output.experiments=background.expt"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    content = run(
        tmp_path,
        *images,
        "unit_cell=58,58,150,90,90,90",
        "space_group=P41212",
        "background=background.expt",
    )
    # The last is an empty shot, which cannot be indexed
    assert [still["image"] for still in content["failed_stills"]] == [str(images[-1])]
    steps = {step["step"]: step for step in content["steps"]}
    assert list(steps) == ["index", "mask", "extract", "grid", "scale"]
    assert len(steps["index"]["tasks"]) == 2
    assert steps["extract"]["stills"] == 4
    check_map(tmp_path)
