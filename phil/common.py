"""Parameters that several commands share, as PHIL text to be put together with their own."""

from __future__ import annotations

nproc_str = """
nproc = Auto
  .type = int(value_min=1)
  .help = "Number of processes. Auto: as many as there are processors."
"""

threads_str = """
nproc = Auto
  .type = int(value_min=1)
  .help = "Number of threads. Auto: as many as there are processors."
"""

sweeps_str = """
image_range = None
  .type = ints(size=2)
  .help = "First and last image number of sweeps to use; all others are left out. None: all."
exclude_images = None
  .type = str
  .multiple = True
  .help = "Images of sweeps to leave out: start:end in all sweeps, experiment:start:end in one"
          "(experiments count from 0). It can be given several times, or with commas between."
"""

# Every command takes nproc, so that scripts can give it to all
one_process_str = """
nproc = Auto
  .type = int(value_min=1)
  .help = "Accepted as by all commands of the chain; this one works in one process."
  .expert_level = 1
"""

MODELS = " and a copy of the grid and scaling models"


derived_str = """
  derived = False
    .type = bool
    .help = "Add the columns that follow from the others: miller_index, s1, d,"
            "intensity.sum.value, intensity.sum.variance{more}. The table is twice as large then."
"""


def output_str(
    command: str,
    experiments: str | None,
    reflections: str | None,
    more: str = "",
    besides: str = "",
) -> str:
    """The output scope of dials.<command>: its log, report, numbers and data files.

    Args:
        more: PHIL text of further files
        besides: what the JSON file holds besides the numbers and plots of the report
    """
    files = ""
    if experiments:
        files += f"""
  experiments = {experiments}
    .type = path
    .help = "Name of the experiments file to write."
"""
    if reflections:
        files += f"""
  reflections = {reflections}
    .type = path
    .help = "Name of the reflection file to write."
"""
    return f"""
output
  .help = "Names of the files to write."
{{{files}{more}
  log = dials.{command}.log
    .type = path
    .help = "Name of the log file."
  html = dials.{command}.html
    .type = path
    .help = "Name of the HTML report. None: no report."
  json = None
    .type = path
    .help = "Name of a JSON file for the numbers and plots of the report{besides}."
            "None: no such file."
}}
"""
