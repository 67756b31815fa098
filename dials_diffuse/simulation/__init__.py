"""Forward model: stills of a crystal whose diffuse scattering is known.

Nothing here imports the reduction code (masking, extraction, grid, scaling,
absolute, geometry): the corrections are derived anew, so that an error on one
side cannot be undone by the same error on the other.
"""
