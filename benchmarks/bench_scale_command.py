"""dials.diffuse_scale as a whole: two checkouts on the same tables, in one interleaved run.

    python benchmarks/bench_scale_command.py old/.venv/bin new/.venv/bin gridded.expt gridded.refl
    python benchmarks/bench_scale_command.py old/.venv/bin new/.venv/bin a.expt a.refl b.expt b.refl \\
        --runs 3 -- model.offset=True nproc=1
    python benchmarks/bench_scale_command.py old/.venv/bin new/.venv/bin gridded.expt gridded.refl --copies 10

Each run is the first checkout and then the second, so that what else the machine does meets both. A run
before is not counted: it compiles. Times are the least of all runs, those of starting Python and of all
processes that the command starts included; memory is that of the largest process. Options after -- go to
the command. --copies 10 makes ten of each pair: the same stills under new identifiers, in pairs of their
own, or in one with --one-file.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from measured import Measured, measure, touch_memory

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex
from dials.util import tabulate

from dials_diffuse.model.scaling_model import DiffuseScalingModel  # noqa: F401

# Attribute of Measured -> title, format
COLUMNS = {"cpu": ("processor (s)", ".2f"), "wall": ("wall (s)", ".2f"), "peak": ("MB", ".0f")}


def pairs_of(files: list[str]) -> list[tuple[Path, Path]]:
    """(.expt, .refl) paths, matched in their order."""
    expt, refl = (
        [Path(name).resolve() for name in files if name.endswith(ending)]
        for ending in (".expt", ".refl")
    )
    if len(expt) != len(refl) or not expt or len(expt) + len(refl) != len(files):
        raise SystemExit("Give pairs of gridded .expt and .refl files")
    return list(zip(expt, refl))


def renumbered(pair: tuple[Path, Path], copy: int, first: int):
    """(experiments, table) of a pair: ids from first on, identifiers that end in the number of the copy."""
    experiments = ExperimentList.from_file(str(pair[0]), check_format=False)
    table = flex.reflection_table.from_file(str(pair[1]))
    for experiment in experiments:
        experiment.identifier = f"{experiment.identifier}-{copy}"
    names = table.experiment_identifiers()
    old = {key: names[key] for key in names.keys()}
    for key in old:
        del names[key]
    for key, name in old.items():
        names[key + first] = f"{name}-{copy}"
    table["id"] += first
    return experiments, table


def make_copies(
    pairs: list[tuple[Path, Path]], n: int, one_file: bool, folder: Path
) -> list[tuple[Path, Path]]:
    """Write n copies of each pair, as pairs of their own or all as one; their paths."""
    written = []
    everything, rows = ExperimentList(), flex.reflection_table()
    for pair in pairs:
        for copy in range(n):
            first = len(everything) if one_file else 0
            experiments, table = renumbered(pair, copy, first)
            if one_file:
                everything.extend(experiments)
                rows.extend(table)
            else:
                written.append(_write(experiments, table, folder / f"copy_{len(written):04d}"))
    return [_write(everything, rows, folder / "copies")] if one_file else written


def _write(experiments, table, stem: Path) -> tuple[Path, Path]:
    expt, refl = stem.with_suffix(".expt"), stem.with_suffix(".refl")
    experiments.as_file(str(expt))
    table.as_file(str(refl))
    return expt, refl


def run(checkout: Path, arguments: list[str], parent: Path) -> Measured:
    """Measure the command of a checkout in an empty folder, which is removed."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        return measure([checkout / "dials.diffuse_scale", *arguments], folder)
    finally:
        shutil.rmtree(folder)


def table_of(checkouts: list[Path], runs: list[list[Measured]]) -> str:
    """The least of each figure by checkout, and the first over the others."""
    best = [{name: min(getattr(m, name) for m in of) for name in COLUMNS} for of in runs]
    rows = []
    for checkout, figures in zip(checkouts, best):
        row: list = [str(checkout)]
        for name, (_, spec) in COLUMNS.items():
            row += [format(figures[name], spec), format(best[0][name] / figures[name], ".2f")]
        rows.append(row)
    heads = ["commands of"]
    for title, _ in COLUMNS.values():
        heads += [title, "times less"]
    return tabulate(rows, headers=heads, tablefmt="psql")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", type=Path, nargs=2, help="folders with dials.diffuse_scale")
    parser.add_argument("files", nargs="+", help="pairs of gridded .expt and .refl")
    parser.add_argument("--copies", type=int, default=1, help="of each pair")
    parser.add_argument("--one-file", action="store_true", help="all copies in one pair")
    parser.add_argument("--runs", type=int, default=2, help="of each checkout")
    parser.add_argument("--folder", type=Path, default=None, help="where to work")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options, more = parser.parse_args(given[:end]), given[end + 1 :]
    checkouts = [path.resolve() for path in options.checkouts]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        pairs = pairs_of(options.files)
        if options.copies > 1:
            pairs = make_copies(pairs, options.copies, options.one_file, Path(name))
        arguments = [*(str(path) for pair in pairs for path in pair), *more]
        touch_memory()
        runs: list[list[Measured]] = [[], []]
        for number in range(options.runs + 1):
            for checkout, of in zip(checkouts, runs):
                taken = run(checkout, arguments, Path(name))
                if number:
                    of.append(taken)
    print(f"{len(pairs)} pairs of files, {' '.join(more) or 'default options'}")
    print(table_of(checkouts, runs))


if __name__ == "__main__":
    main()
