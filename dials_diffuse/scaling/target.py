"""The target of diffuse scaling for DIALS's refineries."""

from __future__ import annotations

import numpy as np

from dials.algorithms.scaling.target_function import ScalingTarget
from dials.array_family import flex

from dials_diffuse.scaling.kernels import profile_functional


class DiffuseScalingTarget(ScalingTarget):
    """Weighted squares of (counts - background) - exposure (g I_v + h), I_v in closed form.

    Args:
        scaler: the DiffuseScaler whose components are refined
        restraints: object with functional_gradients(scaler) -> (float, dict of numpy
            gradients by component), or None
        names: components that are refined
    """

    rmsd_names = ["RMSD"]
    rmsd_units = ["sigma"]

    def __init__(self, scaler, restraints=None, names=("scale", "offset", "panel", "sensitivity")):
        super().__init__()
        self.rmsd_names = ["RMSD"]
        self.rmsd_units = ["sigma"]
        self.scaler = scaler
        self.restraints = restraints
        self.names = tuple(names)
        self.reference = np.zeros(len(scaler.data.voxel))
        self._last = 0.0
        self.n_calls = 0

    def rmsds(self, Ih_table, apm) -> list[float]:
        """Root mean square of residuals over their expected sigma, at the last evaluation"""
        return [float(np.sqrt(self._last / max(self.scaler.data.size, 1)))]

    def compute_functional_gradients(self, block):
        """(functional, gradient over the free parameters in the parameter manager's order)"""
        gradients = self.scaler.empty_gradients()
        functional = profile_functional(
            block.start, block.still, block.panel, block.radial, block.direction, block.y,
            block.exposure, block.weight, *self.scaler.tables(), self.reference, *gradients,
        )  # fmt: skip
        self.n_calls += 1
        self._last = functional
        return functional, self._in_order(self.scaler.gradient_by_parameters(*gradients))

    def compute_restraints_functional_gradients(self, apm):
        """(functional, gradient) of the restraints, or None"""
        if self.restraints is None:
            return None
        functional, gradients = self.restraints.functional_gradients(self.scaler)
        return functional, self._in_order(gradients)

    def _in_order(self, gradients: dict) -> flex.double:
        parts = []
        for number, manager in enumerate(self.scaler.data_managers):
            for name, component in manager.components.items():
                if name not in self.names:
                    continue
                of = gradients[name]
                if name in ("scale", "offset"):
                    of = np.atleast_1d(of[number])
                if name == "scale" and "offset" in manager.components and "offset" in self.names:
                    # c follows b
                    of = of + manager.components["offset"].slope @ gradients["offset"][number]
                parts.append(component.free_gradient(of))
        return flex.double(np.concatenate(parts).tolist())
