"""The asymmetric unit of reciprocal space, for millions of indices at once."""

from __future__ import annotations

import ast
import functools

import numpy as np

from cctbx import sgtbx

from dials_diffuse.grid.symmetry import group_from_hall, reciprocal_operators, symbol_of

# Rows that are mapped together: their columns fit into a processor's cache
_BLOCK = 1 << 15


class _Elementwise(ast.NodeTransformer):
    """"and" and "or" of an expression as & and |, which work on arrays."""

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        return functools.reduce(lambda a, b: ast.BinOp(a, operator, b), node.values)


class AsymmetricUnit:
    """Maps Miller indices to the asymmetric unit of cctbx: the same result as miller.map_to_asu, and
    operators and inequalities are cctbx's too, but column by column instead of index by index
    (some 5 times as fast).

    Args:
        group: point group; if it is not centrosymmetric, h and -h stay apart, and mates of indices
            in the asymmetric unit of the Laue group are outside of it, as cctbx has it
    """

    def __init__(self, group: sgtbx.space_group):
        asu = sgtbx.reciprocal_space_asu(group.type())
        expression = ast.parse(asu.reference_as_string(), mode="eval")
        expression = ast.fix_missing_locations(_Elementwise().visit(expression))
        self._condition = compile(expression, "asymmetric unit", "eval")
        # The inequalities hold in the reference setting. They have no constant terms, so that a
        # common denominator does not matter
        to_reference = np.array(asu.cb_op().c_inv().r().num(), dtype=np.int64).reshape(3, 3).T
        operators = reciprocal_operators(group)
        signs = (1,) if group.is_centric() else (1, -1)
        self._steps = [(op, sign * to_reference @ op) for sign in signs for op in operators]

    def map(self, indices: np.ndarray) -> np.ndarray:
        """(N, 3) -> equivalents in the asymmetric unit (N, 3) int32"""
        indices = np.asarray(indices)
        out = np.empty((len(indices), 3), dtype=np.int32)
        for start in range(0, len(indices), _BLOCK):
            self._map_block(indices[start : start + _BLOCK], out[start : start + _BLOCK])
        return out

    def _map_block(self, indices: np.ndarray, out: np.ndarray) -> None:
        columns = [np.ascontiguousarray(indices[:, i], dtype=np.int32) for i in range(3)]
        rows = np.arange(len(indices))
        for operator, test in self._steps:
            h, k, l = (_combination(row, columns) for row in test)
            inside = eval(self._condition, {}, {"h": h, "k": k, "l": l})
            found = rows[inside]
            here = [column[inside] for column in columns]
            for i, row in enumerate(operator):
                out[found, i] = _combination(row, here)
            outside = ~inside
            rows = rows[outside]
            if not len(rows):
                return
            columns = [column[outside] for column in columns]
        raise AssertionError("an index has no equivalent in the asymmetric unit")


def _combination(coefficients: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    """Sum of coefficient * column, whole numbers, mostly 0 and +-1."""
    total = None
    for coefficient, column in zip(coefficients.tolist(), columns):
        if coefficient == 0:
            continue
        if total is None:
            total = column if coefficient == 1 else coefficient * column
        elif coefficient == 1:
            total = total + column
        elif coefficient == -1:
            total = total - column
        else:
            total = total + coefficient * column
    return total


@functools.lru_cache(maxsize=32)
def _unit(hall: str) -> AsymmetricUnit:
    return AsymmetricUnit(group_from_hall(hall))


def asymmetric_unit(group: sgtbx.space_group) -> AsymmetricUnit:
    """The asymmetric unit of a point group, made once a group."""
    return _unit(symbol_of(group))
