from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """Four stills of 150 x 150 pixels, in a folder of their own."""
    from simulations import simulate, simulation_settings

    settings = simulation_settings(stills=4, detector={"image_size": (150, 150), "pixel_size": 0.8})
    folder = tmp_path_factory.mktemp("stills")
    simulate(settings, folder)
    return folder


@pytest.fixture
def pair(simulated):
    """These stills, read anew: (experiments, reflections)."""
    from dials_diffuse.adapters.inputs import DataPair

    return DataPair(simulated / "simulated.expt", simulated / "simulated.refl").load()


@pytest.fixture(scope="session")
def masked(simulated, tmp_path_factory):
    """Their masks, with two images that were compared with them."""
    from dials_diffuse.adapters.inputs import DataPair
    from dials_diffuse.masking.image_check import check_images
    from dials_diffuse.masking.workflow import make_masks
    from dials_diffuse.phil.mask import phil_scope

    params = phil_scope.extract()
    params.nproc, params.border = 1, 3
    params.output.mask = str(tmp_path_factory.mktemp("masks") / "pixels.mask")
    pair = DataPair(simulated / "simulated.expt", simulated / "simulated.refl")
    result = make_masks(*pair.load(), params)
    result.checks = check_images(result, 2, pictures=True)
    return result
