"""From the files of dials.diffuse_scale to the absolute scale: what the command does, without
its command line and its outputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cctbx import crystal

from dials.util import tabulate

from dials_diffuse.absolute import report
from dials_diffuse.absolute.apply import AbsoluteScale
from dials_diffuse.absolute.composition import (
    UnitCellInventory,
    inventory_from_formula,
    inventory_from_model,
    inventory_from_sequence,
)
from dials_diffuse.absolute.form_factors import AtomicTables
from dials_diffuse.absolute.integrated import (
    Comparison,
    ExposureTimes,
    compare_with_grid,
    merge_integrated,
)
from dials_diffuse.absolute.profile import ProfileAccumulator, RadialProfile
from dials_diffuse.absolute.total_scattering import Estimate, Settings, TotalScattering, find_scale
from dials_diffuse.absolute.wilson import NodeIntegrator, WilsonPlot, wilson_scale
from dials_diffuse.adapters.experiments import load_experiments, load_reflections
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills import check_given_once, stills_of
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.voxel_grid import VoxelGrid, grid_of
from dials_diffuse.io.maps.merged_map import check_grid, is_merged
from dials_diffuse.io.model_copy import models_to_json, restore_models
from dials_diffuse.io.paths import names_a_file
from dials_diffuse.report.citations import ABSOLUTE_SCALE
from dials_diffuse.report.html import plots_of

logger = logging.getLogger("dials.diffuse.absolute.workflow")

ROWS_AT_A_TIME = 2_000_000


@dataclass
class Inputs:
    """The files of dials.diffuse_scale, told apart.

    Attributes:
        pairs: experiments and scaled observations, not read yet
        merged: the merged table
    """

    pairs: list[DataPair]
    merged: object


def sort_inputs(experiments: list[Path], tables: list[Path]) -> Inputs:
    """Tell scaled observations from the merged table, by their columns.

    Raises:
        ValueError: not as many tables of observations as .expt files, or no merged table.
    """
    merged, observations = None, []
    # the merged table is usually the last; once it is found the others need not be read
    for path in reversed(tables):
        if merged is None:
            table = load_reflections(path)
            if is_merged(table):
                merged = table
                continue
        observations.insert(0, path)
    if merged is None:
        raise ValueError(
            "None of the .refl files is a merged map: give diffuse_merged.refl of dials.diffuse_scale too"
        )
    if merged.size() == 0:
        raise ValueError("The merged map is empty")
    if "incoherent" in merged:
        raise ValueError(
            "The merged map is on the absolute scale already: give diffuse_merged.refl of dials.diffuse_scale"
        )
    if len(observations) != len(experiments):
        raise ValueError(
            f"There are {len(experiments)} .expt files and {len(observations)} .refl files of scaled observations: "
            "give diffuse_scaled.expt, diffuse_scaled.refl and diffuse_merged.refl"
        )
    return Inputs([DataPair(e, r) for e, r in zip(experiments, observations)], merged)


@dataclass
class DataSummary:
    """What is needed of the data before they are read in full.

    Attributes:
        grid: that of the experiments
        wavelength: mean, Angstrom
        experiments: of all pairs, with their scaling models
        profile: of total scattering
    """

    grid: VoxelGrid
    wavelength: float
    experiments: object
    profile: RadialProfile


def read_data(
    inputs: Inputs, model_copies: list[Path], shell_width: float, accumulators=()
) -> DataSummary:
    """Read all pairs, one at a time, and collect the profile.

    Args:
        model_copies: JSON files with scaling models, for experiments that lost theirs
        shell_width: of the profile, 1/Angstrom
        accumulators: what else wants to see each pair: objects with start(grid) and add(stills, table)

    Raises:
        ValueError: scaling models missing, different grids, columns missing, a still in two pairs.
    """
    from dxtbx.model.experiment_list import ExperimentList

    everything = ExperimentList()
    profile = grid = None
    wavelengths, seen = [], {}
    for pair in inputs.pairs:
        experiments, table = pair.load(check_format=False)
        check_given_once(experiments, pair.experiments, seen)
        for path in model_copies:
            restore_models(experiments, path)
        own = grid_of(experiments)
        if grid is None:
            grid = own
            q_max = 1 / grid.d_min if grid.d_min else 1.2
            profile = ProfileAccumulator(shell_width, q_max + 0.02)
            for accumulator in accumulators:
                accumulator.start(grid)
        elif own.to_dict() != grid.to_dict():
            raise ValueError(
                "The experiments carry different grids: extract and grid them together"
            )
        stills = stills_of(experiments)
        # a part of the rows at a time: temporaries stay small whatever the size of a batch
        for start in range(0, table.size(), ROWS_AT_A_TIME):
            part = table[start : start + ROWS_AT_A_TIME]
            profile.add(stills, part)
            for accumulator in accumulators:
                accumulator.add(stills, part)
        profile.count(len(stills))
        wavelengths += [still.beam.get_wavelength() for still in stills]
        everything.extend(experiments)
    check_grid(inputs.merged, grid)
    return DataSummary(grid, float(np.mean(wavelengths)), everything, profile.profile(grid.d_min))


def symmetry_of(pair: DataPair, model_copies: list[Path]) -> crystal.symmetry:
    """Reference cell of the grid and space group of the first crystal.

    Raises:
        ValueError: no crystal, or no grid.
    """
    experiments = load_experiments(pair.experiments, check_format=False)
    for path in model_copies:
        restore_models(experiments, path)
    first = stills_of(experiments)[0].crystal
    return crystal.symmetry(
        unit_cell=grid_of(experiments).unit_cell,
        space_group=first.get_space_group(),
        assert_is_compatible_unit_cell=False,
    )


def inventory_of(params, symmetry: crystal.symmetry) -> UnitCellInventory:
    """The composition that the parameters describe.

    Raises:
        ValueError: none or several ways of describing it, or a bad one.
    """
    given = [name for name in ("model", "sequence", "formula") if getattr(params, name)]
    if len(given) != 1:
        raise ValueError(
            "The composition of the unit cell is needed: give one of composition.model, composition.sequence "
            f"and composition.formula ({', '.join(given) or 'none'} given)"
        )
    if params.copies is not None and params.copies <= 0:
        raise ValueError("composition.copies must be more than 0")
    operations = symmetry.space_group().order_z()
    copies = operations if params.copies is None else params.copies
    common = {
        "solvent_content": params.solvent_content,
        "density": params.solvent_density,
        "ligands": params.ligands,
    }
    if params.model:
        return inventory_from_model(
            params.model,
            symmetry,
            params.copies,
            add_hydrogens=params.hydrogens == "add",
            cell_tolerance=params.cell_tolerance,
            **common,
        )
    if params.sequence:
        text = params.sequence
        if names_a_file(text):
            text = Path(text).read_text()
        elif Path(text).suffix or not text.isupper():
            # Sequences are in capitals; in small letters it is the name of a file
            raise ValueError(f"No such file: {text} (sequences themselves are in capital letters)")
        return inventory_from_sequence(text, copies, symmetry, **common)
    if common["solvent_content"] is None:
        common["solvent_content"] = 0.0
    return inventory_from_formula(params.formula, copies, symmetry, **common)


def tables_of(params, wavelength: float) -> AtomicTables:
    """The scattering tables that the parameters ask for."""
    return AtomicTables(
        params.form_factor, params.anomalous, wavelength, params.recoil, params.threshold
    )


def settings_of(params) -> Settings:
    """Settings of total scattering from its parameters."""
    return Settings(
        estimate=params.estimate,
        q_min=params.q_min,
        q_max=params.q_max,
        high_q=params.high_q,
        fit_from=params.fit_from,
        pairs=params.pairs == "auto",
        b_relative=params.b_relative,
        background=params.background,
    )


@dataclass
class Result:
    """All that dials.diffuse_absolute found out.

    Attributes:
        data: grid, experiments, profile
        inventory: of the unit cell
        absolute: the scale that is applied, with the incoherent scattering
        total: the estimates from total scattering, None where they could not be made
        wilson, wilson_plot: the estimate from Bragg intensities, likewise
        integrated: integrated reflections against those of the grid, None where not given
        integrated_wilson: Wilson's estimate from them
        warnings: one line each
    """

    data: DataSummary
    inventory: UnitCellInventory
    absolute: AbsoluteScale
    total: TotalScattering | None
    wilson: Estimate | None
    wilson_plot: WilsonPlot | None
    integrated: Comparison | None
    integrated_wilson: Estimate | None
    warnings: list[str]

    @property
    def estimates(self) -> list[Estimate]:
        """All that could be made"""
        found = list(self.total.estimates) if self.total is not None else []
        return found + ([self.wilson] if self.wilson is not None else [])

    def summary_rows(self) -> list[list[str]]:
        """Scale and error, name and value."""
        a = self.absolute
        percent = f" ({100 * a.error / a.scale:.2f} %)" if np.isfinite(a.error) else ""
        return [
            ["quantity", "value"],
            ["absolute scale (e^2 per unit cell / unit of the map)", f"{a.scale:.6g}"],
            ["its standard error", f"{a.error:.2g}{percent}"],
            ["from", a.method],
            ["Z, electrons per unit cell", f"{self.inventory.electrons:.0f}"],
            [
                "range of |q| of the profile (1/A)",
                f"{self.data.profile.edges[0]:.3f}-{self.data.profile.edges[-1]:.3f}",
            ],
        ]

    def integrated_rows(self) -> list[list[str]]:
        """Integrated reflections against the nodes of the grid, name and value."""
        found = self.integrated
        rows = [
            ["quantity", "value"],
            ["nodes in common", f"{found.common}"],
            ["partiality", found.partiality],
            ["correlation of merged I/partiality with the grid", f"{found.correlation:.3f}"],
        ]
        if self.integrated_wilson is not None:
            wilson = self.integrated_wilson
            rows.append(
                ["scale by Wilson's statistics", f"{wilson.scale:.6g} +- {wilson.error:.2g}"]
            )
            rows.append(["B (A^2)", f"{wilson.details['b_factor']:.1f}"])
        return rows

    def log(self) -> None:
        """Tables and warnings into the log."""
        logger.info(
            "Contents of the unit cell, from %s:\n%s",
            self.inventory.source,
            _table(self.inventory.as_rows()),
        )
        logger.info(
            "Matthews coefficient %.2f A^3/Da, solvent content %.2f\n",
            self.inventory.matthews,
            self.inventory.solvent_content,
        )
        if self.estimates:
            logger.info(
                "Estimates of the absolute scale:\n%s\n",
                _table(report.estimate_rows(self.estimates, self.absolute.method)),
            )
            logger.info(
                "Dependence on the range of |q|:\n%s\n", _table(report.scan_rows(self.estimates))
            )
        if self.total is not None:
            logger.info(
                "B factor of bonded atoms' relative motion: %.1f A^2", self.total.b_relative
            )
        if self.wilson is not None:
            logger.info(
                "Wilson plot: B = %.1f A^2 from %d nodes\n",
                self.wilson.details["b_factor"],
                self.wilson.details["nodes"],
            )
        if self.integrated is not None:
            logger.info("Integrated reflections:\n%s\n", _table(self.integrated_rows()))
        for warning in self.warnings:
            logger.warning("Warning: %s", warning)
        logger.info("%s\n", _table(self.summary_rows()))
        logger.info(
            "The absolute scale rests on these, please cite them:\n%s\n",
            "\n".join(f"  {line}" for line in ABSOLUTE_SCALE),
        )

    def report(self, table) -> list:
        """Sections of the HTML report.

        Args:
            table: the absolute map
        """
        intensity = as_numpy(table["intensity"])
        sigma = np.sqrt(as_numpy(table["variance"]))
        negative = int((intensity < 0).sum())
        beyond = int((intensity < -3 * sigma).sum())
        rows = self.summary_rows() + [
            ["voxels of the map", f"{len(intensity)}"],
            ["negative voxels", f"{negative}"],
            ["below -3 sigma", f"{beyond}"],
        ]
        logger.info(
            "Of %d voxels %d are negative, %d of them by more than 3 sigma",
            len(intensity),
            negative,
            beyond,
        )
        return report.report_sections(
            self.inventory,
            self.data.profile,
            self.total,
            self.estimates,
            self.wilson_plot,
            self.absolute,
            rows,
            self.warnings,
        )

    def to_dict(self, sections) -> dict:
        """What the JSON file holds: numbers, plots, and a copy of the models."""
        return {
            "scale": self.absolute.scale,
            "error": self.absolute.to_dict()["error"],
            "method": self.absolute.method,
            "inventory": self.inventory.to_dict(),
            "estimates": {
                e.name: {
                    "scale": e.scale,
                    "error": e.error,
                    "q_range": list(e.q_range),
                    "scan": [list(row) for row in e.scan],
                    "error_parts": e.parts,
                    "details": e.details,
                }
                for e in self.estimates
            },
            "integrated": None
            if self.integrated is None
            else {
                "common": self.integrated.common,
                "correlation": self.integrated.correlation,
                "partiality": self.integrated.partiality,
                "scale": None if self.integrated_wilson is None else self.integrated_wilson.scale,
            },
            "warnings": self.warnings,
            "profile": {
                "q": self.data.profile.q.tolist(),
                "total": self.data.profile.total.tolist(),
                "diffuse": self.data.profile.diffuse.tolist(),
                "variance": self.data.profile.variance.tolist(),
            },
            "plots": plots_of(sections),
            "models": models_to_json(self.data.experiments),
        }


def _table(rows: list[list]) -> str:
    return tabulate(rows, headers="firstrow")


def run(inputs: Inputs, model_copies: list[Path], params) -> Result:
    """Find the absolute scale.

    Args:
        inputs: of `sort_inputs`
        model_copies: JSON files with scaling models
        params: of dials_diffuse.phil.absolute

    Raises:
        ValueError: bad composition, missing models or columns, data that do not reach far enough.
    """
    if not inputs.pairs:
        raise ValueError(
            "Give diffuse_scaled.expt and diffuse_scaled.refl of dials.diffuse_scale too"
        )
    # a wrong composition or name shows before the data are read
    symmetry = symmetry_of(inputs.pairs[0], model_copies)
    inventory = inventory_of(params.composition, symmetry)
    reflections = load_reflections(params.wilson.reflections) if params.wilson.reflections else None
    integrator, times = NodeIntegrator(), ExposureTimes()
    accumulators = [integrator] if reflections is None else [integrator, times]
    data = read_data(inputs, model_copies, params.total_scattering.shell_width, accumulators)
    tables = tables_of(params.tables, data.wavelength)
    warnings = list(inventory.warnings)
    by_hand = params.scale is not None
    total = wilson = plot = None
    try:
        total = find_scale(data.profile, inventory, tables, settings_of(params.total_scattering))
        warnings += total.warnings
    except ValueError as error:
        if params.method == "total_scattering" and not by_hand:
            raise
        warnings.append(str(error))
    try:
        wilson, plot = wilson_scale(
            integrator.nodes(), inventory, tables, params.wilson.q_min, params.wilson.q_max
        )
    except ValueError as error:
        if params.method == "wilson" and not by_hand:
            raise
        warnings.append(str(error))
    integrated = integrated_wilson = None
    if reflections is not None:
        try:
            integrated = _integrated(reflections, params.wilson, data, integrator, times, warnings)
            integrated_wilson, _ = wilson_scale(
                integrated.nodes, inventory, tables, params.wilson.q_min, params.wilson.q_max
            )
        except ValueError as error:
            warnings.append(f"Integrated reflections: {error}")
    if by_hand:
        scale, error, method = params.scale, float("nan"), "by hand"
    elif params.method == "wilson":
        scale, error, method = wilson.scale, wilson.error, "wilson"
    else:
        scale, error, method = total.scale, total.error, total.chosen
    if total is not None and wilson is not None:
        difference = abs(wilson.scale - total.scale)
        if difference > 2 * np.hypot(wilson.error, total.error):
            warnings.append(
                f"wilson gives {wilson.scale:.5g} and total scattering {total.scale:.5g}: they disagree by "
                f"{100 * difference / total.scale:.0f} %, beyond their errors"
            )
    voxels = as_numpy(inputs.merged["voxel"])
    reach = float(np.linalg.norm(data.grid.q_of_voxel(voxels), axis=1).max())
    absolute = AbsoluteScale.of(
        scale, error, method, inventory, tables, max(reach, data.profile.edges[-1])
    )
    return Result(
        data, inventory, absolute, total, wilson, plot, integrated, integrated_wilson, warnings
    )


def _integrated(reflections, params, data, integrator, times, warnings) -> Comparison:
    """Integrated reflections against the grid.

    Raises:
        ValueError: they are of other stills, or there is too little to compare.
    """
    nodes, what = merge_integrated(
        reflections,
        str(params.reflections),
        data.experiments,
        data.grid,
        times.relative(data.experiments),
        params.min_partiality,
    )
    found = compare_with_grid(nodes, integrator.nodes(), what, params.q_min)
    if what != "used":
        warnings.append(
            f"Partiality of the integrated reflections is {what}: their fall with resolution is that of the "
            "fraction recorded as much as of |F|^2, so no scale should be had from them"
        )
    return found


def write_volume(path, table, grid: VoxelGrid) -> None:
    """The absolute map as an HDF5 volume."""
    from dials_diffuse.io.maps.map_file import write_map

    names = (
        "intensity",
        "variance",
        "half_1",
        "half_2",
        "n_obs",
        "n_stills",
        "exposure",
        "incoherent",
    )
    write_map(
        path,
        as_numpy(table["voxel"]),
        {name: as_numpy(table[name]) for name in names if name in table},
        grid,
        "Diffuse scattering on the absolute scale",
        "electrons^2 per unit cell",
    )
