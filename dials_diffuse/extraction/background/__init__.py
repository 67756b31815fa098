"""Expected background photons of every pixel, from numbers, maps or empty shots."""

from __future__ import annotations
