"""The parameters of a fit as one vector x, and the tables of the model that follow from it.

Each table is a linear function of its parameters: table = along @ X @ across.T, with X the parameters as a matrix.
`along` runs over the stills (or steps of p_order), `across` over what the table is a function of. b of each still is
X itself; b(p_order) has the smoother's weights `along`; c has those of |q| `across`; and so on. Whether a component is
a function of p_order makes no other difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.scaling.expectation.tables import ScaleTables

TABLES = {"scale": "b", "offset": "c", "panel": "d", "sensitivity": "a"}


@dataclass
class Quadratic:
    """A normal prior of the parameters X: (X - mean)^T precision (X - mean).

    Attributes:
        mean: as X
        precision: (n_along, n_across, n_across), a matrix for each row of X; or (n, n) over all of X
    """

    mean: np.ndarray
    precision: np.ndarray

    def of_rows(self, rows: np.ndarray) -> Quadratic:
        """The prior of some rows (n_along,) bool of X, whose precision is a matrix for each."""
        return Quadratic(self.mean[rows], self.precision[rows])

    def mixed(self, other: Quadratic, share: np.ndarray) -> Quadratic:
        """A share (n_along,) of this prior and the rest of another, both with a matrix for each row."""
        rest = (1.0 - share)[:, None, None] * other.precision
        own = share[:, None, None] * self.precision
        right = np.einsum("spq,sq->sp", own, self.mean) + np.einsum("spq,sq->sp", rest, other.mean)
        return Quadratic(np.linalg.solve(own + rest, right[:, :, None])[:, :, 0], own + rest)

    def half_gradient(self, values: np.ndarray) -> np.ndarray:
        """Half the derivatives by X, as X."""
        shift = values - self.mean
        if self.precision.ndim == 3:
            return np.einsum("spq,sq->sp", self.precision, shift)
        return (self.precision @ shift.ravel()).reshape(shift.shape)

    def product(self, shift: np.ndarray) -> np.ndarray:
        """precision @ shift, as X."""
        return self.half_gradient(shift + self.mean)

    def value(self, values: np.ndarray) -> float:
        """The prior's part of the functional."""
        return float(np.sum((values - self.mean) * self.half_gradient(values)))


@dataclass
class Part:
    """One component of the model: its parameters and the table that follows from them.

    Attributes:
        name: of the component
        values: X (n_along, n_across)
        along: (rows of the table, n_along); None for the identity
        across: (columns of the table, n_across); None for the identity
        prior: of X
        positive: least value of X; None for no limit
    """

    name: str
    values: np.ndarray
    along: np.ndarray | None
    across: np.ndarray | None
    prior: Quadratic
    positive: np.ndarray | None = None

    def table(self, values: np.ndarray) -> np.ndarray:
        """The table (rows, columns) of parameters X."""
        rows = values if self.along is None else self.along @ values
        return rows if self.across is None else rows @ self.across.T

    def by_parameters(self, table: np.ndarray) -> np.ndarray:
        """Derivatives by X, from those by the table (rows, columns)."""
        columns = table if self.across is None else table @ self.across
        return columns if self.along is None else self.along.T @ columns

    def by_row(self, diagonal: np.ndarray) -> np.ndarray:
        """(rows, n_across, n_across): normal matrices of each row of the table, from its diagonal."""
        if self.across is None:
            return diagonal[:, :, None] * np.eye(diagonal.shape[1])
        return np.einsum("sr,rp,rq->spq", diagonal, self.across, self.across, optimize=True)

    def normal(self, diagonal: np.ndarray) -> np.ndarray:
        """(n, n): normal matrix of all of X, prior included, from the diagonal of the table's."""
        rows = self.by_row(diagonal)
        if self.along is None:
            n_rows, n = rows.shape[:2]
            out = np.zeros((n_rows, n, n_rows, n))
            out[np.arange(n_rows), :, np.arange(n_rows)] = rows
        else:
            out = np.einsum("si,sj,spq->ipjq", self.along, self.along, rows, optimize=True)
        out = out.reshape(self.values.size, self.values.size)
        return out + self.dense_prior()

    def dense_prior(self) -> np.ndarray:
        """(n, n): precision of the prior over all of X."""
        if self.prior.precision.ndim == 2:
            return self.prior.precision
        n_rows, n = self.prior.precision.shape[:2]
        out = np.zeros((n_rows, n, n_rows, n))
        out[np.arange(n_rows), :, np.arange(n_rows)] = self.prior.precision
        return out.reshape(n_rows * n, n_rows * n)

    @property
    def by_still(self) -> bool:
        """True if each still has parameters of its own."""
        return self.along is None and self.name in ("scale", "offset")


class Parameters:
    """All refined parameters as one vector.

    Args:
        parts: the refined components
        start: tables of everything that is not refined
    """

    def __init__(self, parts: list[Part], start: ScaleTables):
        self.parts = {part.name: part for part in parts}
        self._start = start
        ends = np.cumsum([part.values.size for part in parts])
        self.slices = {
            part.name: slice(end - part.values.size, end) for part, end in zip(parts, ends)
        }
        self.n = int(ends[-1]) if len(ends) else 0

    @property
    def x(self) -> np.ndarray:
        """(n,) a copy of the values of all parts."""
        return np.concatenate([part.values.ravel() for part in self.parts.values()])

    def set(self, x: np.ndarray) -> None:
        """Set the values of all parts, not below their limits."""
        for part, values in zip(self.parts.values(), self.split(x)):
            part.values = values.copy()
            if part.positive is not None:
                part.values = np.maximum(values, part.positive)

    def split(self, x: np.ndarray) -> list[np.ndarray]:
        """x (n,) as matrices X of the parts."""
        parts = self.parts.items()
        return [x[self.slices[name]].reshape(part.values.shape) for name, part in parts]

    def tables(self) -> ScaleTables:
        """Tables at the present values."""
        made = {}
        for name, part in self.parts.items():
            made[TABLES[name]] = self._shaped(name, part.table(part.values))
        return self._start._replace(**made)

    def shifts(self, x: np.ndarray) -> ScaleTables:
        """Changes of the tables for changes x of the parameters; 0 for what is not refined."""
        out = self._start.zeros()
        for (name, part), values in zip(self.parts.items(), self.split(x)):
            getattr(out, TABLES[name])[:] = self._shaped(name, part.table(values))
        return out

    def gradient(self, tables: ScaleTables) -> np.ndarray:
        """(n,): derivatives by x from those by the tables."""
        per_part = []
        for name, part in self.parts.items():
            table = getattr(tables, TABLES[name])
            per_part.append(part.by_parameters(self.matrix(name, table)).ravel())
        return np.concatenate(per_part)

    def prior_value(self) -> float:
        """Value of all priors at the present values."""
        return sum(part.prior.value(part.values) for part in self.parts.values())

    def prior_half_gradient(self) -> np.ndarray:
        """(n,): half the derivatives of all priors at the present values."""
        parts = self.parts.values()
        return np.concatenate([part.prior.half_gradient(part.values).ravel() for part in parts])

    def prior_product(self, x: np.ndarray) -> np.ndarray:
        """(n,): precision of all priors times x."""
        pairs = zip(self.parts.values(), self.split(x))
        return np.concatenate([part.prior.product(values).ravel() for part, values in pairs])

    @staticmethod
    def matrix(name: str, table: np.ndarray) -> np.ndarray:
        """A table of ScaleTables as a matrix of `Part`: b as a column, d as a row, c without its last bin."""
        if name == "scale":
            return table[:, None]
        if name == "panel":
            return table[None]
        return table[:, :-1] if name == "offset" else table

    @staticmethod
    def _shaped(name: str, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`."""
        if name in ("scale", "panel"):
            return matrix.ravel()
        if name == "offset":
            return np.concatenate((matrix, np.zeros((len(matrix), 1))), axis=1)
        return matrix
