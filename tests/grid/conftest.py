from __future__ import annotations

import importlib.util
import pathlib
import sys

import pytest


@pytest.fixture(scope="session")
def make_extracted():
    """The function of synthetic.py that makes extracted tables with a known truth"""
    path = pathlib.Path(__file__).with_name("synthetic.py")
    spec = importlib.util.spec_from_file_location("dials_diffuse_synthetic_extracted", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.make_extracted
