"""The diffuse scaling model of a still, as DIALS stores it in an experiment.

DIALS and dxtbx load this module whenever they read a .expt file or list scaling models, so it
imports nothing beyond them.
"""

from __future__ import annotations

import numpy as np

from iotbx import phil

from dials.algorithms.scaling.model.model import ScalingModelBase
from dials.array_family import flex

from dials_diffuse.model.components import (
    N_AZIMUTHAL,
    PanelScale,
    RadialOffset,
    ScaleSeries,
    Sensitivity,
    StillScale,
)
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries

# DIALS demands a scope of every model; dials.diffuse_scale has its own
diffuse_model_phil_scope = phil.parse(
    """
    scale = True
      .type = bool
      .help = "Refine a scale factor b for each still."
    """
)

NOT_FOR_BRAGG = (
    "The diffuse model scales observations of diffuse scattering, not Bragg reflections: "
    "use dials.diffuse_scale"
)


class DiffuseScalingModel(ScalingModelBase):
    """Observed intensity of one still: a(x, y) d(panel) (b_i I_v + c_i(|q|)).

    Components: "scale" (b), "offset" (c), "panel" (d), "sensitivity" (a). The last two belong to the
    detector and are the same in all stills of a scaling run. Where a or c are functions of p_order
    too, the components are their values at the p_order of this still, and configdict stores the
    functions. A sweep has one model, whose b and c are functions of the image number: see `of_sweep`.
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
        """The model of a still before scaling (b = 1), which holds the grid."""
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
        """A model with the given components at their null values.

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
    def of_sweep(cls, models: list[DiffuseScalingModel], edges: np.ndarray) -> DiffuseScalingModel:
        """The model of a sweep, from those of its parts.

        Its components are means over the parts; configdict["sweep"] holds b of each part as a fraction of the mean, and
        the parameters of c.

        Args:
            models: (P,) of the parts, with the same components
            edges: (P + 1,) array indices between which the parts lie
        """
        model = cls.from_dict(models[0].to_dict())
        scales = np.array([m.components["scale"].parameters[0] for m in models])
        mean = float(scales.mean())
        model.components["scale"].set_values([mean])
        stored = {"edges": np.asarray(edges).tolist(), "scale": (scales / mean).tolist()}
        if "offset" in model.components:
            offsets = np.array([m.components["offset"].values() for m in models])
            model.components["offset"].set_values(offsets.mean(axis=0))
            stored["offset"] = offsets.tolist()
        model._configdict["sweep"] = stored
        return model

    def at(self, z: float) -> tuple[float, np.ndarray | None]:
        """b, and the parameters of c (n,) or None without c, at array index z of a sweep; of a still at any z."""
        b, offset = self.components["scale"].values()[0], self.components.get("offset")
        if "sweep" not in self.configdict:
            return float(b), None if offset is None else offset.values()
        stored = self.configdict["sweep"]
        part = int(
            np.clip(np.searchsorted(stored["edges"], z, "right") - 1, 0, len(stored["scale"]) - 1)
        )
        parameters = np.array(stored["offset"][part]) if "offset" in stored else None
        return float(b * stored["scale"][part]), parameters

    @classmethod
    def from_data(cls, params, experiment, reflection_table) -> DiffuseScalingModel:
        raise ValueError(NOT_FOR_BRAGG)

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

    def set_series(self, series: ScaleSeries, p_order: float) -> None:
        """Store the smooth function that b comes from, and the p_order of this still."""
        self._configdict["series"] = {
            "parameters": series.values().tolist(),
            "range": [float(series.p_order.min()), float(series.p_order.max())],
            "p_order": float(p_order),
        }

    def keep_series(self, name: str, stored: dict, p_order: float) -> None:
        """Store the function of p_order that "offset" or "sensitivity" of this still comes from.

        Args:
            name: of the component
            stored: to_dict() of OffsetSeries or SensitivitySeries; of the latter without
                parameters in all stills but the first
            p_order: of this still
        """
        self._configdict[f"{name}_series"] = {**stored, "p_order": float(p_order)}

    def offset_series(self, p_order: np.ndarray) -> OffsetSeries | None:
        """The stored c(|q|, p_order) for stills at p_order (S,) within its range; None without one."""
        stored = self.configdict.get("offset_series")
        return None if stored is None else OffsetSeries.from_dict(stored, p_order)

    def sensitivity_series(self, p_order: np.ndarray) -> SensitivitySeries | None:
        """The stored a(x, y, p_order) for stills at p_order (S,) within its range.

        None without one; only the first still of a series holds its parameters.
        """
        stored = self.configdict.get("sensitivity_series", {})
        if "parameters" not in stored:
            return None
        return SensitivitySeries.from_dict(stored, p_order)

    def set_scaling_model_as_scaled(self) -> None:
        super().set_scaling_model_as_scaled()
        self._configdict["is_scaled"] = True

    def configure_components(self, reflection_table, experiment, params) -> None:
        """Prepare dials.scale on Bragg reflections, which can use a lone scale only.

        Raises:
            ValueError: there are other components.
        """
        if set(self.components) != {"scale"}:
            raise ValueError(NOT_FOR_BRAGG)
        self.components["scale"].data = {"id": reflection_table["id"]}

    def plot_model_components(self, reflection_table=None) -> dict:
        """Plots of the components but a single b for dials.report, as plotly JSON."""
        plots = {}
        if "sweep" in self.configdict:
            plots["diffuse_sweep"] = self._plot_sweep()
        if "series" in self.configdict:
            plots["diffuse_series"] = self._plot_scale_series()
        if "offset" in self.components:
            plots["diffuse_offset"] = self._plot_offset()
        if "offset_series" in self.configdict:
            plots["diffuse_offset_series"] = self._plot_offset_series()
        if "panel" in self.components:
            plots["diffuse_panel"] = self._plot_panel()
        if "sensitivity" in self.components:
            plots["diffuse_sensitivity"] = self._plot_sensitivity()
        return plots

    def _plot_scale_series(self) -> dict:
        stored = self.configdict["series"]
        low, high = stored["range"]
        x = np.linspace(low, high, 200)
        series = ScaleSeries(flex.double(stored["parameters"]), x)
        # the still's b may be on the absolute scale by now
        at_still = ScaleSeries(series.parameters, np.array([low, high, stored["p_order"]]))
        b = self.components["scale"].values()[0]
        factor = b / (at_still.table_weights() @ at_still.values())[2]
        y = factor * (series.table_weights() @ series.values())
        return _plot(
            {"type": "scatter", "x": x.tolist(), "y": y.tolist()},
            "Scale b of the series",
            ("p_order", "b"),
            "The smooth function of p_order that gives the scales of all stills of the series.",
        )

    def _plot_sweep(self) -> dict:
        stored = self.configdict["sweep"]
        edges = np.array(stored["edges"])
        b = self.components["scale"].values()[0] * np.array(stored["scale"])
        return _plot(
            {"type": "scatter", "x": (0.5 * (edges[1:] + edges[:-1])).tolist(), "y": b.tolist()},
            "Scale b over the sweep",
            ("image number", "b"),
            "The scale of each part of the sweep.",
        )

    def _plot_offset(self) -> dict:
        offset = self.components["offset"]
        table = offset.table_weights() @ offset.values()
        return _plot(
            {"type": "scatter", "x": offset.bin_centres().tolist(), "y": table.tolist()},
            "Offset c of the diffuse model",
            ("|q| (1/Angstrom)", "photons/(s sr)"),
            "Scattering of this still in addition to b times the merged intensity.",
        )

    def _plot_offset_series(self) -> dict:
        stored = self.configdict["offset_series"]
        low, high = stored["range"]
        p_order = np.linspace(low, high, 60)
        series = OffsetSeries.from_dict(stored, p_order)
        lift = np.array(stored.get("lift", 0.0))
        table = (series.by_still() - lift) @ series.table_weights().T
        return _plot(
            {
                "type": "heatmap",
                "x": series.radial.bin_centres()[::4].tolist(),
                "y": p_order.tolist(),
                "z": table[:, ::4].tolist(),
                "colorscale": "Viridis",
            },
            "Offset c over p_order",
            ("|q| (1/Angstrom)", "p_order"),
            "Scattering of a still with b = 1 at this p_order in addition to the merged intensity, in "
            "photons/(s sr).",
        )

    def _plot_panel(self) -> dict:
        values = self.components["panel"].values().tolist()
        return _plot(
            {"type": "scatter", "mode": "markers", "x": list(range(len(values))), "y": values},
            "Panel factors d of the diffuse model",
            ("panel", "d"),
            "Relative sensitivity of the panels, the same for all stills.",
        )

    def _plot_sensitivity(self) -> dict:
        sensitivity = self.components["sensitivity"]
        table = (sensitivity.table_weights() @ sensitivity.values()).reshape(N_AZIMUTHAL, -1)
        x, y = sensitivity.bin_centres()
        stored = self.configdict.get("sensitivity_series")
        stills = "the same for all stills"
        if stored is not None:
            stills = f"for this still, p_order {stored['p_order']:.6g}"
        return _plot(
            {
                "type": "heatmap",
                "x": x[:N_AZIMUTHAL].tolist(),
                "y": y[::N_AZIMUTHAL].tolist(),
                "z": table.tolist(),
                "colorscale": "Viridis",
            },
            "Sensitivity a of the diffuse model",
            ("x", "y"),
            "A smooth factor over the direction of s1 around the beam (2 sin(theta) from the centre), "
            f"{stills}.",
        )

    def consecutive_refinement_order(self) -> list[list[str]]:
        return [["scale"], ["offset", "panel", "sensitivity"]]


def _plot(data: dict, title: str, axes: tuple[str, str], text: str) -> dict:
    x, y = axes
    return {
        "data": [data],
        "layout": {
            "title": {"text": title},
            "xaxis": {"title": {"text": x}},
            "yaxis": {"title": {"text": y}},
        },
        "help": text,
    }
