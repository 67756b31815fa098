"""The files of batches: names, ids, and room that becomes free."""

from __future__ import annotations

import pytest
from extracted_stills import UNIFORM, settings_of, simulated

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.extraction.extractor import ExtractedStill
from dials_diffuse.extraction.output import ExtractedFiles
from dials_diffuse.extraction.processes import extract_pair, observation_scratch
from dials_diffuse.extraction.result import StillSummary
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.extraction.workflow import reference_grid
from dials_diffuse.grid.voxel_grid import grid_of
from dials_diffuse.io import batches
from dials_diffuse.masking.masker import RowMasker
from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.phil.extract import phil_scope


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    settings = settings_of(UNIFORM, stills=3, detector={"image_size": [60, 60], "pixel_size": 2.0})
    return simulated(tmp_path_factory.mktemp("stills"), settings)[1]


def written(pair, tmp_path, batch_size=None):
    """Three stills, the second of which failed; returns the names and the rows of each still in the files."""
    output = phil_scope.extract().output
    output.batch_size = batch_size
    output.experiments, output.reflections = (str(tmp_path / f"x.{s}") for s in ("expt", "refl"))
    settings = default_settings(ExtractionSettings)
    experiments = load_experiments(pair.experiments, check_format=False)
    grid = reference_grid(experiments, settings)
    with observation_scratch(experiments, tmp_path) as scratch:
        with ExtractedFiles(output, grid, scratch, RowMasker(), 3) as files:
            for number, (experiment, still) in enumerate(
                extract_pair(pair, settings, RowMasker(), scratch=scratch)
            ):
                if number == 1:
                    still = ExtractedStill(1, 0.5, StillSummary("x", "failed"))
                files.add(experiment, still)
            files.write()
            files.write()
    rows = {}
    for path in sorted(tmp_path.glob("*.refl")):
        table = flex.reflection_table.from_file(str(path))
        experiments = load_experiments(path.with_suffix(".expt"), check_format=False)
        table.assert_experiment_identifiers_are_consistent(experiments)
        assert grid_of(experiments).to_dict() == grid.to_dict()
        rows[path.stem] = [(table["id"] == i).count(True) for i in range(len(experiments))]
    return rows


def test_one_file(pair, tmp_path):
    rows = written(pair, tmp_path)
    assert list(rows) == ["x"] and len(rows["x"]) == 3
    assert rows["x"][0] > 100 and rows["x"][1] == 0 and rows["x"][2] > 100


def test_batches_of_a_given_size(pair, tmp_path):
    rows = written(pair, tmp_path, batch_size=2)
    assert list(rows) == ["x_0001", "x_0002"]
    assert [len(counts) for counts in rows.values()] == [2, 1]
    assert rows["x_0001"][1] == 0 and rows["x_0002"][0] > 100


def test_batches_where_one_file_would_be_too_long(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "MOST_ROWS", 1000)
    assert list(written(pair, tmp_path)) == ["x_0001", "x_0002", "x_0003"]
