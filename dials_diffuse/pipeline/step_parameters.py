"""Parameters of the steps, in the form that their commands take."""

from __future__ import annotations

from pathlib import Path

from iotbx.phil import parse

from dials_diffuse.io.paths import names_a_file
from dials_diffuse.phil.process import STEP_SCOPES, phil_scope

STEPS = ("index", *STEP_SCOPES)
Files = tuple[str, str]  # .expt, .refl

STEP_FILES: dict[str, Files] = {
    "index": ("integrated.expt", "integrated.refl"),
    "mask": ("diffuse_masked.expt", "diffuse_masked.refl"),
    "extract": ("diffuse_extracted.expt", "diffuse_extracted.refl"),
    "grid": ("diffuse_gridded.expt", "diffuse_gridded.refl"),
    "scale": ("diffuse_scaled.expt", "diffuse_scaled.refl"),
    "absolute": ("diffuse_absolute.expt", "diffuse_absolute.refl"),
}
COMPOSITION = ("model", "sequence", "formula")


def parameters(*assignments: str):
    """Parameters of the pipeline for its Python interface.

    Args:
        assignments: such as "mp.nproc=2" or "extract.d_min=2", or PHIL text

    Raises:
        ValueError: an unknown parameter, or a bad value.
    """
    interpreter = phil_scope.command_line_argument_interpreter()
    try:
        sources = [
            parse(text) if "{" in text or "\n" in text else interpreter.process(text)
            for text in assignments
        ]
        working, unused = phil_scope.fetch(sources=sources, track_unused_definitions=True)
        params = working.extract()
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        # libtbx turns what it can't parse into Sorry, which is a plain Exception
        raise ValueError(str(error).strip()) from error
    if unused:
        raise ValueError(f"Unknown parameter: {unused[0].path}")
    return params


def with_short_forms(params):
    """The parameters with the general ones handed on to the steps that they are for.

    Raises:
        ValueError: one is given in both places, differently.
    """
    pairs = [
        (params, params.extract, "extract", ("background", "subdivide", "d_min", "d_max")),
        (
            params.composition,
            params.absolute.composition,
            "absolute.composition",
            (*COMPOSITION, "copies", "solvent_content"),
        ),
    ]
    defaults = phil_scope.extract()
    default_of = {
        "extract": defaults.extract,
        "absolute.composition": defaults.absolute.composition,
    }
    for general, special, path, names in pairs:
        for name in names:
            value = getattr(general, name)
            if value is None:
                continue
            there = getattr(special, name)
            if there not in (getattr(default_of[path], name), value):
                raise ValueError(
                    f"{name}={value} contradicts {path}.{name}={there}: give one of them"
                )
            setattr(special, name, value)
    return params


def has_composition(params) -> bool:
    """The contents of the unit cell are given"""
    return any(getattr(params.absolute.composition, name) is not None for name in COMPOSITION)


def _working(step: str, params, folder: Path):
    """Master scope of the step's command, and the same with the values of the pipeline's parameters."""
    master = STEP_SCOPES[step]
    values = master.extract()
    for name, value in vars(getattr(params, step)).items():
        if not name.startswith("__"):
            setattr(values, name, value)
    working = master.format(values)
    path = getattr(params.step_phil, step)
    if path is not None:
        if not Path(folder, path).is_file():
            raise ValueError(f"step_phil.{step}: no such file: {path}")
        try:
            from_file = parse(file_name=str(Path(folder, path)))
            working, unused = master.fetch(
                sources=[from_file, master.fetch_diff(working)], track_unused_definitions=True
            )
        except RuntimeError as error:
            raise ValueError(f"step_phil.{step}={path}: {error}") from error
        if unused:
            raise ValueError(
                f"step_phil.{step}={path}: dials.diffuse_{step} has no parameter {unused[0].path}"
            )
    return master, working


def step_values(step: str, params, folder: Path):
    """The parameters of a step's command, as an extract of its scope.

    Args:
        step, params, folder: see step_phil
    """
    return _working(step, params, folder)[1].extract()


def step_phil(step: str, params, folder: Path) -> tuple[str, tuple[str, ...]]:
    """The parameters of a step that are not at their defaults.

    Args:
        step: its name
        params: extract of dials_diffuse.phil.process
        folder: what file names in it are relative to

    Returns:
        (PHIL text, names of the files that are values in it)

    Raises:
        ValueError: the step's PHIL file can't be used.
    """
    master, working = _working(step, params, folder)
    difference = master.fetch_diff(working)
    files = []

    def look(scope):
        for item in scope.objects:
            if item.is_scope:
                look(item)
            elif item.type.phil_type in ("path", "str"):
                value = item.extract()
                if isinstance(value, str) and names_a_file(Path(folder, value)):
                    files.append(str(Path(folder, value)))

    look(difference)
    return difference.as_str(), tuple(files)


def index_phil(params, folder: Path) -> str:
    """Parameters of dials.stills_process, as PHIL: those of the file, then cell and space group.

    Raises:
        ValueError: the file is not there.
    """
    text = ""
    path = params.step_phil.index
    if path is not None:
        if not Path(folder, path).is_file():
            raise ValueError(f"step_phil.index: no such file: {path}")
        text = Path(folder, path).read_text() + "\n"
    if params.unit_cell is not None:
        text += f"indexing.known_symmetry.unit_cell = {','.join(map(repr, params.unit_cell.parameters()))}\n"
    if params.space_group is not None:
        text += f'indexing.known_symmetry.space_group = "{params.space_group}"\n'
    return text
