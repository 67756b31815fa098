from __future__ import annotations

import types

import numpy as np
import pytest

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import BeamFactory, DetectorFactory

from dials_diffuse.adapters.tables import mask_as_flex
from dials_diffuse.masking.pixels import causes, static
from dials_diffuse.masking.pixels.causes import dynamic_causes, remaining, static_causes
from dials_diffuse.masking.pixels.sums import PixelSums
from dials_diffuse.phil.mask import phil_scope

SIZE = (30, 40)


@pytest.fixture
def imageset():
    """One image of 30 x 40 pixels that is never read."""
    imageset = ImageSetFactory.make_imageset(["image.cbf"], check_format=False)
    imageset.set_beam(BeamFactory.simple(1.0))
    imageset.set_detector(
        DetectorFactory.simple(
            "PAD", 100, (4, 3), "+x", "-y", (0.2, 0.2), SIZE[::-1], trusted_range=(0, 1000)
        )
    )
    return imageset


def parameters(**values):
    params = phil_scope.extract()
    for name, value in values.items():
        setattr(params, name, value)
    return params


def test_causes_that_need_no_image(imageset):
    lookup = np.ones(SIZE, dtype=bool)
    lookup[10:12] = False
    static.set_lookup_mask([imageset], [lookup], "lookup.mask")
    found, differ = static_causes([imageset], parameters(border=2))
    assert not differ
    assert list(found) == ["detector and lookup mask", "parameters"]
    border = np.ones(SIZE, dtype=bool)
    border[2:-2, 2:-2] = False
    assert np.array_equal(found["detector and lookup mask"][0], ~lookup)
    assert np.array_equal(found["parameters"][0], border)
    assert np.array_equal(remaining(found)[0], lookup & ~border)
    with pytest.raises(ValueError, match="border=15"):
        static_causes([imageset], parameters(border=15))


def test_a_detector_of_which_nothing_is_left():
    few, most = np.zeros((2, 3, 4), dtype=bool)
    few[0], most[1:] = True, True
    assert [mask.sum() for mask in remaining({"few": [few], "none": [~few & few]})] == [8]
    with pytest.raises(ValueError, match="Most are removed by: most"):
        remaining({"few": [few], "most": [most]})


def test_faulty_pixels_are_no_part_of_the_search_for_shadows(imageset, monkeypatch, caplog):
    """Each search is made where it is asked for; shadows are looked for among good pixels."""
    sums = PixelSums.empty([SIZE])
    sums.images = 2
    good = [np.ones(SIZE, dtype=bool)]
    good[0][:5] = False
    hot, dark = np.zeros((2, *SIZE), dtype=bool)
    hot[7, 7] = dark[20:25, 20:25] = True
    searched = []

    def find_shadows(sums, good, detector, beam, stills):
        searched.append(good[0])
        return [dark]

    monkeypatch.setattr(causes, "judge_pixels", lambda sums, fraction: {"hot": [hot]})
    monkeypatch.setattr(causes, "find_shadows", find_shadows)
    arguments = sums, good, imageset.get_detector(), imageset.get_beam()

    def found(enable, shadow):
        params = types.SimpleNamespace(enable=enable, shadow=shadow, fraction=0.5)
        return dynamic_causes(*arguments, params)

    with caplog.at_level("INFO"):
        assert found(True, True) == {"hot": [hot], "shadow": [dark]}
    assert "2 images are too few" in caplog.text
    assert np.array_equal(searched[-1], good[0] & ~hot)
    assert found(False, True) == {"shadow": [dark]}
    assert np.array_equal(searched[-1], good[0])
    assert found(True, False) == {"hot": [hot]}
    assert found(False, False) == {}
    # Masks of the caller are as they were
    assert good[0].sum() == 25 * 40


def test_the_lookup_mask_must_fit(imageset):
    imageset.external_lookup.mask.data = type(imageset.external_lookup.mask.data)(
        (mask_as_flex(np.ones((30, 41), dtype=bool)),)
    )
    with pytest.raises(ValueError, match="lookup mask"):
        static_causes([imageset], parameters())
