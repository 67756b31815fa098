from __future__ import annotations

import bz2
import os
import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser):
    try:
        parser.addoption(
            "--regression",
            action="store_true",
            default=False,
            help="run the tests on real data too",
        )
    except ValueError:
        pass  # dials_data is installed and its plugin has the option


def pytest_collection_modifyitems(config, items):
    if config.getoption("--regression"):
        return
    skip = pytest.mark.skip(reason="real data: runs with --regression")
    for item in items:
        if "regression" in item.keywords:
            item.add_marker(skip)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.stash[FAILED] = True


@pytest.fixture
def tmp_path(tmp_path, request):
    """pytest's folder of a test, removed when the test has passed: all together take gigabytes."""
    yield tmp_path
    if not request.node.stash.get(FAILED, False):
        shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def run_in_tmp_path(tmp_path, monkeypatch) -> pathlib.Path:
    """Make a new empty folder the working directory of the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def copied_here(tmp_path, monkeypatch):
    """Function that copies a folder of stills, with the paths in its .expt files, and makes it the working directory."""

    def copied(source: pathlib.Path) -> pathlib.Path:
        copy = tmp_path / "copy"
        shutil.copytree(source, copy)
        for path in copy.glob("**/*.expt"):
            path.write_text(path.read_text().replace(str(source), str(copy)))
        monkeypatch.chdir(copy)
        return copy

    return copied


@pytest.fixture(scope="session")
def make_extracted():
    """The function that makes extracted tables with a known truth"""
    # numba and DIALS are imported by the tests that want them, not by all
    import synthetic_observations

    return synthetic_observations.make_extracted


@pytest.fixture(scope="session")
def make_truth():
    """The function that makes gridded tables with known scales"""
    import synthetic_scaling

    return synthetic_scaling.make_truth


@pytest.fixture(scope="session")
def extra_data() -> pathlib.Path:
    """The folder of $DIALS_DIFFUSE_DATA, or shared/ beside the checkout."""
    folder = pathlib.Path(os.environ.get("DIALS_DIFFUSE_DATA", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there (set DIALS_DIFFUSE_DATA)")
    return folder.resolve()


@pytest.fixture(scope="session")
def thaumatin_images(request) -> pathlib.Path:
    """The folder of dials_data's thaumatin_grid_scan: 19 real stills."""
    try:
        import dials_data  # noqa: F401
    except ImportError:
        # not packaged everywhere: the folder will do
        folder = pathlib.Path(os.environ.get("DIALS_DATA", "")) / "thaumatin_grid_scan"
        if not os.environ.get("DIALS_DATA") or not folder.is_dir():
            pytest.skip("no dials_data package and no DIALS_DATA/thaumatin_grid_scan")
        return folder.resolve()
    return request.getfixturevalue("dials_data")("thaumatin_grid_scan").resolve()


@pytest.fixture(scope="session")
def thaumatin_unpacked(thaumatin_images, tmp_path_factory) -> pathlib.Path:
    """A folder with the same images as .cbf: half a second less for each time that one is read."""
    folder = tmp_path_factory.mktemp("thaumatin_images")
    for path in thaumatin_images.glob("*.cbf.bz2"):
        (folder / path.stem).write_bytes(bz2.decompress(path.read_bytes()))
    return folder


@pytest.fixture(scope="session")
def thaumatin(thaumatin_unpacked, extra_data, tmp_path_factory) -> pathlib.Path:
    """A folder with integrated.expt, integrated.refl and background.expt.

    They are 15 indexed and integrated stills of thaumatin_grid_scan and the four empty
    shots at its end; the paths in them point at the images of ``thaumatin_unpacked``.
    """
    source = extra_data / "thaumatin_integrated"
    if not source.is_dir():
        pytest.skip(f"{source} is not there (set DIALS_DIFFUSE_DATA)")
    folder = tmp_path_factory.mktemp("thaumatin")
    shutil.copyfile(source / "integrated.refl", folder / "integrated.refl")
    for name in ("integrated.expt", "background.expt"):
        text = (source / name).read_text()
        stored = "../dials_data/thaumatin_grid_scan"
        assert stored in text
        text = text.replace(stored, str(thaumatin_unpacked)).replace(".cbf.bz2", ".cbf")
        (folder / name).write_text(text)
    return folder
