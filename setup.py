"""Packaging of dials_diffuse.

The commands are not listed here: each file in ``command_line/`` names its own
dispatcher in its first line, as DIALS's files do, and pip's console scripts and
libtbx's dispatchers are both derived from that line.
"""

from __future__ import annotations

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent
DISPATCHER = re.compile(r"^#\s*LIBTBX_SET_DISPATCHER_NAME\s+(\S+)\s*$", re.MULTILINE)


def version() -> str:
    """The version written in ``dials_diffuse/__init__.py``."""
    text = (ROOT / "dials_diffuse" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__\s*=\s*"([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("dials_diffuse/__init__.py has no __version__")
    return match.group(1)


def long_description() -> str:
    """The README, where it is there."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


def dispatchers() -> dict[str, str]:
    """Map the name of every command to its module."""
    found = {}
    for path in sorted((ROOT / "command_line").glob("*.py")):
        for name in DISPATCHER.findall(path.read_text(encoding="utf-8")):
            found[name] = f"dials_diffuse.command_line.{path.stem}"
    return found


def entry_points() -> dict[str, list[str]]:
    """The console scripts, libtbx's copy of them, and the scaling model."""
    commands = dispatchers()
    return {
        "console_scripts": [f"{name} = {module}:run" for name, module in commands.items()],
        "libtbx.dispatcher.script": [f"{name} = {name}" for name in commands],
        # the name must be the model's id_
        "dxtbx.scaling_model_ext": [
            "diffuse = dials_diffuse.model.scaling_model:DiffuseScalingModel"
        ],
    }


setup(
    name="dials_diffuse",
    version=version(),
    description="Diffuse scattering from still diffraction images, as DIALS commands",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="dials_diffuse developers",
    license="BSD-3-Clause",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "License :: OSI Approved :: BSD License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Physics",
    ],
    packages=find_packages(include=["dials_diffuse", "dials_diffuse.*"])
    + ["dials_diffuse.command_line", "dials_diffuse.phil"],
    package_dir={"dials_diffuse.command_line": "command_line", "dials_diffuse.phil": "phil"},
    package_data={"dials_diffuse.report": ["templates/*"]},
    entry_points=entry_points(),
    python_requires=">=3.10",
    # No install_requires, for two reasons. What PyPI holds as dials, dxtbx and cctbx is
    # not them. And where DIALS loads models through pkg_resources (3.12), every name
    # here must be a distribution with metadata, which Debian's h5py and xraylib are
    # not: DIALS itself would then fail on any .expt. So: pip install dials_diffuse[full]
    # (numpy, scipy and, with scikit-learn, threadpoolctl come with DIALS)
    extras_require={
        "full": ["h5py", "numba", "plotly", "xraylib"],
        "test": ["pytest", "dials_data"],
        "dask": ["distributed", "dask-jobqueue"],
    },
    zip_safe=False,
)
