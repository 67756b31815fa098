from __future__ import annotations

# DIALS loads every registered scaling model while it imports its own: it must have
# finished before ours starts, whoever is imported first
import dials.algorithms.scaling.model.model  # noqa: F401
