from __future__ import annotations

from dataclasses import fields

import numpy as np

from dials_diffuse.masking.pixels.sums import PixelSums


def test_sums_of_images_add_up():
    sizes, rng = [(3, 4), (2, 2)], np.random.default_rng(1)
    parts = [PixelSums.empty(sizes) for _ in range(2)]
    names = [field.name for field in fields(PixelSums) if field.name != "images"]
    for number, part in enumerate(parts):
        part.images = number + 2
        for name in names:
            for array in getattr(part, name):
                array[:] = rng.integers(0, 9, array.shape)
    first, second = parts
    combine = {"least": np.minimum, "most": np.maximum}
    expected = {
        name: [
            combine.get(name, np.add)(a, b)
            for a, b in zip(getattr(first, name), getattr(second, name))
        ]
        for name in names
    }
    first.add(second)
    assert first.images == 5
    for name in names:
        for got, want in zip(getattr(first, name), expected[name]):
            assert got.dtype == want.dtype and np.array_equal(got, want), name


def test_nothing_is_summed_at_first():
    empty, sums = PixelSums.empty([(2, 3)]), PixelSums.empty([(2, 3)])
    sums.least[0][:], sums.most[0][:] = 3, 5
    empty.add(sums)
    assert empty.images == 0 and not empty.valid[0].any()
    assert (empty.least[0] == 3).all() and (empty.most[0] == 5).all()
