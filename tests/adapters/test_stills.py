"""The unit of work: which image, which orientation."""

from __future__ import annotations

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dxtbx.model import (
    BeamFactory,
    Crystal,
    DetectorFactory,
    Experiment,
    ExperimentList,
    GoniometerFactory,
    ScanFactory,
)
from dxtbx.model.experiment_list import ExperimentListFactory

from dials.array_family import flex

from dials_diffuse.adapters.stills import (
    Still,
    check_given_once,
    group_by_image,
    image_key,
    stills_of,
)
from dials_diffuse.adapters.tables import as_numpy


def small(tmp_path_factory, name, **groups):
    settings = simulation_settings(
        **{
            "stills": 3,
            "detector": {"image_size": [60, 60], "pixel_size": 2.0},
            "bragg": {"enabled": False},
            **groups,
        }
    )
    return simulate(settings, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def nexus(tmp_path_factory):
    """Experiments of three images of one file."""
    return small(tmp_path_factory, "nexus", format="nexus").experiments


@pytest.fixture(scope="module")
def cbf_files(tmp_path_factory):
    experiments = small(tmp_path_factory, "cbf", format="cbf").experiments
    return [experiment.imageset.get_path(0) for experiment in experiments]


@pytest.fixture
def crystal():
    return Crystal((31, 2, 1), (-3, 40, 2), (1, -4, 55), space_group_symbol="P1")


def turned_experiment(crystal, fixed=True, setting=True, oscillation=(25.0, 3.0)):
    """One image of a sweep on a goniometer with all its rotations."""

    def rotation(axis, angle):
        from scitbx.matrix import col

        return col(axis).normalize().axis_and_angle_as_r3_rotation_matrix(angle, deg=True).elems

    goniometer = GoniometerFactory.make_goniometer(
        (0.8, 0.0, 0.6), rotation((1, 2, 3), 40) if fixed else (1, 0, 0, 0, 1, 0, 0, 0, 1)
    )
    if setting:
        goniometer.set_setting_rotation(rotation((-1, 1, 0.5), 25))
    scan = None
    if oscillation is not None:
        scan = ScanFactory.make_scan((7, 7), [0.1], oscillation, {7: 0.0})
    detector = DetectorFactory.simple(
        "PAD", 120.0, (50.0, 50.0), "+x", "-y", (0.5, 0.5), (200, 200), (-0.5, 1e6)
    )
    return Experiment(
        beam=BeamFactory.simple(1.0),
        detector=detector,
        goniometer=goniometer,
        scan=scan,
        crystal=crystal,
        identifier="turned",
    )


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("setting", [True, False])
def test_orientation_is_that_of_dials(crystal, fixed, setting):
    """DIALS rotates the rays back into the crystal's frame; h must be the same."""
    experiment = turned_experiment(crystal, fixed, setting)
    still = Still(0, experiment)
    assert still.image_number == 6.5
    rng = np.random.default_rng(2)
    pixels = rng.uniform(0, 200, (20, 2))
    table = flex.reflection_table()
    table["id"] = flex.int(20, 0)
    table["imageset_id"] = flex.int(20, 0)
    table["panel"] = flex.size_t(20, 0)
    table["xyzobs.px.value"] = flex.vec3_double([(x, y, still.image_number) for x, y in pixels])
    table["xyzobs.px.variance"] = flex.vec3_double(20, (1, 1, 1))
    experiments = ExperimentList([experiment])
    table.centroid_px_to_mm(experiments)
    table.map_centroids_to_reciprocal_space(experiments)
    a = np.array(crystal.get_A()).reshape(3, 3)
    expected = as_numpy(table["rlp"]) @ np.linalg.inv(a).T
    panel, beam = experiment.detector[0], experiment.beam
    s1 = np.array([panel.get_pixel_lab_coord(tuple(xy)) for xy in pixels])
    s1 /= np.linalg.norm(s1, axis=1, keepdims=True) * beam.get_wavelength()
    q = s1 - np.array(beam.get_s0())
    found = q @ np.linalg.inv(still.setting_matrix()).T
    assert found == pytest.approx(expected, abs=1e-9)


def test_without_goniometer_or_scan(crystal):
    plain = Experiment(crystal=crystal)
    a = np.array(crystal.get_A()).reshape(3, 3)
    assert Still(0, plain).setting_matrix() == pytest.approx(a)
    assert Still(0, plain).image_number == 0.5


@pytest.mark.parametrize("oscillation", [None, (90.0, 0.0)])
def test_goniometer_of_a_still_does_not_turn_the_crystal(crystal, oscillation):
    """dials.ssx_index keeps goniometer and scan of the import, beside an A of the lab frame."""
    experiment = turned_experiment(crystal, oscillation=oscillation)
    table = flex.reflection_table.from_predictions(experiment, dmin=1.5)
    on_sphere = np.abs(as_numpy(table["delpsical.rad"])) < 1e-3
    assert on_sphere.sum() > 10
    q = as_numpy(table["s1"])[on_sphere] - np.array(experiment.beam.get_s0())
    found = q @ np.linalg.inv(Still(0, experiment).setting_matrix()).T
    assert found == pytest.approx(as_numpy(table["miller_index"])[on_sphere], abs=0.05)


def test_scan_varying_crystal_is_taken_at_the_middle(crystal):
    experiment = turned_experiment(crystal, False, False, (0.0, 0.0))
    a = np.array(crystal.get_A()).reshape(3, 3)
    changed = a * 1.02
    crystal.set_A_at_scan_points([tuple(a.ravel()), tuple(changed.ravel())])
    assert Still(0, experiment).setting_matrix() == pytest.approx(a * 1.01)


def test_stills_know_their_images(nexus):
    stills = stills_of(nexus)
    assert [still.index for still in stills] == [0, 1, 2]
    assert len({image_key(still) for still in stills}) == 3
    for still in stills:
        assert still.path.endswith(".h5") or still.path.endswith(".nxs")
        assert still.crystal is still.experiment.crystal


def test_images_that_share_an_imageset_are_found_by_their_scan(cbf_files, crystal):
    sequence = ExperimentListFactory.from_filenames(cbf_files)[0]
    imageset = sequence.imageset
    assert len(imageset) == 3
    experiments = ExperimentList()
    first = imageset.get_scan().get_array_range()[0] if imageset.get_scan() else 0
    for number in (2, 0):
        scan = ScanFactory.make_scan(
            (first + number + 1,) * 2, [0.1], (0.0, 0.0), {first + number + 1: 0.0}
        )
        experiments.append(
            Experiment(
                imageset=imageset,
                beam=sequence.beam,
                detector=sequence.detector,
                scan=scan,
                crystal=crystal,
            )
        )
    assert [still.image_index for still in stills_of(experiments)] == [2, 0]
    assert [still.path for still in stills_of(experiments)] == [cbf_files[2], cbf_files[0]]
    experiments[0].scan = None
    with pytest.raises(ValueError, match="no scan but its imageset holds 3 images"):
        stills_of(experiments)


def test_lattices_of_one_image_come_together(nexus):
    second = ExperimentList(nexus)
    other = Experiment(
        imageset=nexus[1].imageset,
        beam=nexus[1].beam,
        detector=nexus[1].detector,
        crystal=nexus[0].crystal,
    )
    second.append(other)
    groups = group_by_image(stills_of(second))
    assert [[still.index for still in group] for group in groups] == [[0], [1, 3], [2]]


@pytest.mark.parametrize("name", ["crystal", "detector", "beam", "imageset"])
def test_what_is_missing_is_named(nexus, name):
    models = {key: getattr(nexus[0], key) for key in ("crystal", "detector", "beam", "imageset")}
    models.pop(name)
    with pytest.raises(ValueError, match=f"Experiment 1 has no {name}"):
        stills_of(ExperimentList([nexus[0], Experiment(**models)]))


def test_no_experiments_are_refused():
    with pytest.raises(ValueError, match="no experiments"):
        stills_of(ExperimentList())


def test_a_still_given_twice():
    one, other, nameless = (Experiment(identifier=name) for name in ("one", "other", ""))
    seen = {}
    check_given_once([one, nameless], "a.expt", seen)
    check_given_once([other, nameless], "b.expt", seen)
    with pytest.raises(ValueError, match=r"one is in the input twice \(in a.expt and in c.expt\)"):
        check_given_once([one], "c.expt", seen)
