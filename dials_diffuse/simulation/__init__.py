"""Forward model: stills of a crystal whose diffuse scattering is known.

Nothing here imports the reduction code (masking, extraction, grid, scaling,
absolute, geometry): the corrections are derived anew, so that an error on one
side cannot be undone by the same error on the other.

    settings = Settings(stills=10, seed=1)
    settings.background.air = 2.0
    simulated = simulate(settings, folder)       # files, and the same in memory
    simulator = simulated.simulator              # or Simulator(settings), no files
    still = simulator.stills[0]
    photons = simulator.expected(still)["bragg"]  # one array a panel, by cause
    counts = simulator.image(still)               # ADU, the same as in the file
    simulator.truth.total(hkl)                    # electrons^2 per unit cell
    simulator_from_file("truth.json")             # all of it again, later

A merged map in photons/(s sr) is `simulator.photons_per_electron2` times
`truth.total(hkl)`, if the scales of the stills have the mean 1.
"""

from __future__ import annotations
