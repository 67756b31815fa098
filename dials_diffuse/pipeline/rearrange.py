"""Join pairs of files, split them into batches, and select some of their stills."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.command import handle_errors
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import as_numpy, int_column, size_t_column
from dials_diffuse.io.atomic import replacing
from dials_diffuse.pipeline.contents import (
    batches_of,
    combined,
    groups_of,
    image_keys,
    masks,
    read_contents,
)


class _Pair:
    """A pair that was read: its JSON, its table, and the rows of each experiment."""

    def __init__(self, pair: DataPair):
        experiments, table = pair.load(check_format=False)
        if table is None:
            raise ValueError(f"There is no .refl file for {pair.experiments}")
        self.path = pair.experiments
        self.identifiers = [experiment.identifier for experiment in experiments]
        self.contents = read_contents(pair.experiments)
        self._table = table
        for number in list(table.experiment_identifiers().keys()):
            del table.experiment_identifiers()[number]
        ids = as_numpy(table["id"])
        self._order = np.argsort(ids, kind="stable")
        self._edges = np.searchsorted(ids[self._order], np.arange(len(experiments) + 1))

    def rows(self, indices: Sequence[int], first: int = 0) -> flex.reflection_table:
        """The rows of some experiments, whose ids become first, first + 1, ..."""
        spans = [(self._edges[i], self._edges[i + 1]) for i in indices]
        rows = np.concatenate([self._order[a:b] for a, b in spans])
        table = self._table.select(size_t_column(rows))
        table["id"] = int_column(
            np.repeat(np.arange(len(indices)) + first, [b - a for a, b in spans])
        )
        return table


def _extend(
    table: flex.reflection_table | None, more: flex.reflection_table
) -> flex.reflection_table:
    """Rows of two tables. Those of different programs or versions: what both have."""
    if table is None:
        return more
    for one, other in ((table, more), (more, table)):
        for name in [name for name in one.keys() if name not in other]:
            del one[name]
    table.extend(more)
    return table


def _write(contents: dict, table: flex.reflection_table, names: tuple[Path, Path]) -> None:
    for index, experiment in enumerate(contents["experiment"]):
        table.experiment_identifiers()[index] = experiment["identifier"]
    with replacing(names[0]) as expt, replacing(names[1]) as refl:
        Path(expt).write_text(json.dumps(contents))
        table.as_file(refl)


def split(pair: DataPair, size: int, names: Sequence[tuple[Path, Path]]) -> None:
    """Write the batches of a pair.

    Args:
        size: most stills of a batch
        names: .expt and .refl of each batch

    Raises:
        ValueError: unreadable input, or another number of batches than names.
    """
    whole = _Pair(pair)
    batches = batches_of(image_keys(whole.contents), size)
    if len(batches) != len(names):
        raise ValueError(
            f"{pair.experiments} makes {len(batches)} batches, {len(names)} were asked for"
        )
    for indices, name in zip(batches, names):
        part = combined([whole.contents], [indices], [whole.identifiers])
        _write(part, whole.rows(indices), name)


def join(pairs: Sequence[DataPair], names: tuple[Path, Path]) -> None:
    """Write several pairs as one.

    Raises:
        ValueError: unreadable input, or one experiment twice.
    """
    parts, chosen, identifiers = [], [], []
    table, n = None, 0
    seen: dict[str, Path] = {}
    for pair in pairs:
        part = _Pair(pair)
        for identifier in part.identifiers:
            if identifier in seen:
                raise ValueError(
                    f"{pair.experiments} holds an experiment that {seen[identifier]} holds too "
                    f"({identifier}): give each still once"
                )
            seen[identifier] = pair.experiments
        indices = range(len(part.identifiers))
        table = _extend(table, part.rows(indices, n))
        n += len(indices)
        parts.append(part.contents)
        chosen.append(indices)
        identifiers.append(part.identifiers)
    _write(combined(parts, chosen, identifiers), table, names)


def spread(pairs: Sequence[DataPair], n: int, names: tuple[Path, Path]) -> None:
    """Write the stills of n images, evenly spread over all pairs, and of one image for each lookup mask.

    Only the pairs that hold some of them are read whole.

    Raises:
        ValueError: unreadable input.
    """
    groups, by_mask = [], {}
    for number, pair in enumerate(pairs):
        contents = read_contents(pair.experiments)
        of_stills = masks(contents)
        for group in groups_of(image_keys(contents)):
            by_mask.setdefault(of_stills[group[0]], len(groups))
            groups.append((number, group))
    positions = {round(i) for i in np.linspace(0, len(groups) - 1, min(n, len(groups)))}
    chosen: dict[int, list[int]] = {}
    for position in sorted(positions | set(by_mask.values())):
        number, group = groups[position]
        chosen.setdefault(number, []).extend(group)
    parts, identifiers, table, first = [], [], None, 0
    for number, indices in chosen.items():
        part = _Pair(pairs[number])
        table = _extend(table, part.rows(indices, first))
        first += len(indices)
        parts.append(part.contents)
        identifiers.append(part.identifiers)
    _write(combined(parts, list(chosen.values()), identifiers), table, names)


@handle_errors()
def run(args: list[str]) -> None:
    """Join .expt and .refl files; with --size, write them in batches; with --spread, some stills only.

    Args:
        args: files alternating .expt, .refl; --output the same, one pair or one for each batch
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", nargs="+", type=Path, required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--spread", type=int)
    options = parser.parse_args(args)
    pairs = [DataPair(*files) for files in zip(options.files[::2], options.files[1::2])]
    names = list(zip(options.output[::2], options.output[1::2]))
    if options.spread is not None:
        spread(pairs, options.spread, names[0])
    elif options.size is not None:
        split(pairs[0], options.size, names)
    else:
        join(pairs, names[0])
