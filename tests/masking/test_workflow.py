"""The whole mask on simulated stills, whose Bragg photons and bad pixels are known."""

from __future__ import annotations

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.masking.masker import RowMasker, complete_mask
from dials_diffuse.masking.spots.shape import shape_of_model
from dials_diffuse.masking.workflow import make_masks, run
from dials_diffuse.phil.mask import phil_scope


def parameters(folder, **values):
    params = phil_scope.fetch().extract()
    params.nproc = 1
    params.output.mask = str(folder / "pixels.mask")
    for name, value in values.items():
        *scopes, last = name.split("__")
        scope = params
        for part in scopes:
            scope = getattr(scope, part)
        setattr(scope, last, value)
    return params


def settings_of(stills=6, **groups):
    return simulation_settings(**groups, stills=stills)


def bragg_left(simulated, result, q_max=0.5):
    """(part of the Bragg photons removed, part of the pixels removed) to q_max, 1/A."""
    masker = RowMasker(result.reflections)
    photons = left = pixels = masked = 0.0
    groups = group_by_image(stills_of(result.experiments))
    for group, still in zip(groups, simulated.simulator.stills):
        expected = simulated.simulator.expected(still)["bragg"]
        lengths = simulated.simulator.q_lengths(still)
        for bragg, mask, q in zip(expected, masker.bragg(group), lengths):
            inside = q < q_max
            photons += bragg[inside].sum()
            left += bragg[inside & ~mask].sum()
            pixels += inside.sum()
            masked += (inside & mask).sum()
    return 1 - left / photons, masked / pixels


def test_the_step_writes_its_files_and_masks_by_survey(simulated, run_in_tmp_path):
    inputs = Inputs([DataPair(simulated / "simulated.expt", simulated / "simulated.refl")], [])
    params = parameters(
        run_in_tmp_path, output__survey="survey.pickle", output__html=None, report__n_images=1
    )
    result = run(inputs, params)
    assert result.checks == [] and not result.failures
    files = {path.name for path in run_in_tmp_path.iterdir()}
    assert files == {"pixels.mask", "diffuse_masked.expt", "diffuse_masked.refl", "survey.pickle"}
    table = flex.reflection_table.from_file("diffuse_masked.refl")
    assert list(table["xyzcal.px"]) == list(result.reflections["xyzcal.px"])
    params = parameters(run_in_tmp_path, survey="survey.pickle", output__json="mask.json")
    by_survey = run(inputs, params)
    assert list(by_survey.reflections["xyzcal.px"]) == list(table["xyzcal.px"])
    assert (run_in_tmp_path / "mask.json").exists()
    for pairs in ([], [inputs.pairs[0]] * 2):
        with pytest.raises(ValueError, match=f"{len(pairs)} were given"):
            run(Inputs(pairs, []), params)


@pytest.mark.parametrize("domain_size", [300, 1000])
@pytest.mark.parametrize(
    "mosaicity, bandwidth", [(0.05, 0.0), (0.05, 0.00425), (0.5, 0.0), (0.5, 0.00425)]
)
def test_bragg_photons_go_and_most_pixels_stay(tmp_path, mosaicity, domain_size, bandwidth):
    simulated = simulate(
        settings_of(
            crystal={"mosaicity": mosaicity, "domain_size": domain_size},
            beam={"bandwidth": bandwidth},
        ),
        tmp_path,
    )
    result = make_masks(simulated.experiments, simulated.reflections, parameters(tmp_path))
    removed, lost = bragg_left(simulated, result)
    assert removed > 0.995
    assert lost < 0.15
    fit = result.size_fit
    true = np.hypot(0.3762 / domain_size, np.radians(mosaicity) / 2.3548 * fit.q)
    strong = fit.nodes > np.median(fit.nodes) / 2
    assert np.median(fit.excitation[strong] / true[strong]) == pytest.approx(1, abs=0.25)


def test_two_lattices_and_a_tilted_detector_of_four_panels(tmp_path):
    simulated = simulate(
        settings_of(4, crystal={"lattices": 2}, detector={"type": "tilted"}), tmp_path
    )
    result = make_masks(
        simulated.experiments,
        simulated.reflections,
        parameters(tmp_path, bragg__multi_lattice="keep"),
    )
    assert len(result.experiments) == 8 and len(result.good) == 4
    removed, lost = bragg_left(simulated, result)
    assert removed > 0.995 and lost < 0.15
    with pytest.raises(ValueError, match="several lattices"):
        make_masks(simulated.experiments, simulated.reflections, parameters(tmp_path))


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defective")
    return simulate(
        settings_of(
            16,
            defects={"hot": 40, "dead": 40, "negative": 20, "beam_stop": 8.0, "beam_stop_arm": 3.0},
            background={"air": 3.0},
            exposure={"mean_photons": 8.0},
        ),
        folder,
    )


def test_planted_defects_are_found(defective, tmp_path):
    result = make_masks(defective.experiments, defective.reflections, parameters(tmp_path))
    planted = {kind: masks[0] for kind, masks in defective.simulator.defects.items()}
    any_planted = np.any(list(planted.values()), axis=0)
    removed = ~result.good[0]
    found = {kind: (removed & mask).sum() / mask.sum() for kind, mask in planted.items()}
    assert found["hot"] == 1
    assert found["negative"] == 1
    assert found["dead"] > 0.95
    assert found["shadow"] > 0.99
    for cause in ("hot", "cold", "negative", "overloaded", "stuck"):
        assert (result.causes[cause][0] & ~any_planted).sum() == 0
    # A rim around the shadow goes with it
    assert (removed & ~any_planted).sum() < 0.02 * removed.size


def test_bragg_spots_that_stay_in_place_are_no_hot_pixels(tmp_path):
    simulated = simulate(settings_of(8, crystal={"orientation": "fixed"}), tmp_path)
    result = make_masks(simulated.experiments, simulated.reflections, parameters(tmp_path))
    assert result.causes["hot"][0].sum() == 0
    assert result.causes["overloaded"][0].sum() == 0


def test_without_bragg_the_mask_does_not_change_the_mean(tmp_path):
    simulated = simulate(settings_of(6, bragg={"enabled": False}), tmp_path)
    result = make_masks(simulated.experiments, simulated.reflections, parameters(tmp_path))
    assert result.size_fit is None or not result.size_fit.reliable
    masker = RowMasker(result.reflections)
    inside = outside = expected_in = expected_out = 0.0
    for group, still in zip(
        group_by_image(stills_of(result.experiments)), simulated.simulator.stills
    ):
        (good,), (bragg,) = complete_mask(group, masker)
        pixels = simulated.simulator.image(still)[0]
        expected = simulated.simulator.expected(still)["total"][0]
        assert bragg.any()
        inside += pixels[good & bragg].sum()
        outside += pixels[good & ~bragg].sum()
        expected_in += expected[good & bragg].sum()
        expected_out += expected[good & ~bragg].sum()
    assert outside / expected_out == pytest.approx(1, abs=5 / np.sqrt(expected_out))
    assert inside / expected_in == pytest.approx(1, abs=5 / np.sqrt(expected_in))


def test_complete_mask_has_no_untrusted_pixel(defective, tmp_path):
    result = make_masks(defective.experiments, defective.reflections, parameters(tmp_path))
    groups = group_by_image(stills_of(result.experiments))
    (good,), (bragg,) = complete_mask(groups[0], RowMasker(result.reflections))
    pixels = groups[0][0].imageset.get_raw_data(0)[0].as_numpy_array()
    assert not (good & (pixels < 0)).any()
    assert (good & (pixels == 0)).any()
    assert np.array_equal(good, result.good[0] & (pixels >= 0))


def test_shoebox_method_masks_the_foreground_and_needs_shoeboxes(tmp_path):
    settings = settings_of(3, bragg={"shoeboxes": True})
    simulated = simulate(settings, tmp_path)
    result = make_masks(
        simulated.experiments, simulated.reflections, parameters(tmp_path, bragg__method="shoebox")
    )
    removed, lost = bragg_left(simulated, result)
    assert removed > 0.5 and lost < 0.1
    del simulated.reflections["shoebox"]
    with pytest.raises(ValueError, match="shoeboxes"):
        make_masks(
            simulated.experiments,
            simulated.reflections,
            parameters(tmp_path, bragg__method="shoebox"),
        )


def test_halo_masks_all_within_its_radius(tmp_path):
    simulated = simulate(settings_of(3), tmp_path)
    radius = 0.004
    result = make_masks(
        simulated.experiments,
        simulated.reflections,
        parameters(tmp_path, bragg__method="halo", bragg__halo_radius=radius),
    )
    masker = RowMasker(result.reflections)
    still = stills_of(result.experiments)[0]
    (bragg,) = masker.bragg([still])
    pixels = simulated.simulator._pixels[0]
    q = simulated.simulator._q_vectors(pixels, simulated.simulator.stills[0].wavelength)
    a = still.setting_matrix()
    h = q @ np.linalg.inv(a).T
    distance = np.linalg.norm((h - np.rint(h)) @ a.T, axis=-1)
    close = (distance < 0.95 * radius) & (np.rint(h) != 0).any(axis=-1)
    assert close.sum() > 100
    assert (close & ~bragg).sum() <= 0.002 * close.sum()


def test_spots_of_a_lattice_that_was_not_indexed_are_found(tmp_path):
    simulated = simulate(settings_of(4, crystal={"lattices": 2}), tmp_path)
    known = simulated.experiments[::2]
    left = {}
    for other_spots in (False, True):
        result = make_masks(known, None, parameters(tmp_path, bragg__other_spots=other_spots))
        removed, lost = bragg_left(simulated, result)
        left[other_spots] = 1 - removed
        assert lost < 0.15
    assert left[False] > 0.2
    # What is left are spots too weak to stand out
    assert left[True] < 0.2 * left[False]


@pytest.mark.parametrize("photons, halo", [(5.0, 0.0), (0.1, 0.0), (5.0, 10.0), (50.0, 10.0)])
def test_diffuse_scattering_is_not_taken_for_spots(tmp_path, photons, halo):
    """Halos ten times the scattering around them included, at high and at low dose."""
    simulated = simulate(
        settings_of(
            3, bragg={"enabled": False}, truth={"halo": halo}, exposure={"mean_photons": photons}
        ),
        tmp_path,
    )
    sums = {}
    for other_spots in (False, True):
        result = make_masks(
            simulated.experiments,
            None,
            parameters(
                tmp_path,
                bragg__other_spots=other_spots,
                bragg__mosaicity=0.1,
                bragg__domain_size=1000.0,
                dynamic__shadow=False,
            ),
        )
        masker, kept = RowMasker(result.reflections), []
        for group, still in zip(
            group_by_image(stills_of(result.experiments)), simulated.simulator.stills
        ):
            (good,), (bragg,) = complete_mask(group, masker)
            kept.append(simulated.simulator.image(still)[0][good & ~bragg])
        kept = np.concatenate(kept)
        sums[other_spots] = kept.mean(), len(kept)
    assert sums[True][1] == pytest.approx(sums[False][1], rel=2e-4)
    assert sums[True][0] == pytest.approx(sums[False][0], rel=1e-3)


def scan_varying(sequence):
    """The sequence with a crystal model at each scan point, as dials.refine leaves it."""
    (experiment,) = sequence
    a = experiment.crystal.get_A()
    experiment.crystal.set_A_at_scan_points(flex.mat3_double([a] * (len(experiment.imageset) + 1)))
    return sequence


def spots_of_series(simulated):
    """The strong spots with shoeboxes, as dials.integrate keeps them: z is the image."""
    table = flex.reflection_table()
    for number in range(len(simulated.experiments)):
        rows = simulated.reflections.select(simulated.reflections["id"] == number)
        rows = rows.select(rows.get_flags(rows.flags.strong))
        for name in ("bbox", "shoebox"):
            assert name in rows
        for i in range(len(rows)):
            box = rows["shoebox"][i]
            box.bbox = (*box.bbox[:4], number, number + 1)
            rows["shoebox"][i] = box
            rows["bbox"][i] = box.bbox
        table.extend(rows)
    for key in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[key]
    table["id"] = flex.int(len(table), 0)
    return table


def test_stills_of_a_rotation_series(run_in_tmp_path):
    from dials.command_line.sequence_to_stills import run as sequence_to_stills

    simulated = simulate(
        settings_of(
            4,
            crystal={"orientation": "rotation", "rotation_step": 0.2, "rotation_samples": 3},
            bragg={"shoeboxes": True},
        ),
        run_in_tmp_path,
    )
    scan_varying(simulated.sequence).as_file("sweep.expt")
    spots_of_series(simulated).as_file("sweep.refl")
    sequence_to_stills(["sweep.expt", "sweep.refl"])
    experiments = ExperimentList.from_file("stills.expt")
    reflections = flex.reflection_table.from_file("stills.refl")
    assert len(experiments) == 4 and experiments.all_stills()
    result = make_masks(experiments, reflections, parameters(run_in_tmp_path))
    removed, lost = bragg_left(simulated, result)
    assert removed > 0.995 and lost < 0.15


SIGMA = 0.3762 / 600


@pytest.mark.parametrize(
    "kind, values, mosaicity",
    [
        ("simple1", [SIGMA], 0.02),
        ("angular2", [SIGMA, 0.9 * SIGMA], 0.02),
        ("simple1angular1", [SIGMA, np.radians(0.3) / 2.3548], 0.3),
    ],
)
def test_ellipsoid_profiles_give_the_size_of_spots(tmp_path, kind, values, mosaicity):
    """Models as dials.ssx_integrate writes them, through a file."""
    from dials.algorithms.profile_model.ellipsoid.model import EllipsoidProfileModel

    simulated = simulate(
        settings_of(4, crystal={"mosaicity": mosaicity, "domain_size": 600}, bragg={"blur": 0.0}),
        tmp_path,
    )
    text = {"__id__": "ellipsoid", "parameterisation": kind, "parameters": values}
    try:
        profile = EllipsoidProfileModel.from_dict(text)
    except RuntimeError:
        pytest.skip(f"this DIALS has no {kind} model")
    for experiment in simulated.experiments:
        experiment.profile = profile
    simulated.experiments.as_file(tmp_path / "integrated.expt")
    experiments = ExperimentList.from_file(tmp_path / "integrated.expt")
    shape = shape_of_model(experiments[0])
    assert shape.source == "ellipsoid profile"
    assert shape.size == pytest.approx(SIGMA)
    assert shape.angle == pytest.approx(values[1] if kind == "simple1angular1" else 0)
    for size, source in (("model", "ellipsoid profile"), ("auto", "images")):
        result = make_masks(
            experiments, simulated.reflections, parameters(tmp_path, bragg__size=size)
        )
        assert result.predictor.shape(experiments[0]).source == source
        removed, lost = bragg_left(simulated, result)
        assert removed > 0.995 and lost < 0.15
