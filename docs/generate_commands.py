"""Write the pages of docs/commands from the commands' docstrings and parameters (make docs)."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re

from iotbx.phil import parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "commands"
COMMANDS = ROOT / "command_line"

# Scopes of DIALS that a command takes as they are: their text belongs to the DIALS in use
FOREIGN = {
    "dials.util.masking": (
        "All parameters of [dials.generate_mask](https://dials.github.io/documentation/programs/dials_generate_mask.html)"
        " that say which pixels to mask (`border`, `d_min`, `d_max`, `resolution_range`, `untrusted.*`, `ice_rings.*` ...):"
        " `-c -e 2` prints them."
    )
}
_INCLUDE = re.compile(r"^ *include scope (\S+)\.phil_scope *$", re.MULTILINE)
_PLACEHOLDER = "included_scope"


def pages() -> dict[str, str]:
    """All pages, file name -> text."""
    found = {}
    rows = ["| command | purpose |", "| --- | --- |"]
    for path in sorted(COMMANDS.glob("diffuse_*.py")):
        source = path.read_text(encoding="utf-8")
        command = re.match(r"# LIBTBX_SET_DISPATCHER_NAME (\S+)", source).group(1)
        docstring = ast.get_docstring(ast.parse(source))
        found[f"{path.stem}.md"] = _page(command, docstring, _parameters(path.stem))
        first = " ".join(docstring.split("\n\n")[0].split())
        rows.append(f"| [{command}]({path.stem}.md) | {_cell(first)} |")
    found["README.md"] = _NOTE + "# Commands\n\n" + "\n".join(rows) + "\n"
    return found


_NOTE = "<!-- Written by docs/generate_commands.py: make docs -->\n\n"


def _parameters(stem: str) -> str:
    """The parameters of a command, as Markdown: a table for each scope."""
    module = importlib.import_module(f"dials_diffuse.phil.{stem.removeprefix('diffuse_')}")
    names = iter(range(len(module.phil_str)))
    # What is included is named, not expanded
    text = _INCLUDE.sub(
        lambda match: f"{_PLACEHOLDER}_{next(names)} = {match.group(1)}\n.type = str\n",
        module.phil_str,
    )
    lines: list[str] = []
    _describe(parse(text), "", 0, lines)
    return "\n".join(lines) + "\n"


def _describe(scope, prefix: str, level: int, lines: list[str]) -> None:
    own = [
        item
        for item in scope.objects
        if item.is_definition and not item.name.startswith(_PLACEHOLDER)
    ]
    included = [item for item in scope.objects if item.name.startswith(_PLACEHOLDER)]
    if prefix:
        lines += [f"### {prefix.removesuffix('.')}", ""]
        if scope.help:
            lines += [scope.help, ""]
    for item in included:
        lines += [_included(item.extract(), prefix), ""]
    if own:
        lines += ["| parameter | type | default | level | |", "| --- | --- | --- | --- | --- |"]
        for item in own:
            kind, default = _type_and_default(item)
            row = (f"`{prefix}{item.name}`", kind, default, str(max(level, item.expert_level or 0)))
            lines.append("| " + " | ".join(map(_cell, (*row, item.help or ""))) + " |")
        lines.append("")
    for item in scope.objects:
        if not item.is_definition:
            _describe(item, f"{prefix}{item.name}.", max(level, item.expert_level or 0), lines)


def _included(name: str, prefix: str) -> str:
    if name in FOREIGN:
        return FOREIGN[name]
    step = name.removeprefix("dials_diffuse.phil.")
    return (
        f"All parameters of [dials.diffuse_{step}](diffuse_{step}.md) but `nproc` and `output`, each with"
        f" `{prefix}` before its name."
    )


def _type_and_default(item) -> tuple[str, str]:
    words = [str(word) for word in item.words]
    if item.type.phil_type == "choice":
        chosen = [word[1:] for word in words if word.startswith("*")]
        several = "several of" if item.type.multi else "one of"
        return f"{several} {', '.join(word.lstrip('*') for word in words)}", f"`{'+'.join(chosen)}`"
    # None is allowed almost everywhere, and the help says what it means
    kind = str(item.type).replace(", allow_none=True", "").replace("(allow_none=True)", "")
    if item.multiple:
        kind += ", repeatable"
    # a list of numbers is written 1,2,3 by some and 1 2 3 by others
    separator = " " if item.type.phil_type == "strings" else ""
    return kind, f"`{separator.join(words)}`"


def _cell(text: str) -> str:
    """Text that is safe in a table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def _page(command: str, docstring: str, parameters: str) -> str:
    # commands are indented by two in docstrings, code by four in Markdown, after an empty line
    text = re.sub(r"^(\S.*)\n(?=  )", r"\1\n\n", docstring.strip(), flags=re.MULTILINE)
    text = re.sub(r"^(?=  )", "  ", text, flags=re.MULTILINE)
    return (
        f"{_NOTE}# {command}\n\n{text}\n\n## Parameters\n\n"
        "`-c` prints those of level 0, `-c -e 2` all of them, `-c -e 2 -a 1` with their help.\n\n"
        + parameters
    )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    found = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in found:
            path.unlink()
    for name, text in found.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(found)} pages in {FOLDER}")


if __name__ == "__main__":
    main()
