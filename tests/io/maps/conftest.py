from __future__ import annotations

import pytest
from merged_maps import CRYSTALS, merged_map


@pytest.fixture(params=CRYSTALS, ids=str, scope="module")
def merged(request):
    """A map of each crystal system; tests don't change it."""
    return merged_map(request.param)
