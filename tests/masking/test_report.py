from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.masking import report
from dials_diffuse.masking.bright.check import BrightGroups
from dials_diffuse.masking.bright.features import RegionCounts
from dials_diffuse.masking.bright.rings import N_RINGS
from dials_diffuse.masking.image_check import MANY_PANELS, ImageCheck
from dials_diffuse.report.html import plots_of


def test_pixels_of_each_cause():
    one, two = np.zeros((2, 4, 5), dtype=bool)
    one[0, :4], two[0, 2:5] = True, True
    causes = {"hot": [one, one], "cold": [two, np.zeros_like(two)]}
    assert report.causes_table(causes) == [
        ["panel", "hot", "cold", "any", "% of the panel"],
        ["0", 4, 3, 5, "25.00"],
        ["1", 4, 0, 4, "20.00"],
        ["all", 8, 3, 9, "22.50"],
    ]
    single = report.causes_table({"hot": [one]})
    assert single == [["panel", "hot", "any", "% of the panel"], ["all", 4, 4, "20.00"]]


def test_the_worst_of_many_panels_are_listed():
    masks = [np.zeros((5, 5), dtype=bool) for _ in range(2 * MANY_PANELS)]
    for number in range(3, 3 + MANY_PANELS):
        masks[number][0, 0] = True
    rows = report.causes_table({"hot": masks})[1:]
    assert [row[0] for row in rows] == [*map(str, range(3, 3 + MANY_PANELS)), "all"]
    assert rows[-1][1:] == [MANY_PANELS, MANY_PANELS, "2.00"]


def test_images_in_a_row_each():
    check = ImageCheck(
        "/data/image.cbf",
        0.123,
        7,
        [BrightGroups(3, 20.0, 1), BrightGroups(2, 35.55, 0)],
        [BrightGroups(0, 0.0, 1), BrightGroups(1, 10.5, 0)],
        np.zeros((2, N_RINGS)),
        {},
    )
    assert report.checks_table([check])[1] == ["image.cbf", "12.3", 7, 5, 1, "35.5", "10.5", "nan"]


def test_bright_groups_of_the_images_with_most():
    counts = {f"/data/{n}.cbf": RegionCounts(n, n // 2, 0) for n in range(report.MANY_IMAGES + 2)}
    _, *rows, total = report.bright_table(counts)
    assert [row[0] for row in rows] == [f"{n}.cbf" for n in range(2, report.MANY_IMAGES + 2)]
    assert rows[1] == ["3.cbf", 3, 1, "33.3", 2, 0]
    assert total == ["all 22", 231, 110, "47.6", 121, 0]


def test_numbers(masked):
    numbers = report.numbers(masked)
    json.dumps(numbers)
    ids = as_numpy(masked.reflections["id"])
    assert numbers["spots_per_still"] == [int((ids == i).sum()) for i in range(4)]
    border = 150**2 - 144**2
    assert numbers["pixels_removed"][0][:3] == ["panel", "detector and lookup mask", "parameters"]
    assert numbers["pixels_removed"][1][2] == border
    assert len(numbers["bright_groups"]) == 4
    assert len(numbers["images"]) == 3 and numbers["models"] == {}
    assert numbers["spot_size"] == masked.size_fit.table()


def test_sections(masked):
    sections = report.sections(masked)
    assert [section.title for section in sections] == [
        "Images",
        "Pixels removed from every image",
        "Size of Bragg spots",
        "Bright groups that no lattice explains",
        "Images with their masks",
        "Mean image",
    ]
    assert len(sections[4].images) == 2
    for picture in (*sections[4].images.values(), *sections[5].images.values()):
        assert picture.startswith(b"\x89PNG")
    plots = plots_of(sections)
    size, profile = (plots[name]["data"] for name in ("spot_size", "radial_profile"))
    assert size[0]["y"] == pytest.approx(masked.size_fit.radial, rel=1e-3)
    before, after = (np.array(line["y"]) for line in profile)
    assert len(before) > 50 and (after <= before + 1e-3 * before).mean() > 0.9
    assert after.mean() < before.mean()


def test_sections_of_what_is_there_only(masked):
    bare = dataclasses.replace(
        masked,
        survey=None,
        size_fit=None,
        bright={},
        checks=[],
        failures={"image.cbf": "truncated"},
    )
    sections = report.sections(bare)
    assert [section.title for section in sections] == [
        "Images",
        "Pixels removed from every image",
        "Images and stills that are not used",
    ]
    assert sections[2].tables[0][1] == ["image.cbf", "truncated"]
    assert {"spot_size", "images", "bright_groups"}.isdisjoint(report.numbers(bare))


def test_the_log_has_the_tables(masked, caplog):
    with caplog.at_level("INFO"):
        report.log_result(masked)
    for text in ("Pixels removed from every image", "Images compared", "on 1 panels"):
        assert text in caplog.text
