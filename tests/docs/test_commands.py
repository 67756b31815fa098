from __future__ import annotations

import importlib.util
import pathlib

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


def generator():
    spec = importlib.util.spec_from_file_location(
        "generate_commands", DOCS / "generate_commands.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_of_commands_are_up_to_date():
    expected = generator().pages()
    found = {
        path.name: path.read_text(encoding="utf-8") for path in (DOCS / "commands").glob("*.md")
    }
    assert sorted(found) == sorted(expected)
    outdated = [name for name in expected if found[name] != expected[name]]
    assert not outdated, f"make docs has to be run: {', '.join(outdated)}"


def test_every_parameter_is_described():
    """Of a scope that includes one of DIALS: our own are there, its own are not."""
    page = generator().pages()["diffuse_mask.md"]
    assert "| `bragg.method` | one of predicted, shoebox, halo, none | `predicted` | 0 |" in page
    assert "dials.generate_mask" in page and "`untrusted.circle`" not in page
    process = generator().pages()["diffuse_process.md"]
    assert "[dials.diffuse_extract](diffuse_extract.md)" in process
    assert "`extract.subdivide`" not in process
