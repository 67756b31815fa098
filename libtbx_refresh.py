"""Registers the scaling model where dials_diffuse is a libtbx module.

libtbx does not read setup.py; without this an .expt file would silently lose its
diffuse scaling model.
"""

from __future__ import annotations

import libtbx.pkg_utils

libtbx.pkg_utils.define_entry_points(
    {"dxtbx.scaling_model_ext": ["diffuse = dials_diffuse.model.scaling_model:DiffuseScalingModel"]}
)
