"""Error model."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.scaling.merging.error_model import fit_error_model


def test_error_model_finds_what_was_put_in():
    t = 2.0 ** np.linspace(-4, 14, 40)
    freedom = np.full(40, 2000.0)
    a, b = 1.3, 0.02
    by_size = np.stack((a**2 * (1 + b**2 * t) * freedom, freedom, t * freedom), axis=1)
    model = fit_error_model(by_size)
    assert model.a == pytest.approx(a, rel=1e-3)
    assert model.b == pytest.approx(b, rel=1e-2)
    by_size[:, 0] = freedom
    assert fit_error_model(by_size).b == 0
