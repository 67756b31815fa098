"""The absolute scale of a merged map, from the contents of the unit cell (dials.diffuse_absolute)."""
