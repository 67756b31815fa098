"""Bright pixels that no lattice explains."""
