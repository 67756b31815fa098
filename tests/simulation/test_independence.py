from __future__ import annotations

import ast
from pathlib import Path

import dials_diffuse.simulation

REDUCTION = {"extraction", "masking", "grid", "scaling", "absolute", "geometry", "stills"}
# compares maps after the reduction: not part of the forward model
NOT_THE_MODEL = {"comparison.py"}


def test_the_forward_model_imports_nothing_of_the_reduction():
    folder = Path(dials_diffuse.simulation.__file__).parent
    modules = [path for path in folder.glob("*.py") if path.name not in NOT_THE_MODEL]
    assert len(modules) > 8
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            for name in names:
                parts = name.split(".")
                if parts[0] == "dials_diffuse" and len(parts) > 1:
                    assert parts[1] not in REDUCTION, f"{path.name} imports {name}"
