"""Bragg peaks: structure factors, shape in reciprocal space, and drawing them.

In electrons^2 per unit cell, a large crystal scatters |F|^2 at each node of its
reciprocal lattice with a density such that the integral over the node, divided
by the volume of the reciprocal cell, is |F|^2 (so that the mean over a whole
cell of the unmasked map is |F|^2 + diffuse). The density is a normal
distribution whose covariance at node g is

    size          s_D^2 in all directions, s_D = 0.376 / domain size: the main
                  maximum of sinc^2(q D) has a full width of 0.886 / D
    mosaicity     (|g| s_m)^2 across g
    bandwidth     (|g| s_b)^2 along g: a pixel sees q (1 + d) for wavelengths
                  shorter by d, so the spread of d appears along q
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from cctbx import crystal, miller
from scitbx.array_family import flex

from dials_diffuse.simulation.truth import DiffuseTruth

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
# full width at half maximum of sinc^2 is 0.8859 / D
SIGMA_TIMES_DOMAIN = 0.8859 / FWHM_PER_SIGMA


class StructureFactors:
    """|F|^2 of every node out to d_min, electrons^2, as a dense array.

    Args:
        values: cctbx miller array of intensities, any symmetry-unique subset.
    """

    def __init__(self, values):
        full = values.as_non_anomalous_array().expand_to_p1()
        # one mate of each Friedel pair is left: the other has the same value
        indices = full.indices().as_vec3_double()
        hkl = np.rint(np.array(indices).reshape(-1, 3)).astype(int)
        data = np.array(full.data())
        self.limits = np.abs(hkl).max(axis=0) if len(hkl) else np.zeros(3, int)
        self.table = np.zeros(tuple(2 * self.limits + 1))
        for sign in (1, -1):
            self.table[tuple((sign * hkl + self.limits).T)] = data

    def __call__(self, hkl: np.ndarray) -> np.ndarray:
        """|F|^2 (N,) of Miller indices (N, 3); 0 where there is none."""
        inside = np.all(np.abs(hkl) <= self.limits, axis=1)
        at = np.where(inside[:, None], hkl + self.limits, 0)
        return np.where(inside, self.table[tuple(at.T)], 0.0)


def wilson_intensities(truth: DiffuseTruth, d_min: float, seed) -> StructureFactors:
    """Random intensities with Wilson's distribution (A. J. C. Wilson, Acta Cryst.
    2 (1949) 318), mean epsilon * sum f^2 exp(-B q^2 / 2); absences are 0.

    Args:
        truth: whose composition, cell and space group are used.
        d_min: Angstrom.
        seed: SeedSequence or int.
    """
    symmetry = crystal.symmetry(unit_cell=truth.unit_cell, space_group_symbol=truth.space_group)
    unique = miller.build_set(symmetry, anomalous_flag=False, d_min=d_min)
    generator = np.random.default_rng(seed)
    n = unique.size()
    acentric = generator.exponential(size=n)
    centric = generator.normal(size=n) ** 2
    is_centric = np.array(unique.centric_flags().data())
    epsilon = np.array(unique.epsilons().data())
    q = 1.0 / np.array(unique.d_spacings().data())
    values = np.where(is_centric, centric, acentric) * epsilon * truth.bragg_envelope(q)
    return StructureFactors(unique.array(data=flex.double(values)))


def model_intensities(
    path: str, truth: DiffuseTruth, d_min: float, b_factor: float | None = None
) -> StructureFactors:
    """|F|^2 of an atomic model (PDB, mmCIF), by direct summation, electrons^2.

    Direct, because cctbx's FFT default is a percent low in sum |F|^2.

    Args:
        path: of the model.
        truth: whose cell and space group it must have.
        d_min: Angstrom.
        b_factor: of all atoms, Angstrom^2; None for the model's own.

    Raises:
        ValueError: the model has no crystal symmetry or another one.
    """
    structure = read_structure(path)
    expected = crystal.symmetry(unit_cell=truth.unit_cell, space_group_symbol=truth.space_group)
    if not structure.crystal_symmetry().is_similar_symmetry(expected):
        raise ValueError(
            f"{path} has the symmetry {structure.unit_cell()}, "
            f"{structure.space_group_info()}: set crystal.unit_cell and "
            "crystal.space_group to it"
        )
    if b_factor is not None:
        structure.convert_to_isotropic()
        structure.set_b_iso(value=b_factor)
    f_calc = structure.structure_factors(
        d_min=d_min, algorithm="direct", anomalous_flag=False
    ).f_calc()
    return StructureFactors(f_calc.intensities().set_observation_type(None))


def read_structure(path: str):
    """cctbx xray structure of a PDB or mmCIF file.

    Raises:
        ValueError: it cannot be read, or has no crystal symmetry.
    """
    import iotbx.pdb

    if not Path(path).is_file():
        raise ValueError(f"no such file: {path}")
    try:
        structure = iotbx.pdb.input(file_name=str(path)).xray_structure_simple()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read an atomic model from {path}: {reason}") from error
    if structure.unit_cell() is None or structure.scatterers().size() == 0:
        raise ValueError(f"{path} has no unit cell or no atoms")
    return structure


def model_composition(structure) -> str:
    """Atoms of a whole unit cell, occupancies counted, as "C 613 N 193"."""
    atoms: dict[str, float] = {}
    for scatterer in structure.scatterers():
        element, _ = scatterer.element_and_charge_symbols()
        number = scatterer.occupancy * scatterer.multiplicity()
        atoms[element] = atoms.get(element, 0.0) + number
    return " ".join(f"{element} {number:.4f}" for element, number in sorted(atoms.items()))


def peak_widths(
    g_length: np.ndarray, domain_size: float, mosaicity: float, bandwidth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations along g and across g, 1/Angstrom, of nodes with |g| (N,).

    Args:
        domain_size: Angstrom.
        mosaicity: full width at half maximum, degrees.
        bandwidth: relative standard deviation of the wavelength.
    """
    size = SIGMA_TIMES_DOMAIN / domain_size
    sigma = np.radians(mosaicity) / FWHM_PER_SIGMA
    along = np.sqrt(size**2 + (g_length * bandwidth) ** 2)
    across = np.sqrt(size**2 + (g_length * sigma) ** 2)
    return along, across


def nodes_near_sphere(setting: np.ndarray, s0: np.ndarray, d_min: float, reach, extent: float):
    """Nodes whose peak touches the Ewald sphere.

    Args:
        setting: (3, 3) A matrix, lab frame, 1/Angstrom.
        s0: (3,) incident beam, length 1/wavelength.
        d_min: Angstrom.
        reach: function of (g (N, 3), |g| (N,)) giving the standard deviation
            of a peak towards the sphere.
        extent: number of standard deviations that still touch.

    Returns:
        hkl (N, 3) int, g (N, 3), excitation (N,): distance of the node from
        the sphere along s1, 1/Angstrom, positive outside; sigma (N,).
    """
    direct = np.linalg.inv(setting)
    # |h| <= |a| / d_min on each axis
    limits = np.floor(np.linalg.norm(direct, axis=1) / d_min).astype(int)
    k, l = (np.arange(-n, n + 1) for n in limits[1:])
    found = []
    for h in range(-limits[0], limits[0] + 1):
        hkl = np.stack(
            [np.full(len(k) * len(l), h), np.repeat(k, len(l)), np.tile(l, len(k))], axis=1
        )
        g = hkl @ setting.T
        length = np.linalg.norm(g, axis=1)
        s1 = s0 + g
        excitation = np.linalg.norm(s1, axis=1) - np.linalg.norm(s0)
        keep = (length <= 1 / d_min) & (length > 0)
        hkl, g, length, excitation = hkl[keep], g[keep], length[keep], excitation[keep]
        sigma = reach(g, length)
        near = np.abs(excitation) <= extent * sigma
        found.append((hkl[near], g[near], excitation[near], sigma[near]))
    return tuple(np.concatenate(part) for part in zip(*found))


def towards_sphere(s0: np.ndarray, domain_size, mosaicity, bandwidth):
    """The `reach` of `nodes_near_sphere`: standard deviation along s1 of a peak."""

    def reach(g, length):
        along, across = peak_widths(length, domain_size, mosaicity, bandwidth)
        s1 = s0 + g
        cosine2 = (np.einsum("ni,ni->n", g, s1) / (length * np.linalg.norm(s1, axis=1))) ** 2
        return np.sqrt(along**2 * cosine2 + across**2 * (1 - cosine2))

    return reach


class PeakShapes(NamedTuple):
    """Peaks to draw, arrays of N.

    Attributes:
        centre: (N, 2) fast, slow in pixels, where the peak is expected.
        half: (N,) half-width of the window to draw in, pixels.
        g: (N, 3) nodes, lab frame, 1/Angstrom.
        along, across: (N,) standard deviations along g and across it, 1/Angstrom.
        weight: (N,) |F|^2 times the volume of the reciprocal cell.
    """

    centre: np.ndarray
    half: np.ndarray
    g: np.ndarray
    along: np.ndarray
    across: np.ndarray
    weight: np.ndarray


@numba.njit(cache=True)
def draw_peaks(peaks, extent, directions, step_fast, step_slow, s0, wavelength, image):
    """Add peaks to an image of mean intensity per pixel; changes the image in place.

    The density is evaluated on a grid within the pixel, finer than the
    narrower standard deviation of the peak, and averaged.

    Args:
        peaks: PeakShapes.
        extent: standard deviations out to which peaks are drawn.
        directions, step_fast, step_slow: (S, F, 3) of `PanelPixels`.
        s0: (3,) incident beam, 1/Angstrom.
        wavelength: Angstrom.
        image: (S, F).
    """
    centre, half, g, along, across, weight = peaks
    n_slow, n_fast = image.shape
    for n in range(g.shape[0]):
        gx, gy, gz = g[n, 0], g[n, 1], g[n, 2]
        ox, oy, oz = gx + s0[0], gy + s0[1], gz + s0[2]
        length2 = gx * gx + gy * gy + gz * gz
        va, vc = along[n] ** 2, across[n] ** 2
        norm = weight[n] / ((2.0 * np.pi) ** 1.5 * along[n] * vc)
        narrow = min(along[n], across[n])
        f_lo = max(0, int(np.floor(centre[n, 0] - half[n])))
        f_hi = min(n_fast, int(np.floor(centre[n, 0] + half[n])) + 1)
        s_lo = max(0, int(np.floor(centre[n, 1] - half[n])))
        s_hi = min(n_slow, int(np.floor(centre[n, 1] + half[n])) + 1)
        for s in range(s_lo, s_hi):
            for f in range(f_lo, f_hi):
                ex, ey, ez = directions[s, f, 0], directions[s, f, 1], directions[s, f, 2]
                fx, fy, fz = step_fast[s, f, 0], step_fast[s, f, 1], step_fast[s, f, 2]
                ux, uy, uz = step_slow[s, f, 0], step_slow[s, f, 1], step_slow[s, f, 2]
                size_f = np.sqrt(fx * fx + fy * fy + fz * fz) / wavelength
                size_s = np.sqrt(ux * ux + uy * uy + uz * uz) / wavelength
                dx = ex / wavelength - ox
                dy = ey / wavelength - oy
                dz = ez / wavelength - oz
                far = extent * max(along[n], across[n]) + 0.5 * (size_f + size_s)
                if dx * dx + dy * dy + dz * dz > far * far:
                    continue
                n_f = int(np.ceil(size_f / narrow)) + 1
                n_s = int(np.ceil(size_s / narrow)) + 1
                total = 0.0
                for i in range(n_f):
                    a = (i + 0.5) / n_f - 0.5
                    for j in range(n_s):
                        b = (j + 0.5) / n_s - 0.5
                        x = ex + a * fx + b * ux
                        y = ey + a * fy + b * uy
                        z = ez + a * fz + b * uz
                        # back onto the sphere: 1 / |v| to second order in |v| - 1
                        scale = (1.5 - 0.5 * (x * x + y * y + z * z)) / wavelength
                        x = x * scale - ox
                        y = y * scale - oy
                        z = z * scale - oz
                        dot = x * gx + y * gy + z * gz
                        parallel = dot * dot / length2
                        perpendicular = x * x + y * y + z * z - parallel
                        exponent = parallel / va + perpendicular / vc
                        if exponent < extent * extent:
                            total += np.exp(-0.5 * exponent)
                image[s, f] += norm * total / (n_f * n_s)
