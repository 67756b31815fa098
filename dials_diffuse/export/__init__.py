"""The work of dials.diffuse_export: merged maps in the formats of other programs."""
