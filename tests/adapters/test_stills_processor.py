from __future__ import annotations

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dials_diffuse.adapters import stills_processor
from dials_diffuse.adapters.stills_processor import (
    check_available,
    count_images,
    process_stills,
    processing_parameters,
)


def available() -> bool:
    try:
        check_available()
    except ValueError:
        return False
    return True


def test_parameters_of_text_and_of_an_extract():
    params = processing_parameters("indexing.known_symmetry.space_group=P41212")
    assert str(params.indexing.known_symmetry.space_group) == "P 41 21 2"
    assert params.dispatch.squash_errors is False
    assert params.output.strong_filename is None
    params.spotfinder.filter.min_spot_size = 7
    again = processing_parameters(params)
    assert again is not params and again.spotfinder.filter.min_spot_size == 7


def test_parameters_that_do_not_exist_or_make_no_sense():
    with pytest.raises(ValueError, match="indexing.no_such_thing"):
        processing_parameters("indexing.no_such_thing=1")
    with pytest.raises(ValueError, match="min_spot_size"):
        processing_parameters("spotfinder.filter.min_spot_size=many")


@pytest.mark.skipif(available(), reason="this DIALS can integrate stills")
def test_a_build_that_lacks_the_extension_says_so_before_any_work(monkeypatch):
    def never(*args):
        raise AssertionError("work was begun")

    monkeypatch.setattr(stills_processor, "_single_stills", never)
    with pytest.raises(ValueError, match="xfel_mono_sim_ext"):
        process_stills(["image.cbf"])


@pytest.mark.skipif(not available(), reason="this DIALS cannot integrate stills")
def test_images_that_cannot_be_read_are_collected(tmp_path):
    bad = tmp_path / "bad.cbf"
    bad.write_text("not an image")
    result = process_stills([bad, tmp_path / "missing.cbf"])
    assert len(result.experiments) == 0
    assert set(result.failures) == {str(bad), str(tmp_path / "missing.cbf")}
    assert all(result.failures.values())
    with pytest.raises(ValueError, match="no images"):
        process_stills([])


@pytest.mark.regression
@pytest.mark.skipif(not available(), reason="this DIALS cannot integrate stills")
def test_real_stills_and_an_empty_shot(thaumatin_images, run_in_tmp_path):
    images = [thaumatin_images / f"thau_3_2_{n:04d}.cbf.bz2" for n in (5, 18)]
    result = process_stills(
        images, "indexing.known_symmetry { space_group=P41212\n unit_cell=58,58,150,90,90,90 }"
    )
    assert len(result.experiments) == 1
    assert list(result.failures) == [str(images[1])]
    assert "partiality" in result.reflections
    partiality = np.array(result.reflections["partiality"])
    assert len(partiality) > 500 and np.isfinite(partiality).all()
    result.reflections.assert_experiment_identifiers_are_consistent(result.experiments)
    cell = result.experiments[0].crystal.get_unit_cell().parameters()
    assert cell[:3] == pytest.approx((58.5, 58.5, 152.3), rel=0.02)
    assert list(run_in_tmp_path.iterdir()) == []


def test_images_of_a_file_are_counted(tmp_path):
    settings = simulation_settings(
        stills=3, format="nexus", detector={"image_size": (60, 60), "pixel_size": 2.0}
    )
    simulate(settings, tmp_path)
    (image,) = (tmp_path / "images").glob("*.nxs")
    assert count_images(image) == 3
    assert count_images(tmp_path / "simulated.expt") == 1
    broken = tmp_path / "broken.h5"
    broken.write_bytes(image.read_bytes()[:100])
    assert count_images(broken) == count_images(tmp_path / "missing.h5") == 1


@pytest.mark.skipif(not available(), reason="this DIALS cannot integrate stills")
def test_part_of_a_file(tmp_path):
    """What is asked for is looked at, and no more: too faint to be indexed, so that all of it fails"""
    settings = simulation_settings(
        stills=3,
        format="nexus",
        detector={"image_size": (60, 60), "pixel_size": 2.0},
        bragg={"enabled": False},
    )
    simulate(settings, tmp_path)
    (image,) = (tmp_path / "images").glob("*.nxs")
    result = process_stills([image], part=(1, 3))
    assert list(result.failures) == [f"{image}#2", f"{image}#3"]
