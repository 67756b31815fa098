"""The diffuse scaling model, as DIALS keeps it in an experiment.

DIALS and dxtbx load this module whenever they read a .expt or list scaling models: it
imports nothing beyond them.
"""

from __future__ import annotations

import logging

import numpy as np

from iotbx import phil

from dials.algorithms.scaling.model.model import ScalingModelBase
from dials.array_family import flex

from dials_diffuse.model.components import (
    PanelScale,
    RadialOffset,
    ScaleSeries,
    Sensitivity,
    StillScale,
)
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries

logger = logging.getLogger("dials.diffuse.scaling.model")

# What dials.scale model=diffuse would ask for; dials.diffuse_scale has its own scope
diffuse_model_phil_scope = phil.parse(
    """
    scale = True
      .type = bool
      .help = "Refine a scale factor b for each still."
    """
)


class DiffuseScalingModel(ScalingModelBase):
    """I_obs = a(x, y) d(panel) (b_i I_v + c_i(|q|)) for one still.

    Components: "scale" (b), "offset" (c), "panel" (d), "sensitivity" (a); the last two belong to the
    detector and are the same in all stills of a scaling run. Where a or c are functions of p_order as well,
    the components are what this still has of them, and configdict keeps the functions.
    """

    id_ = "diffuse"
    phil_scope = diffuse_model_phil_scope

    def __init__(self, parameters_dict: dict, configdict: dict, is_scaled: bool = False):
        super().__init__(configdict, is_scaled)
        for name in configdict["corrections"]:
            values = parameters_dict[name]["parameters"]
            esds = parameters_dict[name].get("parameter_esds")
            if name == "scale":
                component = StillScale(values, esds)
            elif name == "offset":
                component = RadialOffset(values, configdict["offset"]["q_max"], esds)
            elif name == "panel":
                component = PanelScale(values, esds)
            elif name == "sensitivity":
                geometry = configdict["sensitivity"]
                component = Sensitivity(values, geometry["extent"], geometry["shape"], esds)
            else:
                raise ValueError(f"Unknown component of a diffuse scaling model: {name}")
            self._components[name] = component

    @classmethod
    def unscaled(cls, grid: dict) -> DiffuseScalingModel:
        """The model of a still before scaling (b = 1), which carries the grid."""
        return cls(
            {"scale": {"parameters": flex.double([1.0])}}, {"corrections": ["scale"], "grid": grid}
        )

    @classmethod
    def create(
        cls,
        grid: dict,
        offset: dict | None = None,
        n_panels: int | None = None,
        sensitivity: dict | None = None,
    ) -> DiffuseScalingModel:
        """A model with the components asked for, at their null values.

        Args:
            grid: plain dictionary of the grid
            offset: {"n_parameters", "q_max"}
            n_panels: panels of the detector, for one factor each
            sensitivity: {"extent": (x0, x1, y0, y1), "shape": (n_x, n_y)}
        """
        configdict: dict = {"corrections": ["scale"], "grid": grid}
        values = {"scale": flex.double([1.0])}
        if offset:
            values["offset"] = flex.double(int(offset["n_parameters"]), 0.0)
            configdict["offset"] = {"q_max": float(offset["q_max"])}
        if n_panels:
            values["panel"] = flex.double(int(n_panels), 1.0)
        if sensitivity:
            shape = [int(n) for n in sensitivity["shape"]]
            values["sensitivity"] = flex.double(shape[0] * shape[1], 1.0)
            configdict["sensitivity"] = {
                "extent": [float(x) for x in sensitivity["extent"]],
                "shape": shape,
            }
        configdict["corrections"] = list(values)
        return cls({name: {"parameters": v} for name, v in values.items()}, configdict)

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
        return cls(parameters, configdict, is_scaled=configdict.get("is_scaled", False))

    def set_series(self, series: ScaleSeries, place: float) -> None:
        """Keep the smooth function of p_order that b comes from, and this still's place in it"""
        self._configdict["series"] = {
            "parameters": series.values().tolist(),
            "range": [float(series.p_order.min()), float(series.p_order.max())],
            "p_order": float(place),
        }

    def keep_series(self, name: str, kept: dict, place: float) -> None:
        """Keep the function of p_order that this still's "offset" or "sensitivity" is a part of.

        Args:
            kept: to_dict() of OffsetSeries or SensitivitySeries; of the latter without
                parameters in all stills but the first
            place: p_order of this still
        """
        self._configdict[f"{name}_series"] = {**kept, "p_order": float(place)}

    def series_of(self, name: str, p_order: np.ndarray) -> OffsetSeries | SensitivitySeries | None:
        """The function of p_order that was kept, for stills at p_order (S,) within its range; None
        without one"""
        kept = self.configdict.get(f"{name}_series", {})
        if "parameters" not in kept:
            return None
        kind = OffsetSeries if name == "offset" else SensitivitySeries
        return kind.from_dict(kept, p_order)

    def set_scaling_model_as_scaled(self) -> None:
        super().set_scaling_model_as_scaled()
        self._configdict["is_scaled"] = True

    def factors(
        self, panel: np.ndarray, q: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inverse scale factor g = a d b and offset h = a d c of observations of this still.

        counts - background is expected to be exposure * (g I_v + h).

        Args:
            panel: (N,) panel numbers
            q: (N,) |q| in 1/Angstrom
            x, y: (N,) projected direction of s1 (scaling.observations.projected_direction)
        """
        g = np.ones(len(q))
        if "panel" in self.components:
            g *= self.components["panel"].values()[panel]
        if "sensitivity" in self.components:
            sensitivity = self.components["sensitivity"]
            table = sensitivity.table_weights() @ sensitivity.values()
            g *= table[sensitivity.bin_of(x, y)]
        h = np.zeros(len(q))
        if "offset" in self.components:
            offset = self.components["offset"]
            table = offset.table_weights() @ offset.values()
            h = g * table[offset.bin_of(q)]
        return g * self.components["scale"].values()[0], h

    def configure_components(self, reflection_table, experiment, params) -> None:
        """Give the components their columns: panel, and |q| and projected direction as q and xy"""
        data = {
            "scale": {"id": reflection_table["id"]},
            "offset": {"q": reflection_table["q"]} if "q" in reflection_table else {},
            "panel": {"panel": reflection_table["panel"]} if "panel" in reflection_table else {},
            "sensitivity": {"xy": reflection_table["xy"]} if "xy" in reflection_table else {},
        }
        for name, component in self.components.items():
            component.data = data[name]

    def plot_model_components(self, reflection_table=None) -> dict:
        """Plots of c(|q|), d and a(x, y) for dials.report, as plotly JSON"""
        plots = {}

        def add(name: str, data: dict, title: str, x: str, y: str, text: str) -> None:
            plots[f"diffuse_{name}"] = {
                "data": [data],
                "layout": {"title": title, "xaxis": {"title": x}, "yaxis": {"title": y}},
                "help": text,
            }

        if "series" in self.configdict:
            kept = self.configdict["series"]
            x = np.linspace(*kept["range"], 200)
            series = ScaleSeries(flex.double(kept["parameters"]), x)
            # the still's b may be on the absolute scale by now
            at = ScaleSeries(series.parameters, np.array([*kept["range"], kept["p_order"]]))
            b = self.components["scale"].values()[0]
            factor = b / (at.table_weights() @ at.values())[2]
            y = factor * (series.table_weights() @ series.values())
            curve = {"type": "scatter", "x": x.tolist(), "y": y.tolist()}
            add(
                "series",
                curve,
                "Scale b of the series",
                "p_order",
                "b",
                "The smooth function that the scales of all stills of the series lie on.",
            )
        if "offset" in self.components:
            offset = self.components["offset"]
            table = offset.table_weights() @ offset.values()
            curve = {"type": "scatter", "x": offset.bin_centres().tolist(), "y": table.tolist()}
            add(
                "offset",
                curve,
                "Offset c of the diffuse model",
                "|q| (1/Angstrom)",
                "photons/(s sr)",
                "What this still scatters besides b times the merged intensity.",
            )
        if self.series_of("offset", []) is not None:
            image = self._offset_over_p_order()
            add(
                "offset_series",
                image,
                "Offset c over p_order",
                "|q| (1/Angstrom)",
                "p_order",
                "What a still with b = 1 at this p_order scatters besides the merged intensity, in "
                "photons/(s sr).",
            )
        if "panel" in self.components:
            values = self.components["panel"].values()
            points = {
                "type": "scatter",
                "mode": "markers",
                "x": list(range(len(values))),
                "y": values.tolist(),
            }
            add(
                "panel",
                points,
                "Panel factors d of the diffuse model",
                "panel",
                "d",
                "Relative sensitivity of the panels, the same for all stills.",
            )
        if "sensitivity" in self.components:
            sensitivity = self.components["sensitivity"]
            x, y = sensitivity.bin_centres()
            side = int(round(len(x) ** 0.5))
            image = {
                "type": "heatmap",
                "x": x[:side].tolist(),
                "y": y[::side].tolist(),
                "z": (sensitivity.table_weights() @ sensitivity.values())
                .reshape(side, side)
                .tolist(),
                "colorscale": "Viridis",
            }
            series = self.configdict.get("sensitivity_series")
            whose = (
                "the same for all stills."
                if series is None
                else f"at the place of this still, p_order {series['p_order']:.6g}."
            )
            add(
                "sensitivity",
                image,
                "Sensitivity a of the diffuse model",
                "x",
                "y",
                "A smooth factor over the direction of s1 around the beam (2 sin(theta) from the "
                f"centre), {whose}",
            )
        return plots

    def _offset_over_p_order(self) -> dict:
        """Heat map of the c(|q|, p_order) that was kept"""
        kept = self.configdict["offset_series"]
        places = np.linspace(*kept["range"], 60)
        series = self.series_of("offset", places)
        values = (series.by_still() - np.array(kept.get("lift", 0.0))) @ series.table_weights().T
        return {
            "type": "heatmap",
            "x": series.radial.bin_centres()[::4].tolist(),
            "y": places.tolist(),
            "z": values[:, ::4].tolist(),
            "colorscale": "Viridis",
        }

    def consecutive_refinement_order(self) -> list[list[str]]:
        return [["scale"], ["offset", "panel", "sensitivity"]]
