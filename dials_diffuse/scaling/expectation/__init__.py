"""Expected photons and variance of an observation, by the scaling model."""
