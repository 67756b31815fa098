"""c and a as smooth functions of p_order"""

from __future__ import annotations

import numpy as np
import pytest

from dials.algorithms.scaling.model.components.smooth_scale_components import (
    GaussianSmoother2D,
    GaussianSmoother3D,
)
from dials.array_family import flex

from dials_diffuse.model.series import OffsetSeries, SensitivitySeries


def doubles(values):
    return flex.double(np.asarray(values, dtype=float).tolist())


EXTENT = (-0.5, 0.5, -0.4, 0.6)


@pytest.mark.parametrize("n_p", [3, 5, 7])
def test_offsets_of_stills_are_dials_2d_smoother(n_p):
    rng = np.random.default_rng(1)
    p_order = rng.uniform(3, 8, 20)
    values = rng.normal(0, 1, 6 * n_p)
    series = OffsetSeries(doubles(values), 0.5, 6, p_order)
    smoother = GaussianSmoother2D(
        (0, 0.5), 4, (p_order.min(), p_order.max()), {3: 2, 5: 3, 7: 5}[n_p]
    )
    q = series.radial.bin_centres()[::40]
    table = series.by_still() @ series.table_weights().T
    for still in range(20):
        expected = smoother.multi_value_weight(
            doubles(q), doubles(np.full(len(q), p_order[still])), doubles(values)
        )[0]
        np.testing.assert_allclose(table[still, ::40], expected, rtol=1e-12, atol=1e-12)
    # back from what a model keeps
    back = OffsetSeries.from_dict(series.to_dict(), p_order[[7, 2]])
    np.testing.assert_allclose(back.by_still(), series.by_still()[[7, 2]])


def test_sensitivity_at_steps_is_dials_3d_smoother():
    rng = np.random.default_rng(1)
    p_order = rng.uniform(-3, 8, 12)
    values = rng.uniform(0.5, 1.5, 5 * 6 * 7)
    series = SensitivitySeries(doubles(values), EXTENT, (5, 6), p_order)
    smoother = GaussianSmoother3D(EXTENT[:2], 3, EXTENT[2:], 4, (p_order.min(), p_order.max()), 5)
    table = series.by_step() @ series.plane.table_weights().T
    x, y = (v[::500] for v in series.plane.bin_centres())
    for still in (0, 5, 11):
        z = np.full(len(x), p_order[still])
        expected = smoother.multi_value_weight(doubles(x), doubles(y), doubles(z), doubles(values))
        np.testing.assert_allclose(
            table[series.step_of_still[still], ::500], expected[0], rtol=1e-12
        )
    # back from what a model keeps
    back = SensitivitySeries.from_dict(series.to_dict(), p_order[[7, 2]])
    np.testing.assert_allclose(
        back.by_step()[back.step_of_still], series.by_step()[series.step_of_still[[7, 2]]]
    )


def test_many_stills_share_steps_that_are_close():
    p_order = np.random.default_rng(0).uniform(0, 100, 5000)
    series = SensitivitySeries(flex.double(25 * 6, 1.0), EXTENT, (5, 5), p_order)
    assert len(series.steps) == 64
    assert abs(series.steps[series.step_of_still] - p_order).max() < 100 / 64
    # a twelfth of an interval is as good as the exact place
    values = series.weights_at(p_order) @ np.sin(np.arange(6))
    binned = (series.weights @ np.sin(np.arange(6)))[series.step_of_still]
    assert abs(binned - values).max() < 0.02 * np.ptp(values)


def test_one_interval_is_refused():
    with pytest.raises(ValueError, match="two or more intervals"):
        OffsetSeries(flex.double(12, 0.0), 0.5, 6, np.arange(5.0))
