"""An arrow matrix: a block for each still, and a dense block of everything that stills share.

It is the approximate normal matrix of a fit. Its inverse preconditions conjugate gradients, and holds the covariances
of each still.
"""

from __future__ import annotations

import numpy as np

NOT_DEFINITE = (
    "The observations do not determine the scaling model (a normal matrix is not positive definite): "
    "use fewer components or stronger restraints"
)


def inverse_root(matrices: np.ndarray) -> np.ndarray:
    """R with R R^T = the inverse, for positive definite matrices (..., n, n).

    Raises:
        ValueError: a matrix is not positive definite.
    """
    # in units in which the diagonal is 1
    squares = np.diagonal(matrices, axis1=-2, axis2=-1)
    if not np.all(squares > 0):
        raise ValueError(NOT_DEFINITE)
    unit = np.sqrt(squares)
    try:
        lower = np.linalg.cholesky(matrices / (unit[..., :, None] * unit[..., None, :]))
    except np.linalg.LinAlgError as error:
        raise ValueError(NOT_DEFINITE) from error
    return np.swapaxes(np.linalg.inv(lower), -1, -2) / unit[..., :, None]


class Arrow:
    """The inverse of an arrow matrix.

    Args:
        own: (S, m, m) blocks of the stills; m may be 0
        shared: (n, n) block of what stills share; n may be 0
        cross: (S, n, m) between the two, or None for zeros

    Attributes:
        own: (S, m, m) inverses of the stills' blocks
        shared: (n, n) covariance of what stills share
        slopes: (S, m, n) change of a still's own parameters with the shared ones

    Raises:
        ValueError: the matrix is not positive definite.
    """

    def __init__(self, own: np.ndarray, shared: np.ndarray, cross: np.ndarray | None = None):
        n_stills, m = own.shape[:2]
        self._root_own = inverse_root(own)
        self.own = self._root_own @ np.swapaxes(self._root_own, 1, 2)
        self.slopes = np.zeros((n_stills, m, len(shared)))
        if cross is not None and m and len(shared):
            self.slopes = -self.own @ np.swapaxes(cross, 1, 2)
            shared = shared + np.einsum("snm,smk->nk", cross, self.slopes, optimize=True)
        self._root_shared = inverse_root(shared)
        self.shared = self._root_shared @ self._root_shared.T

    def covariances(self) -> np.ndarray:
        """(S, m, m): covariances of the stills' own parameters, the errors of shared ones included."""
        spread = self.slopes @ self.shared @ np.swapaxes(self.slopes, 1, 2)
        return self.own + spread

    def from_free(self, own: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parameters (S, m) and (n,) from free ones, for which the matrix is the unit matrix."""
        out = self._root_shared @ shared
        return np.einsum("smk,sk->sm", self._root_own, own) + self.slopes @ out, out

    def by_free(self, own: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives by the free parameters, from those by the parameters."""
        right = shared + np.einsum("smn,sm->n", self.slopes, own, optimize=True)
        return np.einsum("skm,sk->sm", self._root_own, own), self._root_shared.T @ right
