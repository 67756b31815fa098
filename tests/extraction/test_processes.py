"""Many processes against one, whatever way they are started."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from extracted_stills import UNIFORM, columns_of, settings_of, simulated

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.extraction.extractor import Extractor
from dials_diffuse.extraction.observations import COLUMNS, StoredObservations
from dials_diffuse.extraction.processes import extract_pair, observation_scratch
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.masking.masker import RowMasker
from dials_diffuse.phil.defaults import default_settings


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Three images of two lattices each"""
    settings = settings_of(
        UNIFORM,
        stills=3,
        crystal={"lattices": 2},
        detector={"type": "single", "image_size": [100, 100], "pixel_size": 1.2},
    )
    return simulated(tmp_path_factory.mktemp("stills"), settings)[1]


def test_the_number_of_processes_changes_nothing(pair):
    one, two = columns_of(pair, nproc=1), columns_of(pair, nproc=2)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_the_extractor_travels_as_the_names_of_its_files(pair):
    """Processes start afresh: what they get is pickled."""
    extractor = Extractor(pair, default_settings(ExtractionSettings), RowMasker())
    pickled = pickle.dumps(extractor)
    assert len(pickled) < 2000
    ours, theirs = (e.extract_block(1) for e in (extractor, pickle.loads(pickled)))
    for one, other in zip(ours, theirs):
        for name, column in one.observations.columns.items():
            assert np.array_equal(column, other.observations.columns[name])


def test_observations_are_stored_and_slots_of_failures_are_free(pair, tmp_path):
    experiments = load_experiments(pair.experiments, check_format=False)
    missing = experiments[2].imageset.get_path(0)
    image = tmp_path / "image"
    with open(missing, "rb") as handle:
        image.write_bytes(handle.read())
    alone = columns_of(pair)
    try:
        with open(missing, "wb") as handle:
            handle.write(b"no image")
        with observation_scratch(experiments, tmp_path) as scratch:
            settings = default_settings(ExtractionSettings)
            found = list(extract_pair(pair, settings, RowMasker(), scratch=scratch))
            assert [still.index for _, still in found] == list(range(6))
            failed = [bool(still.summary.error) for _, still in found]
            on_missing = [e.imageset.get_path(0) == missing for e in experiments]
            assert failed == on_missing and sum(failed) == 2
            slots = [still.observations.slot for _, still in found if still.observations]
            assert len(set(slots)) == 4
            assert scratch.reserve() not in slots
            stored = found[0][1].observations
            assert isinstance(stored, StoredObservations)
            columns = scratch.stored(stored.slot, stored.n_rows, stored.repeated)
            assert set(columns) == set(COLUMNS)
            assert np.array_equal(columns["background"], alone["background"][alone["id"] == 0])
    finally:
        with open(missing, "wb") as handle:
            handle.write(image.read_bytes())
