"""Refinement of a cycle, by DIALS's parameter manager and refineries."""

from __future__ import annotations

import contextlib
import logging

import numpy as np

from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.algorithms.scaling.scaling_refiner import scaling_refinery
from dials.array_family import flex

from dials_diffuse.scaling.refinement.restraints import Restraints
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.settings import FitSettings
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.units import set_units

logger = logging.getLogger("dials.diffuse.scaling.refinery")


def refine_cycle(
    scaler: DiffuseScaler, restraints: Restraints, names: list[str], settings: FitSettings
) -> dict:
    """Refine the named components; returns a row of the convergence table."""
    restraints.hold_means(scaler)
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.functional_and_gradients(scaler.data)
    before = target.rmsds(None, None)[0]
    set_units(scaler, target.reference, restraints, names)
    components = [manager.components for manager in scaler.data_managers]
    with quiet_refinery():
        manager = multi_active_parameter_manager(
            target, components, [names] * len(components), active_parameter_manager
        )
        if settings.engine == "LevMar":
            # It stops if a derivative is exactly zero. That of a still without observations is, since
            # its parameters are where their restraints want them: move them by a millionth of an e.s.d.
            manager.set_param_vals(manager.get_param_vals() + 1e-6)
        start = manager.get_param_vals().deep_copy()
        refinery = scaling_refinery(
            settings.engine, scaler, target, manager, settings.max_iterations
        )
        manager.set_param_vals(run_refinery(refinery, start))
    if "scale" in names and getattr(refinery, "parameter_var_cov", None) is not None:
        set_scale_esds(scaler, manager, np.array(refinery.parameter_var_cov))
    scaler.update_for_minimisation()
    target.functional_and_gradients(scaler.data)
    return {
        "components": list(names),
        "parameters": manager.n_active_params,
        "steps": refinery.history.get_nrows(),
        "calls": target.n_calls,
        "rmsd_start": before,
        "rmsd_end": target.rmsds(None, None)[0],
        "reason": refinery.history.reason_for_termination,
    }


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


def run_refinery(refinery, start):
    """Run one of DIALS's refineries and return the best parameters.

    The line search of L-BFGS fails with an error if no more than rounding errors can be gained; the
    last accepted step is the result then.
    """
    try:
        refinery.run()
    except RuntimeError as error:
        if "lbfgs" not in str(error):
            raise
        logger.debug("The minimiser stopped: %s", error)
        steps = refinery.history.get_nrows()
        return refinery.history["parameter_vector"][-1] if steps else start
    return refinery.x


def set_scale_esds(scaler: DiffuseScaler, manager, covariance: np.ndarray) -> None:
    """Set the e.s.d.s of b for the convention mean b = 1, from the covariance of all free parameters.

    Without a convention all b can grow together, and the diagonal of the covariance tells no more
    than that. With it, b_i becomes b_i / mean(b), and a shift of b_i becomes db_i - b_i mean(db).
    """
    n = manager.n_active_params
    rows = [
        manager.apm_data[i]["start_idx"] + manager.apm_list[i].components["scale"]["start_idx"]
        for i in range(len(scaler.models))
    ]
    units = np.array([model.components["scale"].unit for model in scaler.models])
    covariance_b = covariance.reshape(n, n)[np.ix_(rows, rows)] * np.outer(units, units)
    b = np.array([model.components["scale"].parameters[0] for model in scaler.models])
    observed = np.bincount(scaler.data.still, minlength=len(b)) > 0
    shifts = np.eye(len(b)) - np.outer(b / b[observed].mean(), observed / observed.sum())
    variances = np.diagonal(shifts @ covariance_b @ shifts.T)
    for model, variance in zip(scaler.models, variances):
        model.components["scale"].parameter_esds = flex.double([float(np.sqrt(max(variance, 0)))])
