from __future__ import annotations

import pytest

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.stills import NothingLeft
from dials_diffuse.masking.lattices import leave_out_unmasked, select_lattices, select_stills


@pytest.fixture
def shared(pair):
    """Four stills of which the second and third share an image; a table of one row each."""
    experiments, _ = pair
    experiments[2].imageset = experiments[1].imageset
    table = flex.reflection_table()
    table["id"] = flex.int(range(4))
    for number, experiment in enumerate(experiments):
        table.experiment_identifiers()[number] = experiment.identifier
    return experiments, table


def names(experiments) -> list[str]:
    return [experiment.identifier for experiment in experiments]


def test_a_selection_is_numbered_anew(shared):
    experiments, table = shared
    kept, rows = select_stills([experiments[3], experiments[0]], table)
    assert names(kept) == [experiments[3].identifier, experiments[0].identifier]
    rows.assert_experiment_identifiers_are_consistent(kept)
    assert sorted(rows["id"]) == [0, 1]
    assert select_stills([experiments[0]], None)[1] is None


def test_images_with_several_lattices(shared):
    experiments, table = shared
    assert select_lattices(experiments, table, "keep") == (experiments, table, 0)
    kept, rows, n_left_out = select_lattices(experiments, table, "exclude")
    assert n_left_out == 1
    assert names(kept) == [experiments[0].identifier, experiments[3].identifier]
    assert len(rows) == 2
    with pytest.raises(ValueError, match="multi_lattice=keep"):
        select_lattices(ExperimentList(list(experiments[1:3])), None, "exclude")


def test_a_lattice_whose_spots_are_unknown_takes_its_image_with_it(shared):
    experiments, table = shared
    failures = {experiments[2].identifier: "no mosaicity", "image.cbf": "unreadable"}
    kept, rows = leave_out_unmasked(experiments, table, failures)
    assert names(kept) == [experiments[0].identifier, experiments[3].identifier]
    assert list(rows["id"]) == [0, 1]
    assert failures[experiments[2].identifier] == "no mosaicity"
    assert "still 2" in failures[experiments[1].identifier]
    assert len(failures) == 3


def test_all_or_none(shared):
    experiments, table = shared
    assert leave_out_unmasked(experiments, table, {}) == (experiments, table)
    with pytest.raises(NothingLeft, match="why"):
        leave_out_unmasked(experiments, table, dict.fromkeys(names(experiments), "why"))
