"""Bragg spots of the known lattices: shape, size, prediction, painting."""
