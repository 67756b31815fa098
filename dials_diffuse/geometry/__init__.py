"""The scattering vector and the acceptance of every pixel."""
