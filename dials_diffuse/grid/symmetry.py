"""Laue symmetry of the grid. All operators come from cctbx."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cctbx import sgtbx


def laue_group_of(space_group: sgtbx.space_group, friedel: bool = True) -> sgtbx.space_group:
    """The Laue group: point group operators (no centring, no screw parts) plus inversion,
    in the setting of the space group. Without Friedel's law the point group itself.
    """
    point_group = space_group.build_derived_point_group()
    return point_group.build_derived_laue_group() if friedel else point_group


def laue_group_from_symbol(symbol: str, friedel: bool = True) -> sgtbx.space_group:
    """The Laue group of a space or point group given by any symbol cctbx reads; without
    Friedel's law its point group.

    Raises:
        ValueError: unknown symbol.
    """
    try:
        info = sgtbx.space_group_info(symbol)
    except RuntimeError as error:
        raise ValueError(
            f"Unknown symmetry {symbol!r}: give a space or Laue group symbol"
        ) from error
    return laue_group_of(info.group(), friedel)


def symbol_of(group: sgtbx.space_group) -> str:
    """Hall symbol, which names the group and its setting without ambiguity."""
    return group.type().hall_symbol().strip()


def group_from_hall(hall: str) -> sgtbx.space_group:
    """Inverse of symbol_of."""
    return sgtbx.space_group_info("hall: " + hall).group()


def reciprocal_operators(group: sgtbx.space_group) -> np.ndarray:
    """Rotations acting on Miller indices as columns, (n_ops, 3, 3) int: h' = R^T h."""
    return np.array(
        [np.array(op.r().as_double()).reshape(3, 3).T.round() for op in group.all_ops()],
        dtype=np.int64,
    )


def centring_vectors(space_group: sgtbx.space_group) -> tuple[np.ndarray, int]:
    """Translations of a space group's lattice centring, (n, 3) integers over a common denominator.

    A node is there if its scalar product with each of them is an integer.
    """
    vectors, denominator = [], 1
    for i in range(1, space_group.n_ltr()):
        translation = space_group(i, 0, 0).t()
        denominator = translation.den()
        vectors.append(translation.num())
    return np.array(vectors, dtype=np.int64).reshape(-1, 3), int(denominator)


def absent_by_centring(miller_index: np.ndarray, space_group: sgtbx.space_group) -> np.ndarray:
    """(N,) bool: nodes (N, 3) that the centring of the lattice extinguishes."""
    vectors, denominator = centring_vectors(space_group)
    return np.any((np.asarray(miller_index, dtype=np.int64) @ vectors.T) % denominator != 0, axis=1)


def check_subdivide(subdivide: Sequence[int], laue_group: sgtbx.space_group) -> None:
    """Check that every operator maps voxel centres to voxel centres.

    That is so if the subdivision n is equal on axes that an operator relates.

    Raises:
        ValueError: n below 1, or different on axes that the symmetry relates.
    """
    if len(subdivide) != 3 or min(subdivide) < 1:
        raise ValueError(f"subdivide={tuple(subdivide)} must be three whole numbers >= 1")
    for i in range(3):
        for j in range(3):
            if i == j or subdivide[i] == subdivide[j]:
                continue
            if any(op[i, j] for op in reciprocal_operators(laue_group)):
                raise ValueError(
                    "subdivide=" + ",".join(map(str, subdivide)) + " is against the symmetry: Laue "
                    f"group {laue_group.info()} relates {'abc'[i]}* and {'abc'[j]}*, "
                    "which need the same subdivision"
                )
