"""Refinement of the scaling model."""
