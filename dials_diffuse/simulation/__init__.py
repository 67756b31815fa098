"""Forward model: stills of a crystal whose diffuse scattering is known.

Nothing here imports the reduction code (masking, extraction, gridding, scaling, absolute): the
corrections are derived anew, so that an error on one side cannot be undone by the same error on
the other.

    result = simulate(settings, images)           # images on disk, all else in memory
    simulator = result.simulator                  # or Simulator(settings), without files
    still = simulator.stills[0]
    photons = simulator.expected(still)["bragg"]  # one array a panel, for each component
    counts = simulator.image(still)               # ADU, the same as in the file
    simulator.truth.total(hkl)                    # electrons^2 per unit cell
    simulator_from_file("truth.json")             # the same simulator again, later

A merged map in photons/(s sr) is `simulator.photons_per_electron2` times `truth.total(hkl)`, if
the scales of the stills have the mean 1.
"""

from __future__ import annotations
