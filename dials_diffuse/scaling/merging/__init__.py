"""Merging of scaled observations, and its statistics."""
