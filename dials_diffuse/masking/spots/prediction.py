"""Predict where on the detector the nodes of a crystal's reciprocal lattice have their spots.

A node is a normal distribution about a point of the reciprocal lattice (see shape). Its section with
the Ewald sphere (see sections) is an ellipse on the detector (see ellipses). For pure mosaicity its
centre is where DIALS predicts stills: the node turned onto the sphere.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.masking.spots.ellipses import SpotsOnSphere, ellipses_on_panel
from dials_diffuse.masking.spots.rows import SpotRows
from dials_diffuse.masking.spots.sections import lattice_sections
from dials_diffuse.masking.spots.shape import SpotShape
from dials_diffuse.masking.spots.size import MaskExtent, ResidualLevel

K_STEPS = 65
# Points between the corners of a panel at which its highest resolution is looked for
EDGE_STEPS = 16


@dataclass(frozen=True)
class ObservedSpots:
    """Integrated spots of a still.

    Attributes:
        miller_index: (N, 3)
        counts: (N,) above background, ADU
        residual_level: what may be left of a spot
    """

    miller_index: np.ndarray
    counts: np.ndarray
    residual_level: ResidualLevel

    def counts_over_level(self, hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
        """counts / residual level of nodes.

        Args:
            hkl: (M, 3) Miller indices
            q: (M,) their |q|, 1/Angstrom

        Returns:
            (M,) pixels; 0 where no spot was observed
        """
        if len(self.counts) == 0:
            return np.zeros(len(hkl))
        observed, nodes = pack_voxels(self.miller_index), pack_voxels(hkl)
        order = np.argsort(observed, kind="stable")
        at = order[np.minimum(np.searchsorted(observed[order], nodes), len(order) - 1)]
        counts = np.where(observed[at] == nodes, self.counts[at], 0.0)
        return np.maximum(counts, 0.0) / self.residual_level.at(q)


def detector_d_min(detector, beam) -> float:
    """Highest resolution on a detector, Angstrom."""
    return min(_panel_d_min(panel, np.array(beam.get_s0())) for panel in detector)


def _panel_d_min(panel, s0: np.ndarray) -> float:
    """That of a corner, where the scattering angle is below 90 degrees. Larger ones may be largest at an edge,
    or straight back."""
    lab = np.array(
        [panel.get_pixel_lab_coord(xy) for xy in _around(panel.get_image_size(), EDGE_STEPS)]
    )
    if (lab @ s0).min() >= 0:
        return panel.get_max_resolution_at_corners(tuple(s0))
    with contextlib.suppress(RuntimeError):
        if panel.is_coord_valid_mm(panel.get_ray_intersection(tuple(-s0))):
            return 0.5 / float(np.linalg.norm(s0))
    rays = lab / np.linalg.norm(lab, axis=1)[:, None] * np.linalg.norm(s0)
    return 1 / float(np.linalg.norm(rays - s0, axis=1).max())


def _around(size: tuple[int, int], n: int) -> list[tuple[float, float]]:
    """Points along the edges of a panel, n steps each, fast and slow in pixels."""
    n_fast, n_slow = size
    steps = np.linspace(0.0, 1.0, n + 1)
    edges = [(x * n_fast, y * n_slow) for x in steps for y in (0.0, 1.0)]
    return edges + [(x * n_fast, y * n_slow) for x in (0.0, 1.0) for y in steps]


def predict_spots(
    still: Still,
    shape: SpotShape,
    n_sigma: float | MaskExtent,
    padding: float,
    d_min: float | None = None,
    minimum_radius: float = 0.0,
    observed: ObservedSpots | None = None,
) -> SpotRows:
    """The ellipses of all nodes of a still's crystal that reach the Ewald sphere.

    Args:
        still: with crystal, beam and detector
        shape: of the nodes
        n_sigma: how many standard deviations of a node are masked, for all |q| or as a function
        padding: pixels added to both semi-axes
        d_min: Angstrom; None for all that the detector sees
        minimum_radius: all pixels closer to a node than this are masked too, 1/Angstrom, by adding
            (minimum_radius / n_sigma)^2 to the constant variance
        observed: spots that are brighter than the mean are masked further out

    Raises:
        ValueError: the shape has no extent.
    """
    detector, beam = still.detector, still.beam
    s0 = np.array(beam.get_s0())
    q_max = 1 / max(d_min or 0.0, detector_d_min(detector, beam))
    if isinstance(n_sigma, MaskExtent):
        k_of_q = n_sigma.n_sigma_at(np.linspace(0.0, q_max, K_STEPS))
    else:
        k_of_q = np.full(K_STEPS, float(n_sigma))
    constant = shape.constant + (minimum_radius / k_of_q.min()) ** 2 * np.eye(3)
    shape = shape.changed(constant=constant)
    largest = shape.largest_sigma(q_max)
    if not largest > 0:
        raise ValueError(
            f"The spots of experiment {still.index} have no size: "
            "give bragg.mosaicity and bragg.domain_size"
        )
    setting = still.setting_matrix()
    space_group = still.crystal.get_space_group()
    turn = still.rotation_width * still.rotation_axis
    sections = lattice_sections(setting, space_group, s0, shape, k_of_q, q_max, turn)
    node = sections.hkl @ setting.T
    q = np.linalg.norm(node, axis=1)
    s1 = s0 + sections.centre
    spots = SpotsOnSphere(
        s1,
        s1 / np.linalg.norm(s1, axis=1)[:, None],
        sections.spread,
        sections.level,
        observed.counts_over_level(sections.hkl, q) if observed else np.zeros(len(q)),
    )
    reach = k_of_q.max() * largest + 0.5 * q_max * np.linalg.norm(turn)
    margin = reach / np.linalg.norm(s0)
    parts = []
    for number, panel in enumerate(detector):
        on_panel = ellipses_on_panel(panel, spots, s0, shape.point_spread, padding, margin)
        rows, *columns, to_pixels = on_panel
        panels = np.full(len(rows), number, dtype=np.int64)
        parts.append(
            SpotRows(
                panels, sections.hkl[rows], *columns, q[rows], sections.excitation[rows], to_pixels
            )
        )
    return SpotRows.joined(parts)
