"""Diffuse scattering from still diffraction images, as DIALS commands."""

from __future__ import annotations

import pathlib

__version__ = "0.1.0.dev0"

# In a source tree command_line/ and phil/ are siblings of this package: let them
# be found as its subpackages, as they are once installed.
_root = pathlib.Path(__file__).resolve().parent.parent
if (_root / "libtbx_config").is_file():
    __path__.append(str(_root))
