"""Scaling of stills against each other, and merging."""
