"""dials.diffuse_process with real processes, some of which are killed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import run_command
from plain_images import crystal_at, write_stills

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Crystal, Experiment, ExperimentList, GoniometerFactory, ScanFactory
from scitbx import matrix

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy

MODULE = "dials_diffuse.command_line.diffuse_process"
# Two batches, one process each; the spots' size is not measured because four small images are too few
OPTIONS = [
    "mp.nproc=2",
    "batch_size=2",
    "mask.bragg.size=model",
    "output.html=None",
    "output.json=run.json",
]
PATIENCE = 120  # s, for a machine that is busy


def simulate(folder, *options):
    """simulated.expt, .refl and four small images"""
    from dials_diffuse.command_line.diffuse_simulate import run

    here = os.getcwd()
    os.chdir(folder)
    try:
        run(
            [
                "stills=4",
                "nproc=1",
                "detector.image_size=100,100",
                "detector.pixel_size=1.2",
                "exposure.mean_photons=20",
                "output.html=None",
                *options,
            ]
        )
    finally:
        os.chdir(here)
    return folder


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("stills"))


@pytest.fixture(scope="module")
def reference(stills, tmp_path_factory):
    """Folder of a run that nothing disturbed"""
    folder = tmp_path_factory.mktemp("reference")
    result = process(stills, folder)
    assert not result.returncode and not result.stderr, result.stderr
    return folder


def command(stills, *options):
    files = [str(stills / "simulated.expt"), str(stills / "simulated.refl")]
    return [sys.executable, "-m", MODULE, *files, *OPTIONS, *options]


def process(stills, folder, *options):
    return subprocess.run(command(stills, *options), cwd=folder, capture_output=True, text=True)


def start(stills, folder, *options):
    return subprocess.Popen(
        command(stills, *options),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(folder):
    return json.loads((folder / "run.json").read_text())


def same_map(folder, reference):
    return (folder / "diffuse_merged.refl").read_bytes() == (
        reference / "diffuse_merged.refl"
    ).read_bytes()


def processes():
    """pid -> (pid of the parent, command line) of all processes that are not dead"""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if state != "Z":
            found[int(path.name)] = (int(parent), line)
    return found


def descendants(pid, everything=None):
    """pid -> command line of all processes below one, of those that processes() has found"""
    everything = everything or processes()
    found, level = {}, {pid}
    while level:
        level = {p for p, (parent, _) in everything.items() if parent in level}
        found.update((p, everything[p][1]) for p in level)
    return found


def wait_for(condition, what, run=None):
    """What condition() returns once it is true"""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        assert run is None or run.poll() is None, (
            f"the run ended before {what}: {run.stderr.read()}"
        )
        time.sleep(0.005)
    raise AssertionError(f"waited in vain for {what}")


def finished_tasks(folder):
    path = folder / "diffuse_process.state.json"
    return set(json.loads(path.read_text())["tasks"]) if path.is_file() else set()


def assert_no_half_files(folder):
    """No temporary file is left, and what has a final name can be read"""
    names = [path for path in folder.rglob("*") if path.is_file()]
    assert [path.name for path in names if path.name.startswith(".")] == [".diffuse_process.lock"]
    for path in names:
        if path.suffix == ".refl":
            flex.reflection_table.from_file(str(path))
        elif path.suffix == ".expt":
            ExperimentList.from_file(str(path), check_format=False)
        elif path.suffix == ".json":
            json.loads(path.read_text())


needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="looks for processes in /proc"
)


def test_from_stills_to_a_map(reference):
    content = numbers(reference)
    assert content["success"] and content["error"] is None
    steps = {step["step"]: step for step in content["steps"]}
    assert list(steps) == ["mask", "extract", "grid", "scale"]
    assert steps["extract"]["stills"] == 4
    assert len(steps["scale"]["outputs"]) == 4
    assert all((reference / name).is_file() for step in steps.values() for name in step["outputs"])
    assert content["failed_stills"] == []
    assert {"merged", "map"} == set(content["maps"])
    assert any("DIALS" in line for line in content["citations"])
    log = (reference / "dials.diffuse_process.log").read_text()
    assert "No composition is given" in log
    assert "Please cite" in log
    assert (
        reference / "diffuse_mask.phil"
    ).read_text().split() == "bragg { size = auto images *model }".split()
    experiments = ExperimentList.from_file(
        str(reference / "batches/diffuse_scaled_0002.expt"), check_format=False
    )
    assert [e.scaling_model.id_ for e in experiments] == ["diffuse", "diffuse"]
    assert_no_half_files(reference)


@pytest.mark.slow
@needs_proc
def test_one_batch_gives_the_same_map_though_a_worker_is_killed(stills, reference, tmp_path):
    noticed = "one of its worker processes was killed, trying again"
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        run = start(stills, folder, "batch_size=4", "output.html=page.html")

        def worker(parent_of_extract=run.pid):
            everything = processes()
            for extract, (parent, line) in everything.items():
                if parent == parent_of_extract and "diffuse_extract " in line:
                    below = descendants(extract, everything)
                    # Not the servers that multiprocessing starts beside them, by the method of starting
                    return [
                        pid
                        for pid, line in below.items()
                        if "resource_tracker" not in line
                        and not ("forkserver" in line and everything.get(pid, (0,))[0] == extract)
                    ]
            return []

        while run.poll() is None:
            pids = worker()
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[0], signal.SIGKILL)
                break
        _, errors = run.communicate()
        assert run.returncode == 0, errors
        assert same_map(folder, reference)
        # The stills are so small that a worker may have done its work before the signal came
        if noticed in (folder / "dials.diffuse_process.log").read_text():
            break
    else:
        pytest.fail("no killed worker was noticed in six runs")
    page = (folder / "page.html").read_text()
    assert "extract_diffuse" in page and "dials.diffuse_scale" in page


@pytest.mark.slow
@needs_proc
def test_killed_batch_then_killed_run_then_resume(stills, reference, tmp_path):
    run = start(stills, tmp_path)

    def batch():
        return [
            pid
            for pid, line in descendants(run.pid).items()
            if "diffuse_extracted_0001" in line and "diffuse_extract " in line
        ]

    os.kill(wait_for(batch, "the first batch", run)[0], signal.SIGKILL)

    log = tmp_path / "dials.diffuse_process.log"
    second = process(stills, tmp_path)
    assert second.returncode == 1
    assert (
        second.stderr.strip()
        .splitlines()[-1]
        .startswith("Sorry: Another dials.diffuse_process is running")
    )
    assert f"process {run.pid} " in second.stderr

    wait_for(lambda: "grid" in finished_tasks(tmp_path), "the grid", run)
    below = descendants(run.pid)
    run.kill()
    run.wait()
    assert "killed by SIGKILL, trying again" in log.read_text()
    wait_for(lambda: not set(below) & set(processes()), "the end of the children")

    resumed = process(stills, tmp_path, "resume=True")
    assert resumed.returncode == 0, resumed.stderr
    assert same_map(tmp_path, reference)
    tasks = {task["name"]: task for step in numbers(tmp_path)["steps"] for task in step["tasks"]}
    assert {name for name, task in tasks.items() if not task["skipped"]} == {"scale"}
    assert tasks["extract_0001"]["attempts"] == 2
    assert_no_half_files(tmp_path)

    # Whatever a finished task depends on makes it run again, and what follows from it
    os.utime(tmp_path / "batches/diffuse_extracted_0002.refl")
    again = process(stills, tmp_path, "resume=True", "steps=mask+extract+grid")
    assert again.returncode == 0, again.stderr
    tasks = {task["name"]: task for step in numbers(tmp_path)["steps"] for task in step["tasks"]}
    assert {name for name, task in tasks.items() if not task["skipped"]} == {"extract_0002", "grid"}

    # A parameter of a late step: that step alone
    late = process(stills, tmp_path, "resume=True", "scale.model.sensitivity=False")
    assert late.returncode == 0, late.stderr
    steps = {step["step"]: step for step in numbers(tmp_path)["steps"]}
    tasks = {task["name"]: task for step in steps.values() for task in step["tasks"]}
    assert {name for name, task in tasks.items() if not task["skipped"]} == {"scale"}
    assert [steps[step]["stills"] for step in ("mask", "extract", "grid", "scale")] == [4] * 4


@pytest.mark.slow
def test_unreadable_images(stills, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(stills, data)
    for path in (data / "simulated.expt",):
        path.write_text(path.read_text().replace(str(stills), str(data)))
    images = sorted((data / "images").glob("*.cbf"))
    for image in images[1:]:
        image.write_bytes(image.read_bytes()[:2000])
    work = tmp_path / "work"
    work.mkdir()
    result = process(
        data,
        work,
        "steps=mask+extract+grid",
        "mask.dynamic.enable=False",
        "mask.dynamic.shadow=False",
    )
    assert result.returncode == 0, result.stderr
    content = numbers(work)
    failed = [os.path.basename(still["image"]) for still in content["failed_stills"]]
    assert sorted(failed) == [image.name for image in images[1:]]
    assert list(content["empty_batches"]) == ["extract_0002"]
    assert content["steps"][-1]["outputs"] == ["diffuse_gridded.expt", "diffuse_gridded.refl"]
    log = (work / "dials.diffuse_process.log").read_text()
    assert images[1].name in log and "not one of the 2 stills of extract_0002 could be used" in log


@pytest.fixture
def small_disk(tmp_path):
    """mount(size) puts a file system of that size at a folder, or changes it"""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options):
        action = (
            ["-o", f"remount,{options}"] if mounted else ["-t", "tmpfs", "-o", options, "tmpfs"]
        )
        result = subprocess.run(["mount", *action, str(folder)], capture_output=True, text=True)
        if result.returncode and not mounted:
            pytest.skip(f"can't mount a tmpfs: {result.stderr.strip()}")
        assert not result.returncode, result.stderr
        mounted.append(folder)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_full_disk(stills, reference, small_disk):
    folder = small_disk("size=12m")
    result = process(stills, folder)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Sorry: ") and "No space left on device" in last
    assert not (folder / "diffuse_merged.refl").exists()
    assert_no_half_files(folder)
    small_disk("size=200m")
    result = process(stills, folder, "resume=True")
    assert result.returncode == 0, result.stderr
    assert same_map(folder, reference)
    skipped = {
        task["name"]
        for step in numbers(folder)["steps"]
        for task in step["tasks"]
        if task["skipped"]
    }
    assert {"mask", "split_0001"} <= skipped


def test_folder_that_can_not_be_written(stills, small_disk):
    folder = small_disk("size=1m,ro")
    result = process(stills, folder)
    assert result.returncode == 1
    assert result.stderr.strip() == f"Sorry: Can't write in {folder}: Read-only file system"


@pytest.mark.parametrize(
    "options, message",
    [
        (["steps=scale"], "steps: scale needs diffuse_gridded.expt, which is not in"),
        (["steps=absolute"], "The absolute scale needs composition.model, sequence or formula"),
        (["d_min=2", "extract.d_min=3"], "d_min=2.0 contradicts extract.d_min=3.0"),
        (["step_phil.mask=nowhere.phil"], "step_phil.mask: no such file: nowhere.phil"),
        (["mp.scheduler=tcp://x:1"], "mp.scheduler is for mp.method=dask"),
        (["extract.subdivide=3,2,3", "mask.dynamic.images=x"], "mask.dynamic.images"),
    ],
)
def test_bad_input_ends_with_one_line(stills, tmp_path, options, message):
    files = stills / "simulated.expt", stills / "simulated.refl"
    result = run_command(tmp_path, "dials.diffuse_process", *files, *OPTIONS, *options)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Sorry: ") and message in last


@pytest.mark.slow
@needs_proc
def test_dask_with_a_killed_worker(stills, reference, tmp_path):
    pytest.importorskip("distributed")
    run = start(stills, tmp_path, "mp.method=dask")

    def worker():
        """The dask worker that runs the first batch"""
        everything = processes()
        below = descendants(run.pid, everything)
        return [everything[pid][0] for pid, line in below.items() if "diffuse_extract " in line]

    os.kill(wait_for(worker, "the first batch", run)[0], signal.SIGKILL)
    _, errors = run.communicate()
    assert run.returncode == 0, errors
    assert same_map(tmp_path, reference)


def as_sweep(stills, step):
    """The stills of a crystal that turns about x, step degrees each, as the integrated sweep that they could
    have come from: sweep.expt and sweep.refl."""
    experiments = ExperimentList.from_file(str(stills / "simulated.expt"))
    table = flex.reflection_table.from_file(str(stills / "simulated.refl"))
    n = len(experiments)
    goniometer = GoniometerFactory.known_axis((1, 0, 0))
    scan = ScanFactory.make_scan((1, n), 0.1, (0, step), {i + 1: 0 for i in range(n)})
    first = experiments[0]
    imageset = ImageSetFactory.make_sequence(
        str(stills / "images" / "still_#####.cbf"),
        list(range(1, n + 1)),
        beam=first.beam,
        detector=first.detector,
        goniometer=goniometer,
        scan=scan,
    )
    # A still is taken in the middle of its image, half a step after the angle's start
    half_back = matrix.col((1, 0, 0)).axis_and_angle_as_r3_rotation_matrix(-step / 2, deg=True)
    crystal = Crystal(first.crystal)
    crystal.set_A(half_back * matrix.sqr(first.crystal.get_A()))
    crystal.set_A_at_scan_points([crystal.get_A()] * (n + 1))
    sweep = Experiment(
        identifier="sweep",
        beam=first.beam,
        detector=first.detector,
        goniometer=goniometer,
        scan=scan,
        imageset=imageset,
        crystal=crystal,
    )
    image = list(table["id"])
    boxes = table["shoebox"]
    for i, box in enumerate(boxes):
        box.bbox = (*box.bbox[:4], image[i], image[i] + 1)
        boxes[i] = box
    table["shoebox"] = boxes
    table["bbox"] = boxes.bounding_boxes()
    for number in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[number]
    table["id"] = flex.int(len(table), 0)
    table["imageset_id"] = flex.int(len(table), 0)
    table.experiment_identifiers()[0] = "sweep"
    ExperimentList([sweep]).as_file(str(stills / "sweep.expt"))
    table.as_file(str(stills / "sweep.refl"))


def sums_by_image(paths):
    """{(image, voxel): (counts, exposure)} of tables whose stills, or images of sweeps, follow each other"""
    sums, first = {}, 0
    for path in paths:
        table = flex.reflection_table.from_file(str(path))
        image = np.array(table["id"])
        if not image.any():
            image = np.floor(as_numpy(table["xyzobs.px.value"])[:, 2]).astype(int)
        columns = as_numpy(table["voxel"]), table["counts"], table["exposure"]
        for i, voxel, counts, exposure in zip(image + first, *columns):
            before = sums.get((i, *voxel), (0.0, 0.0))
            sums[(i, *voxel)] = (before[0] + counts, before[1] + exposure)
        first += len(set(table["id"]))
    return sums


@pytest.mark.slow
@pytest.mark.parametrize("static", [False, True])
def test_a_sweep_gives_the_observations_of_its_images_as_stills(tmp_path, static):
    """Masks differ, since nodes move within an image of the sweep: all pixels together are the same"""
    data = tmp_path / "data"
    data.mkdir()
    turning = ["crystal.orientation=rotation", "crystal.rotation_step=1"]
    simulate(data, *turning, "bragg.shoeboxes=True")
    as_sweep(data, 1.0)
    if static:
        experiments = ExperimentList.from_file(str(data / "sweep.expt"))
        experiments[0].crystal.reset_scan_points()
        experiments.as_file(str(data / "sweep.expt"))
    sums = {}
    for name in ("simulated", "sweep"):
        work = tmp_path / name
        work.mkdir()
        mask = ["mask.bragg.mosaicity=0.1", "mask.bragg.domain_size=1000", "extract.block=1"]
        mask += ["mask.dynamic.enable=False", "mask.dynamic.shadow=False"]
        mask += ["mask.bragg.other_spots=False"]
        files = [str(data / f"{name}.expt"), str(data / f"{name}.refl")]
        result = subprocess.run(
            [sys.executable, "-m", MODULE, *files, *OPTIONS, "steps=mask+extract", *mask],
            cwd=work,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        sums[name] = sums_by_image(sorted(work.rglob("diffuse_extracted*.refl")))
    assert len(sums["sweep"]) > 1000 and sums["sweep"].keys() == sums["simulated"].keys()
    for key, (counts, exposure) in sums["sweep"].items():
        assert counts == sums["simulated"][key][0]
        assert exposure == pytest.approx(sums["simulated"][key][1], rel=1e-6)


@pytest.mark.parametrize("name", ["cell {x}", "it's; a=b #3", 'say "hi"'])
def test_folders_of_any_name(tmp_path, name):
    """Plain images, empty shots and results in folders whose names PHIL would take apart"""
    rng = np.random.default_rng(4)
    folder = tmp_path / name
    images = [rng.poisson(3.0, (100, 100)) for _ in range(5)]
    write_stills(folder, images[:3], [crystal_at(rng) for _ in range(3)])
    write_stills(folder / "empty", images[3:], [[None], [None]])
    result = run_command(
        folder,
        "dials.diffuse_process",
        folder / "stills.expt",
        folder / "stills.refl",
        f"background={folder / 'empty' / 'stills.expt'}",
        "steps=mask+extract+grid",
        "mask.bragg.mosaicity=0.1",
        "mask.bragg.domain_size=1000",
        "mp.nproc=1",
        "batch_size=2",
        f"output.batches={folder / 'batches'}",
    )
    assert result.returncode == 0, result.stderr
    table = flex.reflection_table.from_file(str(folder / "batches" / "diffuse_gridded_0001.refl"))
    assert np.array(table["background"]).sum() == pytest.approx(
        np.array(table["counts"]).sum(), rel=0.05
    )
