"""The shape of a Bragg peak in reciprocal space.

A node r of the reciprocal lattice is taken as a normal distribution with covariance

    C(r) = S + |r|^2 (a11 e1 e1' + a12 (e1 e2' + e2 e1') + a22 e2 e2') + (|r| b)^2 e3 e3'

S: constant part (domain size), 1/A^2. a: spread of orientations across r, rad^2, in the
frame e1 = r x s0, e2 = r x e1, e3 = r (all of unit length), that of DIALS's ellipsoid
profiles. b: relative standard deviation of the wavelength: a pixel that sees wavelengths
longer by dL/L has its q = s1 - s0 too short by the same fraction, which stretches along r.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
# sinc^2(pi q D), the peak of a domain of size D, is 0.8859/D wide at half maximum
SIGMA_TIMES_DOMAIN_SIZE = 0.8859 / FWHM_PER_SIGMA


@dataclass(frozen=True)
class SpotShape:
    """Parameters of C(r).

    Attributes:
        constant: S, (3, 3), 1/Angstrom^2, lab frame
        across: (a11, a12, a22), rad^2
        along: b, relative standard deviation of the wavelength
        point_spread: standard deviation of what the detector adds, pixels
        source: where the numbers are from, for the log
    """

    constant: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    across: tuple[float, float, float] = (0.0, 0.0, 0.0)
    along: float = 0.0
    point_spread: float = 0.0
    source: str = ""

    @classmethod
    def isotropic(cls, size: float, angle: float, source: str = "", **others) -> SpotShape:
        """A shape of one constant sigma (1/Angstrom) and one angular sigma (rad)."""
        return cls(size**2 * np.eye(3), (angle**2, 0.0, angle**2), source=source, **others)

    @property
    def size(self) -> float:
        """Root mean square constant sigma, 1/Angstrom."""
        return float(np.sqrt(np.trace(self.constant) / 3))

    @property
    def angle(self) -> float:
        """Root mean square angular sigma, rad."""
        return float(np.sqrt((self.across[0] + self.across[2]) / 2))

    def largest_sigma(self, q_max: float) -> float:
        """A bound on the standard deviation in any direction up to |q| = q_max, 1/Angstrom."""
        constant, angular = self.largest_variances()
        return float(np.sqrt(constant + q_max**2 * angular))

    def largest_variances(self) -> tuple[float, float]:
        """(a, b): no variance of a node r, in any direction, is larger than a + b |r|^2; 1/Angstrom^2 and 1."""
        a11, a12, a22 = self.across
        angular = max(np.linalg.eigvalsh([[a11, a12], [a12, a22]])[-1], self.along**2)
        return float(np.linalg.eigvalsh(self.constant)[-1]), float(angular)

    def changed(self, **values) -> SpotShape:
        """A copy with other values."""
        return replace(self, **values)


def shape_of_model(experiment) -> SpotShape | None:
    """The shape that DIALS found for a crystal, or None if it has none.

    - ellipsoid profiles (dials.ssx_integrate): their covariance, as it is
    - MosaicCrystalSauter2014 (dials.stills_process): reflections reach 1/D + eta |r| from
      the Ewald sphere (Sauter et al. 2014), with D the domain size and eta the half
      mosaicity: full widths, for which we take those at half maximum of normal
      distributions
    - MosaicCrystalKabsch2010: its mosaicity is a standard deviation (Kabsch 2010)
    """
    profile, crystal = experiment.profile, experiment.crystal
    if profile is not None and hasattr(profile, "parameterisation"):
        model = profile.parameterisation
        constant = np.array(model.sigma(), dtype=float).reshape(3, 3)
        across = (0.0, 0.0, 0.0)
        parameterisation = model.parameterisation()
        if hasattr(parameterisation, "sigma_A"):
            angular = np.array(parameterisation.sigma_A(), dtype=float).reshape(3, 3)
            across = (angular[0, 0], angular[0, 1], angular[1, 1])
        elif parameterisation.is_angular():
            # Older models ("angular2", "angular4") are constant, along axes that turn with
            # r: as wide in all directions as they are in the widest
            constant = np.linalg.eigvalsh(constant)[-1] * np.eye(3)
        return SpotShape(constant, across, source="ellipsoid profile")
    if hasattr(crystal, "get_half_mosaicity_deg"):
        domain, half = crystal.get_domain_size_ang(), crystal.get_half_mosaicity_deg()
        if domain > 0:
            return SpotShape.isotropic(
                SIGMA_TIMES_DOMAIN_SIZE / domain,
                np.radians(2 * half) / FWHM_PER_SIGMA,
                source="crystal model",
            )
    if hasattr(crystal, "get_mosaicity") and crystal.get_mosaicity() > 0:
        return SpotShape.isotropic(0.0, np.radians(crystal.get_mosaicity()), source="crystal model")
    return None
