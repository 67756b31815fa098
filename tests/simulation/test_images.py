from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model.experiment_list import ExperimentListFactory

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.simulation.crystals import StillState
from dials_diffuse.simulation.images import open_nexus, write_minicbf
from dials_diffuse.simulation.instrument.detectors import make_detector
from dials_diffuse.simulation.settings import DetectorSettings

STILL = StillState(0, wavelength=0.976543, exposure_time=0.0375, transmission=0.25)


def read_models(path):
    imageset = ExperimentListFactory.from_filenames([str(path)])[0].imageset
    instance = imageset.get_format_class().get_instance(str(path))
    return imageset, instance


def assert_same_geometry(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert np.allclose(a.get_D_matrix(), b.get_D_matrix(), atol=1e-5)
        assert a.get_image_size() == b.get_image_size()
        assert a.get_pixel_size() == pytest.approx(b.get_pixel_size())
        assert a.get_thickness() == pytest.approx(b.get_thickness())
        assert a.get_material() == b.get_material()
        assert a.get_mu() == pytest.approx(b.get_mu(), rel=1e-6)
        point = (3.2, 5.1)
        assert a.pixel_to_millimeter(point) == pytest.approx(b.pixel_to_millimeter(point))


def counts(detector, seed=1):
    generator = np.random.default_rng(seed)
    images = []
    for panel in detector:
        image = generator.poisson(3.0, panel.get_image_size()[::-1]).astype(np.int32)
        image[4, 7] = 100000
        image[5, 5] = -2
        images.append(image)
    return images


@pytest.mark.parametrize("pedestal", [0.0, 10.0])
def test_minicbf_comes_back_through_dxtbx(tmp_path, pedestal):
    settings = default_settings(
        DetectorSettings, image_size=(63, 41), pixel_size=0.172, pedestal=pedestal
    )
    detector = make_detector(settings, STILL.wavelength)
    (image,) = counts(detector)
    path = tmp_path / "still_00001.cbf"
    write_minicbf(path, image, detector, STILL)
    imageset, instance = read_models(path)
    raw = imageset.get_raw_data(0)[0]
    assert (as_numpy(raw) == image).all()
    assert_same_geometry(instance.get_detector(), detector)
    assert instance.get_beam().get_wavelength() == pytest.approx(STILL.wavelength)
    assert instance.get_beam().get_transmission() == pytest.approx(STILL.transmission)
    assert instance.get_scan().get_exposure_times()[0] == pytest.approx(STILL.exposure_time)
    mask = as_numpy(imageset.get_mask(0)[0])
    assert not mask[5, 5]
    assert mask[image == 0].all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "kind, groups", [("single", (1, 1)), ("tilted", (2, 2)), ("tilted", (4, 5))]
)
def test_nexus_comes_back_through_dxtbx(tmp_path, kind, groups):
    settings = default_settings(
        DetectorSettings,
        type=kind,
        groups=groups,
        image_size=(62, 45),
        two_theta=20.0,
        thickness=0.32,
    )
    detector = make_detector(settings, STILL.wavelength)
    path = tmp_path / "stills.nxs"
    stills = [
        StillState(i, STILL.wavelength * (1 + 0.01 * i), STILL.exposure_time, 1.0) for i in range(3)
    ]
    images = [counts(detector, seed) for seed in range(3)]
    with open_nexus(path, detector, stills) as writer:
        for image in images:
            writer.write(image)
    imageset, instance = read_models(path)
    assert len(imageset) == 3
    for number, image in enumerate(images):
        raw = imageset.get_raw_data(number)
        assert len(raw) == len(detector)
        for a, b in zip(raw, image):
            assert (as_numpy(a) == b).all()
        assert instance.get_beam(number).get_wavelength() == pytest.approx(
            stills[number].wavelength
        )
    assert_same_geometry(instance.get_detector(), detector)
    assert instance.get_scan().get_exposure_times()[0] == pytest.approx(STILL.exposure_time)
    assert instance.get_scan().get_oscillation()[1] == 0


def test_hierarchy_of_nexus_is_that_of_the_detector(tmp_path):
    detector = make_detector(
        default_settings(DetectorSettings, type="tilted", image_size=(40, 40)), 1.0
    )
    path = tmp_path / "stills.nxs"
    with open_nexus(path, detector, [STILL]):
        pass
    _, instance = read_models(path)
    root = instance.get_detector().hierarchy()
    # older dxtbx puts the frame of the whole detector into a group of its own
    while len(root) == 1:
        root = root[0]
    assert len(root) == 2
    for number, group in enumerate(root):
        assert len(group) == 2
        expected = detector.hierarchy()[number]
        assert np.allclose(group.get_origin(), expected.get_origin(), atol=1e-6)
        assert np.allclose(group.get_fast_axis(), expected.get_fast_axis(), atol=1e-9)


def test_minicbf_refuses_what_it_cannot_hold(tmp_path):
    detector = make_detector(default_settings(DetectorSettings, two_theta=5.0), 1.0)
    with pytest.raises(ValueError, match="format=nexus"):
        write_minicbf(tmp_path / "a.cbf", np.zeros((300, 300), np.int32), detector, STILL)
    with pytest.raises(ValueError, match="Can't write"):
        write_minicbf(
            tmp_path / "no" / "a.cbf",
            np.zeros((300, 300), np.int32),
            make_detector(default_settings(DetectorSettings), 1.0),
            STILL,
        )
    assert not list(tmp_path.iterdir())
