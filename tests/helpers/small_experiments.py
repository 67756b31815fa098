"""Experiment lists and tables of a few rows."""

from __future__ import annotations

from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList

from dials.array_family import flex


def experiment_list(names):
    return ExperimentList(
        [
            Experiment(
                identifier=name,
                beam=BeamFactory.simple(1.0),
                detector=DetectorFactory.simple(
                    "PAD", 100.0, (5.0, 5.0), "+x", "-y", (0.1, 0.1), (100, 100), (0, 1e6)
                ),
                crystal=Crystal((30 + i, 0, 0), (0, 40, 0), (0, 0, 50), space_group_symbol="P1"),
            )
            for i, name in enumerate(names)
        ]
    )


def table_of(names, rows):
    table = flex.reflection_table()
    table["id"] = flex.int([row for row, _ in rows])
    table["counts"] = flex.double([value for _, value in rows])
    for number, name in enumerate(names):
        table.experiment_identifiers()[number] = name
    return table
