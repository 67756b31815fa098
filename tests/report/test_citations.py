from __future__ import annotations

from dials_diffuse.report.citations import ABSOLUTE_SCALE, RELATIVE_MAP, citations_of_run


def test_a_run_cites_what_its_steps_do_each_once():
    assert citations_of_run(absolute=False) == list(RELATIVE_MAP)
    everything = citations_of_run(absolute=True)
    assert set(everything) == {*RELATIVE_MAP, *ABSOLUTE_SCALE}
    assert len(everything) == len(set(everything))
