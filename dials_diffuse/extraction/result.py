"""The outcome of an extraction, beside its files: numbers for log and report."""

from __future__ import annotations

from dataclasses import dataclass, field

from dials_diffuse.extraction.profile import Profile
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.grid.lattice_settings import LatticeSetting
from dials_diffuse.grid.voxel_grid import VoxelGrid


@dataclass
class StillSummary:
    """The numbers of one still for log and report.

    Attributes:
        path: of its image
        error: why it failed; the other numbers are 0 or None then
        num_observations: rows of the table, Bragg ones included
        num_pixels, photons: of the diffuse observations
        exposure_time: s
        profile: see Profile
        missing: images of its block that could not be read, and why
        reindexed: change of basis (hkl) of its voxels, "" for none
    """

    path: str
    error: str = ""
    num_observations: int = 0
    num_pixels: int = 0
    photons: float = 0.0
    exposure_time: float = 0.0
    profile: Profile | None = None
    reindexed: str = ""
    missing: list[str] = field(default_factory=list)


@dataclass
class ExtractionResult:
    """The outcome of an extraction, beside its files.

    Attributes:
        settings: of the extraction
        grid: of all stills
        stills: summaries of the stills in the files, in their order
        failures: stills left out of the files, see Masker.failures
        models: copies of the scaling models, if output.json is wanted
        setting: of the lattice, that all voxels have
    """

    settings: ExtractionSettings
    grid: VoxelGrid
    stills: list[StillSummary] = field(default_factory=list)
    failures: dict = field(default_factory=dict)
    models: dict = field(default_factory=dict)
    setting: LatticeSetting | None = None
