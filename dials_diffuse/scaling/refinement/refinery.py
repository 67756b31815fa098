"""DIALS's parameter manager and refineries, for an objective of ours: one thin adapter.

The parameters that they see are free ones, in units in which the functional is about equally curved in all
directions.
"""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace

import numpy as np

from dials.algorithms.refinement.engine import Refinery
from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.algorithms.scaling.scaling_refiner import ScalingRefinery, ScalingSimpleLBFGS
from dials.array_family import flex

from dials_diffuse.scaling.refinement.objective import Objective, Preconditioner

logger = logging.getLogger("dials.diffuse.scaling.refinery")

# The functional is a chi^2: a step ends when less than this can still be gained for each parameter (which are then
# within 0.03 e.s.d. of the end of the step, on average), or this part of the gain
LEAST_DECREASE = 1e-3
LEAST_PART = 1e-3
MOST_PRODUCTS = 300
# A step is halved if the functional gets larger than this factor allows. (It is not exactly what a step makes
# smaller, see kernels.)
MOST_INCREASE = 1.001


class FreeParameters:
    """The free parameters of an objective, as DIALS's parameter manager asks for them.

    Args:
        preconditioner: whose free parameters these are; they begin at 0
    """

    def __init__(self, preconditioner: Preconditioner):
        self.preconditioner = preconditioner
        self._start = preconditioner.parameters.x
        self._free = np.zeros(preconditioner.parameters.n)

    @property
    def parameters(self) -> flex.double:
        return self.free_parameters

    @property
    def free_parameters(self) -> flex.double:
        return flex.double(self._free.tolist())

    @free_parameters.setter
    def free_parameters(self, values: flex.double) -> None:
        self._free = np.array(values)
        shift = self.preconditioner.from_free(self._free)
        self.preconditioner.parameters.set(self._start + shift)


class Target:
    """What DIALS's refineries minimise: the functional of an objective.

    Args:
        objective: at some parameters
        evaluated: what objective.evaluate() has returned there
        preconditioner: of the objective
    """

    rmsd_names = ["RMSD"]
    rmsd_units = ["sigma"]

    def __init__(self, objective: Objective, evaluated: tuple, preconditioner: Preconditioner):
        self.objective, self.preconditioner = objective, preconditioner
        self._at, self._evaluated = objective.parameters.x, evaluated

    def rmsds(self, _=None, __=None) -> list[float]:
        """Root mean square of residuals over sigma at the last evaluation"""
        n_obs = np.count_nonzero(self.objective.data.weight)
        return [float(np.sqrt(self.objective.sum_of_squares / max(n_obs, 1)))]

    def achieved(self) -> bool:
        """False: L-BFGS ends by its own tests"""
        return False

    def compute_functional_gradients(self, _) -> tuple[float, flex.double]:
        x = self.objective.parameters.x
        if not np.array_equal(x, self._at):
            self._at, self._evaluated = x, self.objective.evaluate()
        functional, half = self._evaluated
        gradient = 2 * self.preconditioner.by_free(half)
        return functional, flex.double(gradient.tolist())

    def compute_restraints_functional_gradients(self, _) -> None:
        """None: the priors are a part of the functional."""

    def product(self, free: np.ndarray) -> np.ndarray:
        """The normal matrix of the free parameters at the last evaluation, times a vector."""
        x = self.preconditioner.from_free(free)
        return self.preconditioner.by_free(self.objective.product(x))


class GaussNewton(ScalingRefinery, Refinery):
    """A Gauss-Newton step by conjugate gradients, as a refinery of DIALS.

    One product of the normal matrix is one pass over the observations. In free parameters a dozen of them is enough.
    """

    def __init__(self, scaler, *args, **kwargs):
        ScalingRefinery.__init__(self, scaler, *args, **kwargs)
        Refinery.__init__(self, *args, **kwargs)

    def run(self) -> None:
        self._f, gradient = self._parameters.compute_functional_gradients(None)
        self.update_journal()
        start = np.array(self.x)
        shift = self._solve(-0.5 * np.array(gradient))
        for _ in range(8):
            self.x = flex.double((start + shift).tolist())
            self.prepare_for_step()
            before, self._f = self._f, self._parameters.compute_functional_gradients(None)[0]
            if self._f <= MOST_INCREASE * before:
                break
            shift, self._f = 0.5 * shift, before
        self.update_journal()
        self.history.reason_for_termination = "One step of Gauss-Newton"

    def _solve(self, right: np.ndarray) -> np.ndarray:
        """Solve the normal equations by conjugate gradients."""
        x, residual, direction = np.zeros_like(right), right.copy(), right.copy()
        left = float(residual @ residual)
        end = max(LEAST_DECREASE * len(x), LEAST_PART * left)
        for _ in range(self._max_iterations or MOST_PRODUCTS):
            if left < end:
                break
            product = self._target.product(direction)
            step = left / float(direction @ product)
            x += step * direction
            residual -= step * product
            left, last = float(residual @ residual), left
            direction = residual + left / last * direction
        return x


def refine_cycle(
    objective: Objective, engine: str, max_iterations: int | None
) -> tuple[dict, Preconditioner]:
    """Refine the parameters of an objective with its present weights.

    Args:
        engine: "GaussNewton" (one step) or "SimpleLBFGS" (to convergence)
        max_iterations: of L-BFGS, or products of the normal matrix; None: until convergence

    Returns:
        (row of the convergence table, preconditioner at the parameters before)
    """
    first_pass = objective.n_passes
    if engine == "SimpleLBFGS":
        # it needs the exact derivatives of the functional
        objective.data.precision[:] = 0.0
    evaluated = objective.evaluate()
    preconditioner = Preconditioner(objective)
    target = Target(objective, evaluated, preconditioner)
    n_obs = len(objective.data.rows)
    scaler = SimpleNamespace(
        params=SimpleNamespace(
            scaling_refinery=SimpleNamespace(rmsd_tolerance=max(1e-13, 5e-3 / max(n_obs, 1)))
        ),
        Ih_table=SimpleNamespace(size=n_obs),
        get_blocks_for_minimisation=lambda: [None],
        update_for_minimisation=lambda parameters, block: None,
    )
    free = FreeParameters(preconditioner)
    with quiet_refinery():
        manager = multi_active_parameter_manager(
            target, [{"diffuse": free}], [["diffuse"]], active_parameter_manager
        )
        kind = {"GaussNewton": GaussNewton, "SimpleLBFGS": ScalingSimpleLBFGS}[engine]
        refinery = kind(
            scaler,
            target=target,
            prediction_parameterisation=manager,
            max_iterations=max_iterations,
        )
        _run(refinery)
        manager.set_param_vals(refinery.x)
    history = refinery.history
    row = {
        "components": list(objective.parameters.parts),
        "parameters": objective.parameters.n,
        "steps": objective.n_passes - first_pass,
        "rmsd_start": history["rmsd"][0][0] if history.get_nrows() else target.rmsds()[0],
        "rmsd_end": target.rmsds()[0],
        "reason": history.reason_for_termination,
    }
    return row, preconditioner


@contextlib.contextmanager
def quiet_refinery():
    """Suppress the messages of DIALS's refinery, which come in each of many cycles.

    They are logged as "dials", the parent of all loggers here: a filter spares those of the children.
    """
    dials_logger = logging.getLogger("dials")

    def not_info(record: logging.LogRecord) -> bool:
        return record.levelno != logging.INFO

    dials_logger.addFilter(not_info)
    try:
        yield
    finally:
        dials_logger.removeFilter(not_info)


def _run(refinery) -> None:
    """Run a refinery; its x is the best vector then.

    The line search of L-BFGS fails with an error if no more than rounding errors can be gained; the
    last accepted step is the result then.
    """
    start = refinery.x.deep_copy()
    try:
        refinery.run()
    except RuntimeError as error:
        if "lbfgs" not in str(error):
            raise
        logger.debug("The minimiser stopped: %s", error)
        steps = refinery.history.get_nrows()
        refinery.x = refinery.history["parameter_vector"][-1] if steps else start
