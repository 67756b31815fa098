"""Real stills through the five commands: 15 of a grid scan over one crystal of thaumatin."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy

# Mature thaumatin I, UniProt P02883
SEQUENCE = """>thaumatin I
ATFEIVNRCSYTVWAAASKGDAALDAGGRQLNSGESWTINVEPGTKGGKIWARTDCYFDDSGSGICKTGDCGGLLRCKRFGRPPTTLAEFSLNQYGKDYI
DISNIKGFNVPMDFSPTTRGCRGVRCAADIVGQCPAKLKAPGGGCNDACTVFQTSEYCCTTGKCGPTEYSRFFKRLCPDAFSYVLDKPTTVTCPGSSNYR
VTFCPTA
"""

pytestmark = [pytest.mark.regression, pytest.mark.slow]


@pytest.fixture(scope="module")
def chain(thaumatin):
    (thaumatin / "thaumatin.fasta").write_text(SEQUENCE)
    for arguments in (
        [
            "mask",
            "integrated.expt",
            "integrated.refl",
            "nproc=2",
            "report.n_images=15",
            "output.json=mask.json",
        ],
        [
            "extract",
            "diffuse_masked.expt",
            "diffuse_masked.refl",
            "background=background.expt",
            "nproc=2",
            "output.json=extract.json",
        ],
        ["grid", "diffuse_extracted.expt", "diffuse_extracted.refl", "output.json=grid.json"],
        ["scale", "diffuse_gridded.expt", "diffuse_gridded.refl", "output.json=scale.json"],
        [
            "absolute",
            "diffuse_scaled.expt",
            "diffuse_scaled.refl",
            "diffuse_merged.refl",
            "composition.sequence=thaumatin.fasta",
            "composition.copies=8",
            "output.json=absolute.json",
        ],
    ):
        command = shutil.which(f"dials.diffuse_{arguments[0]}")
        result = subprocess.run(
            [command, *arguments[1:]], cwd=thaumatin, capture_output=True, text=True
        )
        assert not result.returncode and not result.stderr, result.stdout[-3000:] + result.stderr
    return thaumatin


def scales_of(folder) -> np.ndarray:
    experiments = json.loads((folder / "diffuse_scaled.expt").read_text())["scaling_model"]
    return np.array([model["scale"]["parameters"][0] for model in experiments])


def test_scales_follow_the_crystal(chain):
    """The beam enters the crystal within three stills and leaves it at the end."""
    b = scales_of(chain)
    assert len(b) == 15
    assert np.argmax(b) in (1, 2, 3)
    assert b[-1] < 0.15 * b.max()
    # smooth in between: a still is close to the mean of its neighbours
    inner = b[2:12]
    assert np.abs(inner[1:-1] - 0.5 * (inner[2:] + inner[:-2])).max() < 0.1


def test_scales_rise_and_fall_once(chain):
    """Along the scan b has one maximum, but for a tenth of it."""
    b = scales_of(chain)
    top = np.argmax(b)
    slack = 0.1 * b.max()
    assert (np.diff(b[: top + 1]) > -slack).all()
    assert (np.diff(b[top:]) < slack).all()
    assert b[0] < 0.9 * b.max()


def test_agreement_before_and_after_scaling_is_reported(chain):
    numbers = json.loads((chain / "scale.json").read_text())
    before, after = numbers["statistics_unscaled"]["overall"], numbers["statistics"]["overall"]
    assert after["r_meas"] < before["r_meas"]
    assert after["chi2"] == pytest.approx(1, abs=0.1)
    assert after["chi2"] < 0.95 * before["chi2"]
    # of the inner shell: further out the map of these stills of one orientation is nearly flat
    inner = [
        numbers[name]["shells"][0]["cc_half"] for name in ("statistics", "statistics_unscaled")
    ]
    assert min(inner) > 0.5
    log = (chain / "dials.diffuse_scale.log").read_text()
    assert f"After scaling:  R_meas {after['r_meas']:.4f}, CC1/2 {after['cc_half']:.4f}" in log
    assert f"Before scaling: R_meas {before['r_meas']:.4f}, CC1/2 {before['cc_half']:.4f}" in log


def test_background_is_gone(chain):
    """The last still has most of the counts of the others, and hardly any diffuse intensity."""
    table = flex.reflection_table.from_file(str(chain / "diffuse_extracted.refl"))
    still, diffuse = as_numpy(table["id"]), ~as_numpy(table["bragg"])
    net = as_numpy(table["counts"]) - as_numpy(table["background"])
    exposure = as_numpy(table["exposure"])
    intensity = [
        net[diffuse & (still == i)].sum() / exposure[diffuse & (still == i)].sum() for i in (2, 14)
    ]
    assert intensity[1] < 0.15 * intensity[0]
    counts = [as_numpy(table["counts"])[diffuse & (still == i)].sum() for i in (2, 14)]
    assert counts[1] > 0.3 * counts[0]


def test_map_is_there_and_reproducible(chain):
    merged = flex.reflection_table.from_file(str(chain / "diffuse_merged.refl"))
    assert merged.size() > 100000
    first, second = as_numpy(merged["half_1"]), as_numpy(merged["half_2"])
    both = np.isfinite(first) & np.isfinite(second) & (as_numpy(merged["d"]) > 2.92)
    assert np.corrcoef(first[both], second[both])[0, 1] > 0.5
    # what is left of counting statistics: the model explains the stills
    assert np.median(as_numpy(merged["n_stills"])) >= 8


def test_absolute_scale_is_that_of_thaumatin(chain):
    """At high q nearly all scattering is diffuse: sum f^2 of protein and water, and Compton, by xraylib."""
    xraylib = pytest.importorskip("xraylib")
    table = flex.reflection_table.from_file(str(chain / "diffuse_absolute.refl"))
    q = 1 / as_numpy(table["d"])
    total = as_numpy(table["intensity"]) + as_numpy(table["incoherent"])
    shell = (q > 0.54) & (q < 0.56)
    # Averagine (Senko, Beu & McLafferty 1995) for 8 x 207 residues; water of 0.334 e/A^3 in
    # what 8 x 22.2 kDa at 1.21 A^3/Da leave of a cell of 522,600 A^3
    residues = 8 * 207
    water = 0.334 * (522600 - 8 * 22200 * 1.21) / 10
    atoms = {
        6: 4.9384 * residues,
        7: 1.3577 * residues,
        8: 1.4773 * residues + water,
        16: 0.0417 * residues,
        1: 7.7583 * residues + 2 * water,
    }
    expected = sum(
        n * (xraylib.FF_Rayl(z, 0.275) ** 2 + xraylib.SF_Compt(z, 0.275)) for z, n in atoms.items()
    )
    # some per cent are in the Bragg peaks (B is about 17 A^2)
    assert 0.8 < np.median(total[shell]) / expected < 1.05


def test_no_bright_group_is_left_at_a_node(chain):
    images = json.loads((chain / "mask.json").read_text())["images"][1:]
    assert len(images) == 15
    for name, under, untrusted, before, after, *_ in images:
        assert before >= 30 and after == 0, name
        assert float(under) < 16, name


def test_the_last_still_has_left_the_crystal(chain):
    """Little must remain of it when the background is subtracted, and no ring of air."""
    stills = json.loads((chain / "extract.json").read_text())["stills"]
    profiles = [
        {name: np.array(values, dtype=float) for name, values in stills[i]["profile"].items()}
        for i in (2, 14)
    ]
    n = min(len(profile["q"]) for profile in profiles)
    profiles = [{name: values[:n] for name, values in profile.items()} for profile in profiles]
    q = profiles[0]["q"]
    measured = (q > 0.05) & (q < 0.65)
    third, last = (profile["diffuse"][measured] for profile in profiles)
    assert 0.03 < np.median(last / third) < 0.12
    assert (last / third).max() < 0.25
    # air scatters most at low angle, water at 0.3/A: the ring that is left is that of water
    background = profiles[1]["background"][measured]
    low, ring = q[measured] < 0.15, np.abs(q[measured] - 0.3) < 0.03
    assert background[low].mean() > 1.5 * background[ring].mean()
    assert last[low].mean() < 0.6 * last[ring].mean()
    assert last[low].mean() < 0.04 * background[low].mean()
