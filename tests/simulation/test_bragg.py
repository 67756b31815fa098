from __future__ import annotations

import numpy as np
import pytest

from cctbx import crystal, miller
from scitbx import matrix

from dials.array_family import flex

from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.simulation import bragg
from dials_diffuse.simulation.instrument.detectors import make_beam, make_detector
from dials_diffuse.simulation.instrument.pixels import panel_pixels, rays_to_pixels
from dials_diffuse.simulation.settings import BeamSettings, DetectorSettings, TruthSettings
from dials_diffuse.simulation.truth import DiffuseTruth

S0 = np.array((0.0, 0.0, -1.0))


@pytest.fixture(scope="module")
def flat():
    """A panel, its pixels, and its detector; wavelength 1 Angstrom."""
    settings = default_settings(
        DetectorSettings, parallax=False, thickness=0, distance=150, image_size=(200, 200)
    )
    detector = make_detector(settings, 1.0)
    return panel_pixels(detector[0], make_beam(default_settings(BeamSettings), 1.0)), detector


def draw(flat, g, along, across, f_squared=1.0, volume=1.0):
    """Image of one node and its sum over solid angle."""
    pixels, detector = flat
    g = np.array([g], dtype=float)
    s1 = S0 + g
    _, centre, _ = rays_to_pixels(detector, s1)
    image = np.zeros(pixels.shape)
    bragg.draw_peaks(
        bragg.PeakShapes(
            centre,
            np.array([60.0]),
            g,
            np.array([along]),
            np.array([across]),
            np.array([f_squared * volume]),
        ),
        6.0,
        pixels.directions,
        pixels.step_fast,
        pixels.step_slow,
        S0,
        1.0,
        image,
    )
    return image, float((image * pixels.solid_angle).sum())


def on_sphere(two_theta, azimuth):
    s1 = np.array(
        [
            np.sin(two_theta) * np.cos(azimuth),
            np.sin(two_theta) * np.sin(azimuth),
            -np.cos(two_theta),
        ]
    )
    return s1 - S0


@pytest.mark.parametrize("width", [3e-4, 1e-3, 4e-3])
@pytest.mark.parametrize("excitation", [0.0, 1.3])
def test_round_peak_integrates_to_its_section(flat, width, excitation):
    # over the sphere, lambda^2 |F|^2 V* times the normal density of the distance
    g = on_sphere(0.2, 0.7)
    direction = S0 + g
    g = g + direction / np.linalg.norm(direction) * excitation * width
    _, total = draw(flat, g, width, width, f_squared=50.0, volume=1e-5)
    section = np.exp(-(excitation**2) / 2) / (np.sqrt(2 * np.pi) * width)
    # the sphere (radius 1) bends away from the node: to first order in the width
    section *= 1 - excitation * width
    assert total == pytest.approx(50.0 * 1e-5 * section, rel=2e-3)


def test_long_peak_integrates_to_its_section_and_has_its_shape(flat):
    g = on_sphere(0.2, 0.7)
    along, across = 4e-4, 2.5e-3
    s0, reach = S0, bragg.towards_sphere(S0, 940.7, 0.0, 0.0)
    image, total = draw(flat, g, along, across)
    s1 = S0 + g
    cosine = g @ s1 / (np.linalg.norm(g) * np.linalg.norm(s1))
    sigma = np.sqrt((along * cosine) ** 2 + across**2 * (1 - cosine**2))
    assert total == pytest.approx(1 / (np.sqrt(2 * np.pi) * sigma), rel=5e-3)
    # mosaic spread draws arcs: wide across g, narrow along it
    pixels, _ = flat
    q = pixels.directions - s0
    weight = image / image.sum()
    unit = g / np.linalg.norm(g)
    radial = q @ unit
    mean = (weight * radial).sum()
    assert np.sqrt((weight * (radial - mean) ** 2).sum()) < 1e-3
    normal = np.cross(unit, s1)
    normal /= np.linalg.norm(normal)
    tangential = q @ normal
    # a pixel adds its own variance, size^2 / 12
    step = np.hypot(*(pixels.step_fast[100, 100] @ normal, pixels.step_slow[100, 100] @ normal))
    expected = np.sqrt(across**2 + step**2 / 12)
    assert np.sqrt((weight * tangential**2).sum()) == pytest.approx(expected, rel=0.01)
    assert reach(g[None], np.array([np.linalg.norm(g)]))[0] > 0


def test_rocking_curve_integrates_to_darwins_formula(flat):
    # C. G. Darwin, Phil. Mag. 27 (1914): per unit cell and radian of rotation
    # the energy of a reflection is lambda^3 |F|^2 / (V sin 2 theta)
    volume, f_squared, two_theta = 64000.0, 1234.0, 0.25
    g = matrix.col(on_sphere(two_theta, 0.0))
    axis = matrix.col((0, 1, 0))
    along, across = bragg.peak_widths(np.array([g.length()]), 800.0, 0.2, 0.0)
    step = 2e-4
    total = 0.0
    for turn in np.arange(-0.03, 0.03, step):
        turned = g.rotate_around_origin(axis, turn)
        _, section = draw(flat, turned.elems, along[0], across[0], f_squared, 1 / volume)
        total += section * step
    assert total == pytest.approx(f_squared / (volume * np.sin(two_theta)), rel=5e-3)


def test_bandwidth_stretches_peaks_along_q():
    along, across = bragg.peak_widths(np.array([0.1, 0.4]), 1e6, 0.0, 0.01)
    assert along == pytest.approx([0.001, 0.004], rel=1e-3)
    assert (across < 1e-5).all()
    along, across = bragg.peak_widths(np.array([0.4]), 1e6, 1.0, 0.0)
    assert across[0] == pytest.approx(0.4 * np.radians(1.0) / 2.3548, rel=1e-3)


@pytest.fixture(scope="module")
def truth():
    return DiffuseTruth((40, 40, 60, 90, 90, 90), "P 43 21 2", default_settings(TruthSettings), 3)


def test_wilson_intensities(truth):
    factors = bragg.wilson_intensities(truth, 1.9, seed=4)
    symmetry = crystal.symmetry(unit_cell=truth.unit_cell, space_group_symbol=truth.space_group)
    full = miller.build_set(symmetry, anomalous_flag=True, d_min=1.91).expand_to_p1()
    hkl = np.array(full.indices().as_vec3_double()).reshape(-1, 3).astype(int)
    values = factors(hkl)
    # Laue symmetry, Friedel's law
    for operator in symmetry.space_group().smx():
        rotation = np.array(operator.r().as_double()).reshape(3, 3).astype(int)
        assert (factors(hkl @ rotation) == values).all()
    assert (factors(-hkl) == values).all()
    # absent on the screw axes
    assert factors(np.array([[0, 0, 1], [0, 0, 2], [0, 3, 0]])).sum() == 0
    assert factors(np.array([[0, 0, 4]]))[0] > 0
    assert factors(np.array([[50, 0, 0]]))[0] == 0
    relative = values / truth.bragg_envelope(truth.q(hkl))
    assert relative.mean() == pytest.approx(1.0, abs=0.06)
    # <I^2>/<I>^2 is 2 of an exponential, a little more with the centric ones
    general = (np.abs(hkl) > 0).all(axis=1) & (np.abs(hkl[:, 0]) != np.abs(hkl[:, 1]))
    assert (relative[general] ** 2).mean() / relative[general].mean() ** 2 == pytest.approx(
        2.0, abs=0.25
    )


def test_structure_factors_of_a_model(tmp_path, truth):
    import iotbx.pdb
    from cctbx import xray

    structure = xray.structure(
        crystal_symmetry=crystal.symmetry(
            unit_cell=truth.unit_cell, space_group_symbol=truth.space_group
        ),
        scatterers=flex_scatterers([("C", (0.1, 0.2, 0.3)), ("O", (0.4, 0.15, 0.05))]),
    )
    path = tmp_path / "model.pdb"
    path.write_text(structure.as_pdb_file())
    factors = bragg.model_intensities(str(path), truth, 2.5)
    again = iotbx.pdb.input(file_name=str(path)).xray_structure_simple()
    index = (3, 4, 5)
    # summed over atoms of the cell by hand
    total = 0.0
    for scatterer in again.expand_to_p1().scatterers():
        f = again.scattering_type_registry().gaussian(scatterer.scattering_type)
        d = again.unit_cell().d(index)
        phase = 2 * np.pi * np.dot(index, scatterer.site)
        b = scatterer.b_iso()
        total += f.at_d_star_sq(1 / d**2) * np.exp(-b / (4 * d**2)) * np.exp(1j * phase)
    assert factors(np.array([index]))[0] == pytest.approx(abs(total) ** 2, rel=1e-3)
    assert factors(np.array([[-5, -4, 3]])).shape == (1,)

    other = DiffuseTruth((41, 41, 60, 90, 90, 90), "P 43 21 2", default_settings(TruthSettings), 3)
    with pytest.raises(ValueError, match="has the symmetry"):
        bragg.model_intensities(str(path), other, 2.5)
    with pytest.raises(ValueError, match="no such file"):
        bragg.model_intensities(str(tmp_path / "none.pdb"), truth, 2.5)
    (tmp_path / "empty.pdb").write_text("nothing\n")
    with pytest.raises(ValueError, match="empty.pdb"):
        bragg.model_intensities(str(tmp_path / "empty.pdb"), truth, 2.5)


def flex_scatterers(atoms):
    from cctbx import xray

    return flex.xray_scatterer(
        [xray.scatterer(label=name, site=site, b=12.0) for name, site in atoms]
    )


def test_nodes_near_the_sphere_are_found_by_brute_force(truth):
    rotation = np.array(
        matrix.col((1, 2, 3)).axis_and_angle_as_r3_rotation_matrix(40, deg=True)
    ).reshape(3, 3)
    setting = rotation @ np.diag([1 / 40, 1 / 40, 1 / 60])
    reach = bragg.towards_sphere(S0, 500.0, 0.3, 0.0)
    hkl, g, excitation, sigma = bragg.nodes_near_sphere(setting, S0, 2.5, reach, 3.0)
    h, k, l = np.meshgrid(*(np.arange(-25, 26),) * 3, indexing="ij")
    every = np.stack([h.ravel(), k.ravel(), l.ravel()], 1)
    q = every @ setting.T
    length = np.linalg.norm(q, axis=1)
    keep = (length > 0) & (length <= 1 / 2.5)
    every, q, length = every[keep], q[keep], length[keep]
    distance = np.linalg.norm(S0 + q, axis=1) - 1.0
    expected = every[np.abs(distance) <= 3 * reach(q, length)]
    assert {tuple(i) for i in expected} == {tuple(i) for i in hkl}
    assert len(expected) > 100
    assert np.allclose(hkl @ setting.T, g)
    assert (np.abs(excitation) <= 3 * sigma).all()
