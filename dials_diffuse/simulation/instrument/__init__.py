"""The simulated instrument: beams and detectors, and the geometry of their pixels."""

from __future__ import annotations
