from __future__ import annotations

import numpy as np
import pytest
from simulations import simulation_settings

from dials_diffuse.simulation import crystals
from dials_diffuse.simulation.forward import COMPONENTS, Simulator
from dials_diffuse.simulation.settings import SimulationSettings


def small(**groups) -> SimulationSettings:
    """Few stills of few pixels; keywords are those of `simulation_settings`."""
    detector = {"image_size": (80, 80), "pixel_size": 1.5, **groups.pop("detector", {})}
    crystal = {"unit_cell": (40, 40, 60, 90, 90, 90), **groups.pop("crystal", {})}
    return simulation_settings(**{"stills": 4, "detector": detector, "crystal": crystal, **groups})


PLAIN = {
    "truth": {"anisotropy": 0, "solvent": 0, "compton": False, "envelope": "constant"},
    "bragg": {"enabled": False},
    "scale": {"spread": 0},
}


def test_a_pixel_by_the_formula_with_dxtbx_alone():
    settings = small(
        bragg={"enabled": False},
        scale={"spread": 0.5},
        exposure={"time": 0.3, "transmission": 0.4},
        detector={"image_size": [80, 80], "pixel_size": 1.5, "type": "tilted"},
    )
    simulator = Simulator(settings)
    still = simulator.stills[2]
    detector, beam = simulator.models(still)
    expected = simulator.expected(still)
    lattice = still.lattices[0]
    for number, fast, slow in ((0, 3, 4), (1, 20, 39), (3, 0, 0)):
        panel = detector[number]
        point = np.array(panel.get_pixel_lab_coord((fast + 0.5, slow + 0.5)))
        r = np.linalg.norm(point)
        s1 = point / r / beam.get_wavelength()
        q = s1 - np.array(beam.get_s0())
        hkl = np.linalg.inv(np.array(lattice.crystal.get_A()).reshape(3, 3)) @ q
        cosine = abs(point @ np.array(panel.get_normal())) / r
        # size of the pixel with parallax, from its neighbours' middles
        corners = [
            np.array(panel.get_pixel_lab_coord((fast + a, slow + b)))
            for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        area = np.linalg.norm(np.cross(corners[2] - corners[0], corners[3] - corners[1])) / 2
        efficiency = area * cosine / r**2
        # fully polarized along x but for 1 %: fraction f of the field along x
        f = beam.get_polarization_fraction()
        efficiency *= f * (1 - (point[0] / r) ** 2) + (1 - f) * (1 - (point[1] / r) ** 2)
        efficiency *= 1 - np.exp(-panel.get_mu() * panel.get_thickness() / cosine)
        # air, 10 % of what is left in front of a detector at 0.8 m: here about 2 %
        air = expected["diffuse"][number][slow, fast]
        photons = (
            0.3
            * 0.4
            * lattice.scale
            * simulator.photons_per_electron2
            * efficiency
            * simulator.truth.intensity(hkl[None])[0]
        )
        transmission = air / photons
        import xraylib

        mu = 1.205e-4 * (
            0.755 * xraylib.CS_Total(7, 12.3984)
            + 0.232 * xraylib.CS_Total(8, 12.3984)
            + 0.013 * xraylib.CS_Total(18, 12.3984)
        )
        assert transmission == pytest.approx(np.exp(-mu * r), rel=1e-3)


def test_mean_photons_are_as_asked():
    settings = small(
        exposure={"mean_photons": 3.0, "time": 0.02},
        background={"air": 0.7, "flat": 0.4},
        truth={"anisotropy": 0.3},
        stills=8,
        scale={"spread": 0.0},
    )
    simulator = Simulator(settings)
    means = {name: [] for name in COMPONENTS}
    for still in simulator.stills:
        expected = simulator.expected(still)
        for name in COMPONENTS:
            means[name].append(np.mean(expected[name][0]))
    crystal = sum(np.mean(means[name]) for name in ("diffuse", "isotropic", "compton"))
    assert crystal == pytest.approx(3.0, rel=0.03)
    assert np.mean(means["background"]) == pytest.approx(1.1, rel=1e-6)
    assert np.mean(means["bragg"]) > 0.1
    assert np.mean(means["offset"]) == 0


def test_total_is_the_sum_of_the_components():
    simulator = Simulator(small(scale={"offset": 0.3}, background={"flat": 1.0}))
    for still in simulator.stills:
        expected = simulator.expected(still)
        total = sum(expected[name][0] for name in COMPONENTS)
        assert np.allclose(total, expected["total"][0])


def test_offsets_scales_gains_and_sensitivity_are_normalised():
    settings = small(
        scale={"offset": 0.4, "spread": 0.6, "panel_spread": 0.1, "sensitivity": 0.08},
        detector={"type": "tilted"},
        stills=20,
    )
    simulator = Simulator(settings)
    offsets = [still.offset for still in simulator.stills]
    assert min(offsets) == 0 and max(offsets) == 1
    scales = [still.lattices[0].scale for still in simulator.stills]
    assert np.mean(scales) == pytest.approx(1.0)
    assert np.std(np.log(scales)) == pytest.approx(0.6, rel=0.4)
    assert np.log(simulator.panel_gains).mean() == pytest.approx(0.0, abs=1e-12)
    assert np.ptp(simulator.panel_gains) > 0.02
    logs = np.concatenate(
        [np.log(simulator.sensitivity(p.directions)).ravel() for p in simulator._pixels]
    )
    assert logs.mean() == pytest.approx(0, abs=1e-9)
    assert logs.std() == pytest.approx(0.08, rel=1e-6)
    # a and d act on what comes from the crystal, b on that without the offset
    still = simulator.stills[int(np.argmax(offsets))]
    plain = small(scale={"offset": 0.4, "spread": 0.6}, detector={"type": "tilted"}, stills=20)
    reference = Simulator(plain)
    assert reference.stills[still.index].lattices[0].scale == still.lattices[0].scale
    for name in ("diffuse", "bragg", "offset"):
        for number, pixels in enumerate(simulator._pixels):
            ratio = simulator.expected(still)[name][number] / np.maximum(
                reference.expected(reference.stills[still.index])[name][number], 1e-300
            )
            lit = reference.expected(reference.stills[still.index])[name][number] > 1e-6
            factor = simulator.panel_gains[number] * simulator.sensitivity(pixels.directions)
            assert np.allclose(ratio[lit], factor[lit])


def test_noise_is_poisson():
    simulator = Simulator(small(**PLAIN, exposure={"mean_photons": 2.0}, stills=30))
    expected = simulator.expected(simulator.stills[0])["total"][0]
    images = np.array([simulator.image(still)[0] for still in simulator.stills])
    residual = (images - expected) / np.sqrt(expected)
    n = residual.size
    assert residual.mean() == pytest.approx(0, abs=4 / np.sqrt(n))
    # variance of the squared residual of a Poisson variable is 2 + 1/mean
    assert (residual**2).mean() == pytest.approx(1, abs=4 * np.sqrt(2.6 / n))
    third = ((images - expected) ** 3).mean() / expected.mean()
    assert third == pytest.approx(1.0, abs=0.15)


def test_gain_pedestal_and_noise_of_the_reading():
    detector = {"gain": 40.0, "pedestal": 100.0, "readout_noise": 8.0}
    settings = small(**PLAIN, stills=20, detector=detector)
    simulator = Simulator(settings)
    expected = simulator.expected(simulator.stills[0])["total"][0]
    images = np.array([simulator.image(still)[0] for still in simulator.stills])
    assert ((images - 100.0) / 40).mean() == pytest.approx(expected.mean(), rel=0.01)
    variance = ((images - 100.0 - 40 * expected) ** 2).mean()
    assert variance == pytest.approx(40**2 * expected.mean() + 64, rel=0.02)
    panel = simulator.detector[0]
    assert (panel.get_gain(), panel.get_pedestal()) == (40.0, 100.0)
    assert images.min() > panel.get_trusted_range()[0]


def test_without_noise_images_are_the_expectation():
    simulator = Simulator(small(exposure={"noise": False}))
    still = simulator.stills[0]
    image = simulator.image(still)[0]
    assert np.abs(image - simulator.expected(still)["total"][0]).max() <= 0.5


def test_defects_and_shadows():
    simulator = Simulator(
        small(
            defects={
                "hot": 7,
                "dead": 11,
                "negative": 3,
                "hot_counts": 500,
                "beam_stop": 9.0,
                "beam_stop_arm": 6.0,
            }
        )
    )
    masks = {kind: simulator.defects[kind][0] for kind in simulator.defects}
    assert [masks[kind].sum() for kind in ("hot", "dead", "negative")] == [7, 11, 3]
    image = simulator.image(simulator.stills[1])[0]
    assert (image[masks["hot"]] > 380).all()
    assert (image[masks["dead"]] == 0).all()
    assert (image[masks["negative"]] == -2).all()
    # a disc of 36 pixels' area, and an arm to the edge on one side
    shadow = masks["shadow"]
    assert shadow.sum() == pytest.approx(np.pi * 36 + (40 - 6) * 4, rel=0.15)
    good = ~(masks["hot"] | masks["negative"])
    assert image[shadow & good].sum() == 0
    right = np.array(simulator.detector[0].get_pixel_lab_coord((75, 40)))
    assert right[0] > 0 and shadow[40, 75] and not shadow[40, 5]


def test_stills_depend_on_seed_and_number_only():
    long = Simulator(small(stills=6, scale={"spread": 0.0}))
    short = Simulator(small(stills=3, scale={"spread": 0.0}))
    for a, b in zip(long.stills, short.stills):
        assert (long.image(a)[0] == short.image(b)[0]).all()
    # in any order, and again
    first = long.image(long.stills[5])[0]
    long.image(long.stills[0])
    assert (long.image(long.stills[5])[0] == first).all()
    other = Simulator(small(stills=3, seed=21))
    assert not np.allclose(other.stills[0].lattices[0].setting, short.stills[0].lattices[0].setting)


def test_two_lattices_add_up():
    both = Simulator(small(crystal={"unit_cell": [40, 40, 60, 90, 90, 90], "lattices": 2}))
    still = both.stills[0]
    assert [lattice.experiment for lattice in both.stills[1].lattices] == [2, 3]
    expected = both.expected(still)
    parts = []
    for lattice in still.lattices:
        single = crystals.StillState(
            still.index, still.wavelength, still.exposure_time, still.transmission
        )
        single.lattices = [lattice]
        parts.append(both.expected(single))
    for name in ("diffuse", "bragg", "compton"):
        assert np.allclose(expected[name][0], parts[0][name][0] + parts[1][name][0])


def test_jitter_gives_every_still_its_own_geometry():
    settings = small(
        stills=6,
        beam={"wavelength_jitter": 0.01},
        detector={"distance_jitter": 2.0},
        crystal={"cell_spread": 0.01},
    )
    simulator = Simulator(settings)
    wavelengths, distances, cells = set(), set(), set()
    for still in simulator.stills:
        detector, beam = simulator.models(still)
        wavelengths.add(beam.get_wavelength())
        distances.add(detector[0].get_distance())
        cell = still.lattices[0].crystal.get_unit_cell().parameters()
        assert cell[0] == pytest.approx(cell[1])
        cells.add(cell)
        q = simulator.q_lengths(still)[0]
        point = np.array(detector[0].get_pixel_lab_coord((0.5, 0.5)))
        s1 = point / np.linalg.norm(point) / beam.get_wavelength()
        assert q[0, 0] == pytest.approx(np.linalg.norm(s1 - np.array(beam.get_s0())), rel=1e-6)
    assert len(wavelengths) == len(distances) == len(cells) == 6
    assert np.std(list(distances)) == pytest.approx(2.0, rel=0.8)


def test_bragg_photons_of_a_strong_peak():
    settings = small(truth={"compton": False}, scale={"spread": 0})
    simulator = Simulator(settings)
    still = simulator.stills[0]
    lattice = still.lattices[0]
    peaks = simulator.peaks(still, lattice)
    strongest = int(
        np.argmax(peaks.intensity * np.exp(-0.5 * (peaks.excitation / peaks.sigma) ** 2))
    )
    fast, slow = peaks.pixel[strongest].astype(int)
    image = simulator.expected(still)["bragg"][0][slow - 2 : slow + 3, fast - 2 : fast + 3]
    pixels = simulator._pixels[0]
    efficiency = simulator.efficiency(pixels, 1.0) / pixels.solid_angle
    density = np.exp(-0.5 * (peaks.excitation / peaks.sigma) ** 2) / (
        np.sqrt(2 * np.pi) * peaks.sigma
    )
    volume = 1 / (40 * 40 * 60)
    expected = (
        settings.exposure.time
        * simulator.photons_per_electron2
        * efficiency[slow, fast]
        * (peaks.intensity * density)[strongest]
        * volume
    )
    assert image.sum() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale": {"values": [1.0, 2.0]}}, "scale.values holds 2 numbers"),
        ({"crystal": {"space_group": "P 99"}}, "unknown space group"),
        ({"exposure": {"time": 0.0}}, "must be positive"),
        ({"beam": {"polarization_normal": [0, 0, 1]}}, "polarization_normal"),
        ({"bragg": {"intensities": "model"}}, "needs bragg.model"),
        ({"detector": {"gain": 0.0}}, "gain must be positive"),
        ({"detector": {"type": "tilted", "groups": [20, 2]}}, "at least 8 by 8"),
    ],
)
def test_bad_settings_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        Simulator(small(**change))


def test_a_crystal_that_turns_scatters_as_the_mean_of_its_orientations():
    turning = small(
        stills=1,
        crystal={"orientation": "rotation", "rotation_step": 1.0, "rotation_samples": 2},
        scale={"spread": 0},
        exposure={"photons_per_electron2": 1e3},
    )
    standing = small(
        stills=2,
        crystal={"orientation": "rotation", "rotation_step": 0.5},
        scale={"spread": 0},
        exposure={"photons_per_electron2": 1e3},
    )
    one = Simulator(turning)
    two = Simulator(standing)
    found = one.expected(one.stills[0])
    expected = [two.expected(still) for still in two.stills]
    assert not np.allclose(expected[0]["bragg"][0], expected[1]["bragg"][0])
    for name in COMPONENTS:
        mean = 0.5 * (expected[0][name][0] + expected[1][name][0])
        np.testing.assert_allclose(found[name][0], mean, rtol=1e-9, atol=1e-9)
