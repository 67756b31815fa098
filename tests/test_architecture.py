"""Which package may import which: the floor plan of the library.

Every import counts, also those inside functions. A name of the table is a package of
dials_diffuse, or a wing of one ("masking/spots"). A file belongs to the longest name that it lies
under; what it imports must be its own package, or one that its row names. Every module has a test
of its own.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up: a row may name only rows above it, so no arrow can run up.
MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "adapters": {"model"},
    "grid": {"model", "adapters"},
    "io": {"model", "adapters", "grid"},
    "report": {"adapters", "grid", "io"},
    "geometry": {"adapters", "grid", "io"},
    "masking/spots": {"adapters", "grid", "io"},
    "masking/pixels": {"adapters", "io", "masking/spots"},
    "masking/bright": {"adapters", "grid", "io", "masking/spots"},
    "masking": {
        "adapters",
        "grid",
        "io",
        "report",
        "geometry",
        "masking/spots",
        "masking/pixels",
        "masking/bright",
    },
    "extraction": {"adapters", "grid", "io", "report", "geometry", "masking", "masking/spots"},
    "gridding": {"adapters", "grid", "io", "report", "extraction"},
    "scaling/observations": {"model", "adapters", "grid", "io"},
    "scaling/expectation": {"model", "adapters", "grid", "scaling/observations"},
    "scaling/refinement": {
        "model",
        "adapters",
        "grid",
        "io",
        "scaling/observations",
        "scaling/expectation",
    },
    "scaling/merging": {"model", "adapters", "grid", "scaling/observations", "scaling/expectation"},
    "scaling": {
        "model",
        "adapters",
        "grid",
        "io",
        "report",
        "extraction",
        "scaling/observations",
        "scaling/expectation",
        "scaling/refinement",
        "scaling/merging",
    },
    "absolute/contents": {"io"},
    "absolute": {"model", "adapters", "grid", "io", "report", "absolute/contents"},
    # The forward model shares no code with the reduction that it tests
    "simulation": {"adapters", "io", "report"},
    "export": {"adapters", "grid", "io", "report"},
    "pipeline": {"adapters", "grid", "io", "report"},
}

# A command knows its step's parameters and workflow.
BESIDE_THE_LIBRARY = {"phil": {"adapters"}, "command_line": {"phil", *MAY_IMPORT}}

# pipeline/ runs the commands themselves, with their parameters
KNOWS_THE_PARAMETERS = {"pipeline"}

# What DIALS loads with every .expt file must stay light.
OTHERS_OF_MODEL = {"dials", "dials_scaling_ext", "dxtbx", "cctbx", "iotbx", "scitbx", "numpy"}


def rooms() -> dict[str, set[str]]:
    return {**MAY_IMPORT, **BESIDE_THE_LIBRARY}


def room_of(path: str) -> str | None:
    """The row of the table that a path below the package belongs to: the longest that fits."""
    fitting = [name for name in rooms() if path == name or path.startswith(f"{name}/")]
    return max(fitting, key=len, default=None)


def imported_names(source: str) -> set[str]:
    """Dotted names of everything that a module imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def forbidden_imports(path: str, source: str) -> list[str]:
    """Imports of a module that the table does not allow.

    Args:
        path: of the module below the package, such as "grid/symmetry.py"
        source: its text
    """
    home = room_of(path)
    allowed = {home, *rooms()[home]}
    if home in KNOWS_THE_PARAMETERS:
        allowed.add("phil")
    wrong = []
    for name in sorted(imported_names(source)):
        top, *rest = name.split(".")
        if top == "dials_diffuse":
            room = room_of("/".join(rest))
            if room is not None and room not in allowed:
                wrong.append(name)
    return wrong


def sources() -> list[tuple[str, Path]]:
    """Every module of the library, of phil/ and of command_line/: (path below the package, file)."""
    found = []
    for folder, below in (
        ("dials_diffuse", ""),
        ("phil", "phil/"),
        ("command_line", "command_line/"),
    ):
        for path in sorted(ROOT.joinpath(folder).rglob("*.py")):
            found.append((below + path.relative_to(ROOT / folder).as_posix(), path))
    return found


SOURCES = [(below, path) for below, path in sources() if below != "__init__.py"]


@pytest.mark.parametrize("below, path", SOURCES, ids=[below for below, _ in SOURCES])
def test_imports_run_down(below, path):
    assert not forbidden_imports(below, path.read_text(encoding="utf-8"))


def test_every_package_is_in_the_table():
    folders = {below.rpartition("/")[0] for below, _ in SOURCES}
    assert "" not in folders, "no module lies outside of the packages"
    for folder in folders:
        assert room_of(folder) is not None, f"{folder} is not in the table"
    for name in MAY_IMPORT:
        assert ROOT.joinpath("dials_diffuse", name, "__init__.py").is_file()


def test_the_table_has_no_arrow_that_runs_up():
    above: set[str] = set()
    for name, allowed in MAY_IMPORT.items():
        assert allowed <= above, f"{name} may import {allowed - above}, which is not below it"
        above.add(name)


@pytest.mark.parametrize(
    "path, planted",
    [
        ("grid/symmetry.py", "from dials_diffuse.scaling.scale import scale"),
        ("grid/symmetry.py", "def f():\n    import dials_diffuse.report.html"),
        ("io/atomic.py", "from dials_diffuse import masking"),
        ("masking/spots/size.py", "from dials_diffuse.masking.survey import run_survey"),
        ("simulation/forward.py", "from dials_diffuse.geometry.panel import PanelGeometry"),
        ("scaling/merging/merge.py", "from dials_diffuse.scaling.refinement.selection import fit"),
        ("absolute/workflow.py", "from dials_diffuse.phil.absolute import phil_scope"),
    ],
)
def test_a_planted_import_is_found(path, planted):
    source = ROOT.joinpath("dials_diffuse", path).read_text(encoding="utf-8")
    assert not forbidden_imports(path, source)
    assert len(forbidden_imports(path, f"{source}\n{planted}\n")) == 1


@pytest.mark.parametrize("path", sorted(ROOT.joinpath("dials_diffuse", "model").glob("*.py")))
def test_the_model_needs_little(path):
    standard = set(__import__("sys").stdlib_module_names)
    tops = {name.split(".")[0] for name in imported_names(path.read_text(encoding="utf-8"))}
    assert tops <= standard | OTHERS_OF_MODEL | {"dials_diffuse"}


def test_no_folder_is_too_big():
    counts: dict[str, int] = {}
    for below, _ in SOURCES:
        folder = below.rpartition("/")[0]
        counts[folder] = counts.get(folder, 0) + 1
    assert max(counts.values()) <= 14, counts


# Plain dataclasses, which tests/test_settings.py and the tests of their steps use
NEED_NO_TEST = {"__init__.py", "result.py", "settings.py"}


def test_every_module_has_its_test():
    """dials_diffuse/a/b.py is tested by tests/a/test_b.py."""
    library, tests = ROOT / "dials_diffuse", ROOT / "tests"
    missing = []
    for path in sorted(library.rglob("*.py")):
        below = path.relative_to(library)
        if path.name in NEED_NO_TEST:
            continue
        if not (tests / below).with_name(f"test_{path.name}").is_file():
            missing.append(below.as_posix())
    assert not missing
