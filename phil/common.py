"""Parameters that several commands share, as PHIL text to be put together with their own."""

from __future__ import annotations

nproc_str = """
nproc = Auto
  .type = int(value_min=1)
  .help = "Number of processes. Auto: as many as there are processors."
"""


def output_str(command: str, experiments: str | None, reflections: str | None, more: str = "") -> str:
    """The output scope of dials.<command>: its log, report, numbers and data files."""
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
    .help = "Name of a JSON file for the numbers of the report and a copy of the"
            "scaling models. None: no such file."
}}
"""
