"""The asymmetric unit of reciprocal space, for millions of indices at once."""

from __future__ import annotations

import ast
import functools

import numpy as np
from numba import njit

from cctbx import sgtbx

from dials_diffuse.grid.symmetry import group_from_hall, reciprocal_operators, symbol_of

_NAMES = ("h", "k", "l")
_UNKNOWN = -1


@njit(cache=True, nogil=True)
def _map_rows(indices, start, forms, operator_of_signs, operators, out):
    """Map rows from `start` on; returns the first row whose signs have no operator yet, or the number of rows.

    Args:
        indices: (N, 3); out: (N, 3) int32, filled
        forms: (F, 3) of linear forms
        operator_of_signs: (3^F,) number of the operator for the signs of the forms, as digits -1, 0, 1
        operators: (M, 3, 3) whole numbers
    """
    for row in range(start, indices.shape[0]):
        h, k, l = np.int64(indices[row, 0]), np.int64(indices[row, 1]), np.int64(indices[row, 2])
        code = 0
        for f in range(forms.shape[0]):
            value = forms[f, 0] * h + forms[f, 1] * k + forms[f, 2] * l
            code = 3 * code + 1 + np.int64(value > 0) - np.int64(value < 0)
        chosen = operator_of_signs[code]
        if chosen == _UNKNOWN:
            return row
        for i in range(3):
            out[row, i] = (
                operators[chosen, i, 0] * h
                + operators[chosen, i, 1] * k
                + operators[chosen, i, 2] * l
            )
    return indices.shape[0]


class AsymmetricUnit:
    """Maps Miller indices to the asymmetric unit of cctbx: the same result as miller.map_to_asu, and
    operators and inequalities are cctbx's too.

    The inequalities compare the indices with each other and with zero. So which operator takes an index there
    follows from the signs of some linear forms of h, k and l: it is asked for once for each pattern of signs,
    and looked up for all other indices.

    Args:
        group: point group; if it is not centrosymmetric, h and -h stay apart, and mates of indices
            in the asymmetric unit of the Laue group are outside of it, as cctbx has it
    """

    def __init__(self, group: sgtbx.space_group):
        asu = sgtbx.reciprocal_space_asu(group.type())
        expression = ast.parse(asu.reference_as_string(), mode="eval")
        self._condition = compile(expression, "asymmetric unit", "eval")
        # The inequalities hold in the reference setting. They have no constant terms, so that a
        # common denominator does not matter
        to_reference = np.array(asu.cb_op().c_inv().r().num(), dtype=np.int64).reshape(3, 3).T
        operators = reciprocal_operators(group)
        signs = (1,) if group.is_centric() else (1, -1)
        self._tests = [sign * to_reference @ op for sign in signs for op in operators]
        self._operators = np.array([op for _ in signs for op in operators], dtype=np.int64)
        compared = [form @ test for form in _compared(expression) for test in self._tests]
        self._forms = np.array(sorted({_primitive(form) for form in compared}), dtype=np.int64)
        self._operator_of_signs = np.full(3 ** len(self._forms), _UNKNOWN, dtype=np.int16)

    def map(self, indices: np.ndarray) -> np.ndarray:
        """(N, 3) -> equivalents in the asymmetric unit (N, 3) int32"""
        indices = np.asarray(indices)
        out = np.empty((len(indices), 3), dtype=np.int32)
        row = 0
        while True:
            row = _map_rows(
                indices, row, self._forms, self._operator_of_signs, self._operators, out
            )
            if row == len(indices):
                return out
            index = indices[row].astype(np.int64)
            code = 0
            for sign in np.sign(self._forms @ index).tolist():
                code = 3 * code + 1 + sign
            self._operator_of_signs[code] = self._operator_for(index)

    def _operator_for(self, index: np.ndarray) -> int:
        for number, test in enumerate(self._tests):
            if eval(self._condition, {}, dict(zip(_NAMES, (test @ index).tolist()))):
                return number
        raise AssertionError("an index has no equivalent in the asymmetric unit")


def _compared(expression: ast.AST) -> list[np.ndarray]:
    """The linear forms whose signs an expression asks for: left less right of its comparisons, (3,) each."""
    forms = []
    for node in ast.walk(expression):
        if isinstance(node, ast.Compare):
            form = np.zeros(3, dtype=np.int64)
            for sign, side in ((1, node.left), (-1, node.comparators[0])):
                if isinstance(side, ast.Name):
                    form[_NAMES.index(side.id)] += sign
                elif ast.literal_eval(side) != 0:
                    raise AssertionError(f"cctbx compares with a number: {ast.unparse(node)}")
            forms.append(form)
    return forms


def _primitive(form: np.ndarray) -> tuple[int, ...]:
    """The form without common factors, and with its first coefficient above 0: its sign follows from that of the other."""
    form = form // np.gcd.reduce(form)
    return tuple((form if form[np.flatnonzero(form)[0]] > 0 else -form).tolist())


@functools.lru_cache(maxsize=32)
def _unit(hall: str) -> AsymmetricUnit:
    return AsymmetricUnit(group_from_hall(hall))


def asymmetric_unit(group: sgtbx.space_group) -> AsymmetricUnit:
    """The asymmetric unit of a point group, made once a group."""
    return _unit(symbol_of(group))
