"""The whole chain by its commands, from simulated images to the map, against the truth."""

from __future__ import annotations

import shutil
import subprocess

import commands
import pytest

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.simulation.comparison import compare_with_truth

FORMULA = "C 284 H 432 N 84 O 79 S 7"  # of the simulator's default crystal, 8 copies


def run_command(folder, *arguments):
    result = subprocess.run(
        [shutil.which(arguments[0]) or arguments[0], *arguments[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and not result.stderr, result.stdout[-3000:] + result.stderr
    return result.stdout


def run_in_this_process(folder, *arguments):
    result = commands.run_command(folder, *arguments)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr


def run_chain(folder, *simulate, run=run_in_this_process, mask=()):
    """Six commands, each as a process of its own or, three seconds faster, in this one."""
    run(folder, "dials.diffuse_simulate", "nproc=2", *simulate)
    run(folder, "dials.diffuse_mask", "simulated.expt", "simulated.refl", "nproc=2", *mask)
    run(folder, "dials.diffuse_extract", "diffuse_masked.expt", "diffuse_masked.refl", "nproc=2")
    run(folder, "dials.diffuse_grid", "diffuse_extracted.expt", "diffuse_extracted.refl")
    run(folder, "dials.diffuse_scale", "diffuse_gridded.expt", "diffuse_gridded.refl")
    run(
        folder,
        "dials.diffuse_absolute",
        "diffuse_scaled.expt",
        "diffuse_scaled.refl",
        "diffuse_merged.refl",
        f"composition.formula={FORMULA}",
        "composition.copies=8",
    )


def compare(folder, **kwargs):
    return compare_with_truth(
        folder / "truth.json",
        ExperimentList.from_file(folder / "diffuse_scaled.expt", check_format=False),
        flex.reflection_table.from_file(str(folder / "diffuse_scaled.refl")),
        flex.reflection_table.from_file(str(folder / "diffuse_merged.refl")),
        **kwargs,
    )


def assert_agrees(comparison):
    assert comparison.n_voxels > 5000
    assert comparison.correlation >= 0.98
    assert comparison.anisotropic >= 0.98 * comparison.ceiling_anisotropic
    assert comparison.scales >= 0.999
    assert abs(comparison.bias) < 0.01


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run_chain(folder, run=run_command)
    return folder


@pytest.mark.slow
def test_one_panel(demo):
    assert_agrees(compare(demo))


def test_plain_dials_reads_every_file(demo):
    for stem in ("masked", "extracted", "gridded", "scaled"):
        out = run_command(demo, "dials.show", f"diffuse_{stem}.expt", f"diffuse_{stem}.refl")
        assert "Space group: P 43 21 2" in out
        assert "Reflection list contains" in out or "columns" in out


def test_image_viewer_finds_the_mask(demo):
    """The external lookup mask is set, under a name that exists, on every imageset."""
    experiments = ExperimentList.from_file(demo / "diffuse_masked.expt", check_format=True)
    for experiment in experiments:
        mask = experiment.imageset.external_lookup.mask
        assert mask.filename and (demo / mask.filename).samefile(demo / "pixels.mask")
        assert not mask.data.empty()
        good = experiment.imageset.get_mask(0)
        n_fast, n_slow = experiment.detector[0].get_image_size()
        assert good[0].all() == (n_slow, n_fast)


def test_reports_are_there(demo):
    for step in ("mask", "extract", "grid", "scale", "absolute"):
        assert (demo / f"dials.diffuse_{step}.log").stat().st_size > 500
        assert "Plotly.newPlot" in (demo / f"dials.diffuse_{step}.html").read_text(encoding="utf-8")


def test_absolute_map_is_in_electrons_squared(demo):
    """Against the simulator's own unit: photons/(s sr) of one electron^2."""
    import json

    import numpy as np

    from dials_diffuse.adapters.tables import as_numpy
    from dials_diffuse.simulation.truth import DiffuseTruth

    record = json.loads((demo / "truth.json").read_text())
    truth = DiffuseTruth.from_dict(record["truth"])
    table = flex.reflection_table.from_file(str(demo / "diffuse_absolute.refl"))
    hkl = as_numpy(table["hkl"])
    q = truth.q(hkl)
    np.testing.assert_allclose(as_numpy(table["incoherent"]), truth.compton(q), rtol=0.01, atol=5)
    # The detector ends at 2 A, short of where total scattering gives the scale by itself: what is
    # checked here is that one factor brings map and truth together once Compton is gone
    found, expected = as_numpy(table["intensity"]), truth.intensity(hkl) + truth.isotropic(q)
    good = np.isfinite(found) & (as_numpy(table["n_stills"]) >= 3)
    assert np.corrcoef(found[good], expected[good])[0, 1] > 0.95


@pytest.mark.slow
def test_tilted_panels(tmp_path):
    run_chain(tmp_path, "detector.type=tilted")
    comparison = compare(tmp_path)
    assert_agrees(comparison)
    table = flex.reflection_table.from_file(str(tmp_path / "diffuse_extracted.refl"))
    assert set(table["panel"]) == {0, 1, 2, 3}


@pytest.mark.slow
def test_two_lattices_on_an_image(tmp_path):
    """Masked on both: nothing crashes, Bragg spots of neither lattice get into the map."""
    size = "detector.image_size=200,200", "detector.pixel_size=0.6"
    run_chain(tmp_path, "stills=8", "crystal.lattices=2", *size, mask=("multi_lattice=keep",))
    table = flex.reflection_table.from_file(str(tmp_path / "diffuse_merged.refl"))
    assert table.size() > 1000
