"""Numbers and plots of the report of a simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from simulations import few_stills, simulate

from dials_diffuse.simulation import report


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    settings = few_stills(background={"flat": 0.5, "empty_shots": 1}, scale={"spread": 0.3})
    return simulate(settings, tmp_path_factory.mktemp("simulated"))


def test_main_numbers(result):
    rows = dict(report.rows(result))
    assert (rows["images"], rows["experiments"], rows["empty shots"], rows["panels"]) == (
        3,
        3,
        1,
        1,
    )
    table = result.reflections
    strong = sum(1 for flag in table["flags"] if flag & int(table.flags.strong))
    assert rows["reflections (strong)"] == f"{len(table)} ({strong})" and 0 < strong < len(table)
    images = [result.simulator.image(still)[0] for still in result.simulator.stills]
    assert rows["photons a pixel, mean"] == f"{np.mean(images):.3f}"
    b = sorted(still.lattices[0].scale for still in result.simulator.stills)
    assert rows["scales b, lowest to highest"] == f"{b[0]:.3f} to {b[-1]:.3f}"
    numbers = report.numbers(result)
    assert numbers == {"summary": rows}
    json.dumps(numbers)


def test_resolution_is_that_of_dxtbx(result):
    (found,) = (value for name, value in report.rows(result) if name.startswith("resolution"))
    detector, beam = result.simulator.models(result.simulator.stills[0])
    expected = detector.get_max_resolution(beam.get_s0())
    assert float(found.removesuffix(" A")) == pytest.approx(expected, rel=0.02)


def test_plots(result):
    (section,) = report.sections(result)
    json.dumps(section.plots)
    assert section.tables[0][1] == ["images", "3"]
    simulator = result.simulator
    still = simulator.stills[0]
    image = section.plots["simulated_image"]["data"][0]
    np.testing.assert_array_equal(image["z"], simulator.image(still)[0])
    scales = section.plots["simulated_scales"]["data"][0]
    assert scales["y"] == pytest.approx([s.lattices[0].scale for s in simulator.stills])
    # ring means of a component times pixels of the rings are all its photons
    q = simulator.q_lengths(still)[0].ravel()
    number = np.histogram(q, np.linspace(0, q.max(), 61))[0]
    curves = {curve["name"]: curve for curve in section.plots["simulated_profiles"]["data"]}
    assert {"diffuse", "bragg", "compton"} <= set(curves)
    for name, curve in curves.items():
        total = simulator.expected(still)[name][0].sum()
        assert np.dot(curve["y"], number) == pytest.approx(total, rel=1e-3)
