from __future__ import annotations

import pytest
from scaling_problems import make_problem


@pytest.fixture
def problem(make_truth):
    """A scaler with everything on and parameters that are not the best, and its restraints"""
    return make_problem(make_truth, n_obs=60)
