"""dials_diffuse: diffuse scattering from DIALS-processed stills."""

from __future__ import annotations

import pathlib

__version__ = "0.1.0.dev0"
BUG_REPORTS = "the issue tracker of dials_diffuse"

_root = pathlib.Path(__file__).resolve().parent.parent
if (_root / "libtbx_config").is_file():
    # A source tree: command_line/ and phil/ are siblings of the package, not inside it
    __path__.append(str(_root))
