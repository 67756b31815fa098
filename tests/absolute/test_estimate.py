from __future__ import annotations

import pytest

from dials_diffuse.absolute.estimate import Estimate, combined, deviation, scan_deviation


def test_errors():
    assert combined({"a": 3.0, "b": -4.0}) == pytest.approx(5.0)
    assert deviation(1.0, [2.0, 0.0, 1.0]) == pytest.approx((2 / 3) ** 0.5)
    assert deviation(1.0, []) == 0
    assert scan_deviation([(0.1, 0.5, 3.0), (0.2, 0.5, 5.0)], 4.0) == pytest.approx(1.0)


@pytest.mark.parametrize("scale, expected", [(1.9, False), (2.1, True)])
def test_disagreement_beyond_twice_the_errors(scale, expected):
    one = Estimate("fit", 1.0, 0.3, (0.3, 0.7), [])
    other = Estimate("high_q", scale, 0.4, (0.3, 0.7), [])
    assert one.disagrees_with(other) is expected
    assert one.relative_error == pytest.approx(0.3)
