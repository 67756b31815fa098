"""The diffuse scaling model, as DIALS keeps it in an experiment.

DIALS and dxtbx load this module whenever they read a .expt or list scaling models: it
imports nothing beyond them.
"""

from __future__ import annotations

import logging

from iotbx import phil

from dials.algorithms.scaling.model.components.scale_components import (
    SingleScaleFactor,
)
from dials.algorithms.scaling.model.model import ScalingModelBase
from dials.array_family import flex

logger = logging.getLogger("dials.diffuse.scaling.model")

diffuse_model_phil_scope = phil.parse(
    """
    scale = True
      .type = bool
      .help = "Refine a scale factor b for each still."
    """
)


class DiffuseScalingModel(ScalingModelBase):
    """I_obs = a(x, y) d(panel) (b_i I_v + c_i(|q|)) for one still."""

    id_ = "diffuse"
    phil_scope = diffuse_model_phil_scope

    def __init__(self, parameters_dict: dict, configdict: dict, is_scaled: bool = False):
        super().__init__(configdict, is_scaled)
        if "scale" in configdict["corrections"]:
            self._components["scale"] = SingleScaleFactor(
                parameters_dict["scale"]["parameters"],
                parameters_dict["scale"].get("parameter_esds"),
            )

    @classmethod
    def unscaled(cls, grid: dict) -> DiffuseScalingModel:
        """The model of a still before scaling (b = 1), which carries the grid."""
        return cls(
            {"scale": {"parameters": flex.double([1.0])}},
            {"corrections": ["scale"], "grid": grid},
        )

    @classmethod
    def from_data(cls, params, experiment, reflection_table) -> DiffuseScalingModel:
        raise ValueError(
            "The diffuse model scales observations of diffuse scattering, not Bragg reflections: "
            "use dials.diffuse_scale"
        )

    @classmethod
    def from_dict(cls, obj: dict) -> DiffuseScalingModel:
        if obj["__id__"] != cls.id_:
            raise RuntimeError(f"expected __id__ {cls.id_}, got {obj['__id__']}")
        configdict = obj["configuration_parameters"]
        parameters = {}
        for name in configdict["corrections"]:
            saved = obj[name]
            esds = saved.get("est_standard_devs")
            parameters[name] = {
                "parameters": flex.double(saved["parameters"]),
                "parameter_esds": flex.double(esds) if esds else None,
            }
        return cls(parameters, configdict, is_scaled=obj.get("is_scaled", False))

    def configure_components(self, reflection_table, experiment, params) -> None:
        self.components["scale"].data = {"id": reflection_table["id"]}

    def consecutive_refinement_order(self) -> list[list[str]]:
        return [["scale"]]
