"""The package as DIALS, pip and libtbx see it, each in an interpreter of its own."""

from __future__ import annotations

import ast
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from dxtbx.model import Crystal, Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMANDS = sorted(ROOT.joinpath("command_line").glob("diffuse_*.py"))
STEMS = [path.stem for path in COMMANDS]


def run_python(code, cwd, python=sys.executable):
    """Run code in a new interpreter; what it prints, without the line end."""
    result = subprocess.run([python, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert not result.returncode, result.stderr
    return result.stdout.strip()


@pytest.fixture
def experiments_with_model():
    # imported here: the model must not be the first that this process imports of DIALS
    from dials_diffuse.model.scaling_model import DiffuseScalingModel

    crystal = Crystal((50, 0, 0), (0, 60, 0), (0, 0, 70), space_group_symbol="P 2 2 2")
    model = DiffuseScalingModel.unscaled({"subdivide": [3, 3, 3], "d_min": 2.0})
    return ExperimentList([Experiment(crystal=crystal, scaling_model=model, identifier="still")])


def test_scaling_model_is_registered_under_its_own_name():
    (entry,) = importlib.metadata.entry_points(group="dxtbx.scaling_model_ext", name="diffuse")
    assert entry.load().id_ == entry.name


@pytest.mark.parametrize(
    "first",
    [
        "import dials_diffuse.model.scaling_model",
        "import dials.algorithms.scaling.model.model",
        "from dxtbx.model.experiment_list import ExperimentListFactory as factory; "
        "factory.from_json_file({expt!r}, check_format=False)",
    ],
    ids=["plugin", "dials", "expt"],
)
def test_import_order(first, experiments_with_model, tmp_path):
    expt = tmp_path / "one.expt"
    experiments_with_model.as_file(expt)
    code = f"""
{first.format(expt=str(expt))}
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials.algorithms.scaling.model import model
from dials.command_line.scale import phil_scope
choices = phil_scope.get("model").objects[0]
print(DiffuseScalingModel.id_, "diffuse" in str(choices.as_str()))
"""
    assert run_python(code, tmp_path) == "diffuse True"


def test_expt_keeps_the_model(experiments_with_model, tmp_path):
    path = tmp_path / "one.expt"
    again = tmp_path / "again.expt"
    experiments_with_model.as_file(path)
    ExperimentListFactory.from_json_file(path, check_format=False).as_file(again)
    for name in (path, again):
        (experiment,) = ExperimentListFactory.from_json_file(name, check_format=False)
        model = experiment.scaling_model
        assert model.id_ == "diffuse"
        assert model.configdict["grid"] == {"subdivide": [3, 3, 3], "d_min": 2.0}
        assert list(model.components["scale"].parameters) == [1.0]


def test_expt_loads_without_the_plugin(experiments_with_model, tmp_path):
    # the interpreter that .venv was made from has the same DIALS, but not the plugin
    base = sys._base_executable
    if base == sys.executable:
        pytest.skip("not in a virtual environment: no Python without the plugin")
    path = tmp_path / "one.expt"
    again = tmp_path / "again.expt"
    experiments_with_model.as_file(path)
    code = f"""
import importlib.util
from dxtbx.model.experiment_list import ExperimentListFactory

assert importlib.util.find_spec("dials_diffuse") is None
experiments = ExperimentListFactory.from_json_file({str(path)!r}, check_format=False)
print(experiments[0].identifier, experiments[0].scaling_model)
experiments.as_file({str(again)!r})
"""
    assert run_python(code, tmp_path, python=base) == "still None"
    # and what such a Python saves has lost the model: hence the copy in output.json
    (experiment,) = ExperimentListFactory.from_json_file(again, check_format=False)
    assert experiment.scaling_model is None


def test_there_are_commands():
    assert {f"diffuse_{step}" for step in ("mask", "extract", "grid", "scale", "absolute")} <= set(
        STEMS
    )


@pytest.mark.parametrize("path", COMMANDS, ids=STEMS)
def test_dispatcher_comment(path):
    text = path.read_text()
    name = f"dials.{path.stem}"
    line = f"# LIBTBX_SET_DISPATCHER_NAME {name}\n"
    # libtbx reads 1000 characters
    assert text.startswith(line) and len(line) < 1000
    assert text.count("LIBTBX_SET_DISPATCHER_NAME") == 1
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
    assert entry.value == f"dials_diffuse.command_line.{path.stem}:run"
    functions = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert "run" in functions


def test_command_line_holds_nothing_but_commands():
    # libtbx makes a dispatcher of every file there
    names = {path.name for path in ROOT.joinpath("command_line").glob("*.py")}
    assert names == {"__init__.py", *(path.name for path in COMMANDS)}


def test_libtbx_config():
    config = eval(ROOT.joinpath("libtbx_config").read_text(), {}, {})
    known = {
        "modules_required_for_build",
        "modules_required_for_use",
        "optional_modules",
        "optional_modules_only_if_explicit_request",
        "exclude_from_binary_bundle",
        "extra_command_line_locations",
    }
    assert set(config) <= known
    assert all(isinstance(name, str) for names in config.values() for name in names)


def test_libtbx_refresh_and_setup_register_the_same_model():
    pattern = re.compile(r'"(diffuse = [\w.]+:\w+)"')
    refresh = pattern.findall(ROOT.joinpath("libtbx_refresh.py").read_text())
    assert refresh == pattern.findall(ROOT.joinpath("setup.py").read_text())
    assert len(refresh) == 1


def test_root_is_no_package():
    # libtbx would take the checkout itself for the package
    assert not ROOT.joinpath("__init__.py").exists()
    assert not ROOT.joinpath("dials_diffuse", "command_line").exists()
    assert not ROOT.joinpath("dials_diffuse", "phil").exists()


@pytest.mark.parametrize("where", ["root", "elsewhere"])
def test_commands_and_phil_are_subpackages(where, tmp_path):
    modules = [f"dials_diffuse.command_line.{stem}" for stem in STEMS]
    modules += [
        f"dials_diffuse.phil.{path.stem}"
        for path in sorted(ROOT.joinpath("phil").glob("*.py"))
        if path.stem != "__init__"
    ]
    code = f"""
import importlib
for name in {modules}:
    importlib.import_module(name)
print("imported")
"""
    cwd = ROOT if where == "root" else tmp_path
    assert run_python(code, cwd) == "imported"


@pytest.mark.parametrize("stem", STEMS)
def test_help_is_light(stem, tmp_path):
    code = f"""
import sys
import dials.util.options  # what DIALS imports anyway does not count
before = set(sys.modules)
from dials_diffuse.command_line.{stem} import run
try:
    run(["-h"])
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {{"numba", "plotly", "h5py", "xraylib", "distributed", "matplotlib.pyplot"}}
print()
print("heavy:", sorted(heavy & set(sys.modules) - before))
"""
    output = run_python(code, tmp_path)
    assert "usage:" in output.lower()
    assert output.splitlines()[-1] == "heavy: []"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stem", STEMS)
def test_script(stem, tmp_path):
    script = pathlib.Path(sys.executable).parent / f"dials.{stem}"
    result = subprocess.run([script, "-h"], cwd=tmp_path, capture_output=True, text=True)
    assert not result.returncode and not result.stderr
    assert result.stdout


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    """Names in the wheel that pip builds from a copy of the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("dials_diffuse", "command_line", "phil"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "-w", source / "wheel", source]
    result = subprocess.run(command, capture_output=True, text=True)
    assert not result.returncode, result.stderr
    (wheel,) = source.glob("wheel/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_has_every_module_and_template(wheel_files):
    sources = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("dials_diffuse/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    sources += [
        f"dials_diffuse/{path.relative_to(ROOT).as_posix()}"
        for folder in ("command_line", "phil")
        for path in ROOT.joinpath(folder).glob("*.py")
    ]
    assert set(sources) <= set(wheel_files)


def test_wheel_puts_nothing_beside_the_package(wheel_files):
    tops = {name.split("/")[0] for name in wheel_files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dials_diffuse"}


def test_libtbx_module(tmp_path):
    configure = shutil.which("libtbx.configure")
    if configure is None:
        pytest.skip("this DIALS comes without libtbx.configure")
    module = tmp_path / "modules" / "dials_diffuse"
    module.mkdir(parents=True)
    for name in ("libtbx_config", "libtbx_refresh.py"):
        shutil.copy(ROOT / name, module)
    for name in ("dials_diffuse", "command_line", "phil"):
        shutil.copytree(ROOT / name, module / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = tmp_path / "build"
    build.mkdir()
    result = subprocess.run(
        [configure, "-r", "../modules", "dials_diffuse"], cwd=build, capture_output=True, text=True
    )
    assert not result.returncode, result.stderr
    made = {path.name for path in build.glob("bin/dials.*")}
    assert made == {f"dials.{stem}" for stem in STEMS}
    (entries,) = build.glob("lib/*.egg-info/entry_points.txt")
    assert "diffuse = dials_diffuse.model.scaling_model:DiffuseScalingModel" in entries.read_text()
    result = subprocess.run(
        [build / "bin" / "dials.diffuse_simulate", "-h"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert not result.returncode, result.stderr
    assert "usage:" in result.stdout.lower()
