"""Scaling: recovery of the truth, time and memory, on tables made for the purpose.

Usage: python benchmarks/bench_scale.py [--recovery] [--speed] [--stills 30 300 1000]

--recovery: for each number of stills, with everything on (b 0.3 to 3, panels +-5 %, a +-10 %, a varying
ring c, 1 % wild observations): correlation of b, d, a and c with the truth, the merged map against the one
merged with the true factors, chi^2, and the largest difference of b to a fit from starts that are up to a factor 1.5 off, in
standard deviations. "limit" is the correlation of d that its standard deviations lead to expect: 64 factors that
differ by 3 % take some 4e7 photons for 0.99, since a smooth a can follow them in part.
--speed: the same with growing numbers of observations: seconds by function, peak memory.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import sys
import tempfile
import time

import numpy as np

import dials.algorithms.scaling.model.model  # noqa: F401
from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.model.components import N_RADIAL, Sensitivity
from dials_diffuse.scaling import scale as scale_module
from dials_diffuse.scaling.merging.merge import Merger
from dials_diffuse.scaling.observations.frames import Bins
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement import fit as fit_module
from dials_diffuse.scaling.refinement import selection as selection_module
from dials_diffuse.scaling.refinement.fit import Fitter
from dials_diffuse.scaling.refinement.objective import Objective, Preconditioner
from dials_diffuse.scaling.scale import scale

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "helpers"))
from synthetic_scaling import make_truth, scale_settings  # noqa: E402

EVERYTHING = {"offset": True, "panel": True, "sensitivity": True}


def write(truth, folder: str) -> list[DataPair]:
    """Write the truth's table as one pair"""
    expt, refl = pathlib.Path(folder) / "g.expt", pathlib.Path(folder) / "g.refl"
    truth.experiments.as_file(str(expt))
    truth.table.as_file(str(refl))
    return [DataPair(expt, refl)]


def timed(owner, name: str, clock: dict) -> None:
    """Add the CPU time spent in a function, what it calls included, to clock"""
    function = getattr(owner, name)
    label = f"{owner.__name__.rsplit('.', 1)[-1]}.{name}"

    def wrapped(*args, **kwargs):
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds, calls = clock.get(label, (0.0, 0))
            clock[label] = (seconds + time.process_time() - start, calls + 1)

    setattr(owner, name, wrapped)


def directions(bins: Bins) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the bins of the flattened table a"""
    return Sensitivity(flex.double(25, 1.0), bins.extent, (5, 5)).bin_centres()


def recovery(numbers: list[int], total: int, seed: int) -> None:
    """Print how well the truth is found again"""
    print(
        "stills  observations     b        d    (limit)    a        c     map/true map     chi2  perturbed  CPU s"
    )
    for n_stills in numbers:
        truth = make_truth(
            n_stills=n_stills,
            n_obs=total // n_stills,
            n_voxels=3000,
            mean_counts=10,
            offset=1.0,
            sensitivity=0.15,
            panels=(8, 8),
            panel_spread=0.05,
            wild_fraction=0.01,
            seed=seed,
        )
        with tempfile.TemporaryDirectory() as folder:
            settings = scale_settings(model=EVERYTHING)
            source = ObservationSource(write(truth, folder))
            start = time.process_time()
            scaled = scale(source, settings)
            seconds = time.process_time() - start
            tables = scaled.merger.tables
            bins = scaled.overview.bins
            radial = np.flatnonzero(abs(bins.q_of(np.arange(N_RADIAL)) - 0.3) < 0.18)[::10]
            q = bins.q_of(radial)
            c_true = np.array([truth.c_of(i, q) for i in range(n_stills)])
            x, y = directions(bins)
            inside = np.hypot(x, y) < 0.48
            # panels in the corners that hardly anything falls on say nothing
            seen = scaled.statistics.panel_n > 0.2 * np.median(scaled.statistics.panel_n)
            esds = np.array(scaled.fit.models[0].components["panel"].parameter_esds)[seen]
            spread = np.std(truth.d[seen])
            figures = [
                correlation(tables.b, truth.b),
                correlation(tables.d[seen], truth.d[seen]),
                spread / np.hypot(spread, np.sqrt(np.mean(esds**2))),
                correlation(tables.a[0, inside], truth.a_of(x[inside], y[inside])),
                correlation(tables.c[:, radial], c_true),
            ]
            shift = perturbed_shift(scaled, settings)
            known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
            expected = np.array([known[tuple(v)] for v in unpack_voxels(scaled.merged.voxels)])
            found = correlation(scaled.merged.intensity, expected)
            ceiling = correlation(merged_with_the_truth(scaled, truth), expected)
        print(
            f"{n_stills:6d} {total:12d} "
            + " ".join(f"{f:8.5f}" for f in figures)
            + f"   {found:.5f}/{ceiling:.5f} {scaled.chi2_before_error_model:6.3f} {shift:9.3f} {seconds:7.1f}",
            flush=True,
        )


def perturbed_shift(scaled, settings) -> float:
    """Largest difference of b to a fit from other starts, in e.s.d.s"""
    rng = np.random.default_rng(4)
    start = scaled.merger.tables.b * np.exp(rng.uniform(-0.4, 0.4, len(scaled.merger.tables.b)))
    again = selection_module.fit(scaled.source, scaled.overview, settings, start)
    scales = [m.components["scale"] for m in again.models]
    b = np.array([s.parameters[0] for s in scales])
    esds = np.array([s.parameter_esds[0] for s in scales])
    return float(np.max(abs(b - scaled.merger.tables.b) / esds))


def merged_with_the_truth(scaled, truth) -> np.ndarray:
    """The map from the true factors and offsets, outliers as found"""
    merger, bins = scaled.merger, scaled.overview.bins
    q = bins.q_of(np.arange(N_RADIAL))
    c = np.zeros_like(merger.tables.c)
    c[:, :N_RADIAL] = [truth.c_of(still, q) for still in range(len(truth.b))]
    a = truth.a_of(*directions(bins))[None]
    merger.tables = merger.tables._replace(b=truth.b, c=c, d=truth.d, a=a)
    return merger.merge().intensity


def correlation(a, b) -> float:
    """Pearson's"""
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def speed(totals: list[float], n_stills: int) -> None:
    """Print time by function and memory for growing tables"""
    for total in totals:
        truth = make_truth(
            n_stills=n_stills,
            n_obs=int(total / n_stills),
            n_voxels=3000,
            mean_counts=10,
            offset=1.0,
            sensitivity=0.15,
            panels=(8, 8),
            panel_spread=0.05,
        )
        with tempfile.TemporaryDirectory() as folder:
            pairs = write(truth, folder)
            del truth
            clock: dict = {}
            watched = [
                (scale_module, "read_observations"),
                (scale_module, "fit"),
                (selection_module, "fit_data"),
                (fit_module, "refine_cycle"),
                (Objective, "evaluate"),
                (Objective, "product"),
                (Preconditioner, "__init__"),
                (Fitter, "weigh_anew"),
                (Merger, "merge"),
                (scale_module, "statistics"),
            ]
            originals = [(owner, name, getattr(owner, name)) for owner, name in watched]
            for owner, name in watched:
                timed(owner, name, clock)
            start, start_cpu = time.perf_counter(), time.process_time()
            settings = scale_settings(model=EVERYTHING)
            scale(ObservationSource(pairs), settings)
            seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
            for owner, name, function in originals:
                setattr(owner, name, function)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(
            f"{total:.0f} observations, {n_stills} stills: {seconds:.1f} s, {cpu:.1f} s CPU "
            f"({cpu / total * 1e6:.2f} us an observation), peak so far {peak:.2f} GB"
        )
        for name, (inside, calls) in clock.items():
            print(
                f"    {name:45s} {inside:7.1f} s CPU {inside / cpu:5.0%} {calls:5d} calls of "
                f"{inside / calls * 1e3:8.1f} ms",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recovery", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--stills", type=int, nargs="*", default=[30, 300, 1000])
    parser.add_argument("--observations", type=float, default=4e6, help="in all, for --recovery")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the noise and the truth, for --recovery"
    )
    parser.add_argument("--totals", type=float, nargs="*", default=[1e6, 2e6, 4e6, 1e7])
    options = parser.parse_args()
    if options.recovery or not options.speed:
        recovery(options.stills, int(options.observations), options.seed)
    if options.speed or not options.recovery:
        speed(options.totals, 1000)
