"""The work of dials.diffuse_grid: observations to the asymmetric unit of one grid."""
