from __future__ import annotations

import pytest

from dials_diffuse.phil.process import STEP_SCOPES, phil_scope
from dials_diffuse.pipeline import parameters
from dials_diffuse.pipeline.step_parameters import index_phil, step_phil, with_short_forms


def phil_of(step, folder, *assignments):
    return step_phil(step, with_short_forms(parameters(*assignments)), folder)


def test_defaults_give_nothing_to_the_steps(tmp_path):
    for step in STEP_SCOPES:
        assert phil_of(step, tmp_path) == ("", ())


def test_steps_have_all_parameters_of_their_commands_but_what_the_pipeline_decides():
    for step, scope in STEP_SCOPES.items():
        theirs = {item.name for item in scope.objects}
        (ours,) = (item for item in phil_scope.objects if item.name == step)
        decided = {"output", "nproc"} | ({"survey"} if step == "extract" else set())
        assert {item.name for item in ours.objects} == theirs - decided


def test_parameters_reach_their_step(tmp_path):
    text, files = phil_of("mask", tmp_path, "mask.bragg.n_sigma=5")
    assert text.split() == "bragg { n_sigma = 5 }".split()
    assert files == ()
    text, _ = phil_of("extract", tmp_path, "d_min=2.5", "subdivide=1,1,1", "background=0.5")
    assert {line.strip() for line in text.splitlines()} == {
        "subdivide = 1 1 1",
        "d_min = 2.5",
        'background = "0.5"',
    }
    text, _ = phil_of("absolute", tmp_path, "composition.sequence=GAVL", "composition.copies=8")
    assert "sequence = " in text and "copies = 8" in text


def test_files_in_parameters_are_watched(tmp_path):
    (tmp_path / "empty.expt").write_text("{}")
    _, files = phil_of("extract", tmp_path, "background=empty.expt")
    assert files == (str(tmp_path / "empty.expt"),)
    # a sequence is a string too, and longer than a file name may be
    _, files = phil_of("absolute", tmp_path, f"composition.sequence={'GAVLIS' * 100}")
    assert files == ()


def test_parameter_files_of_steps(tmp_path):
    (tmp_path / "mine.phil").write_text("bragg { n_sigma = 6\n padding = 2 }\n")
    text, _ = phil_of("mask", tmp_path, "step_phil.mask=mine.phil", "mask.bragg.n_sigma=5")
    assert "n_sigma = 5" in text and "padding = 2" in text
    (tmp_path / "mine.phil").write_text("no_such_thing = 6\n")
    with pytest.raises(ValueError, match="dials.diffuse_mask has no parameter no_such_thing"):
        phil_of("mask", tmp_path, "step_phil.mask=mine.phil")


def test_contradictions():
    with_short_forms(parameters("d_min=2", "extract.d_min=2"))
    with pytest.raises(ValueError, match="d_min=2.0 contradicts extract.d_min=3.0"):
        with_short_forms(parameters("d_min=2", "extract.d_min=3"))


@pytest.mark.parametrize(
    "text", ["no_such_thing=1", "mp.nproc=many", "steps=dance", "no_such { thing = 1 }"]
)
def test_parameters_that_do_not_exist_or_make_no_sense(text):
    with pytest.raises(ValueError):
        parameters(text)


def test_cell_and_symmetry_for_images(tmp_path):
    from iotbx.phil import parse

    (tmp_path / "index.phil").write_text("spotfinder.filter.min_spot_size = 7\n")
    text = index_phil(
        parameters(
            "unit_cell=58,58,150,90,90,90", "space_group=P41212", "step_phil.index=index.phil"
        ),
        tmp_path,
    )
    scope = parse(
        "spotfinder.filter.min_spot_size = 3\n.type = int\n"
        "indexing.known_symmetry { unit_cell = None\n.type = unit_cell\nspace_group = None\n.type = space_group\n}"
    )
    params = scope.fetch(parse(text)).extract()
    assert params.spotfinder.filter.min_spot_size == 7
    assert params.indexing.known_symmetry.unit_cell.parameters() == (58, 58, 150, 90, 90, 90)
    assert str(params.indexing.known_symmetry.space_group) == "P 41 21 2"
