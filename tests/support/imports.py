"""What the modules of the package import of each other, read from their code."""

from __future__ import annotations

import ast
from pathlib import Path

import recurjac_plugin

PACKAGE = Path(recurjac_plugin.__file__).parent


def name_of(path: Path) -> str:
    """Dotted name in the package: ``graph.steps`` for ``recurjac_plugin/graph/steps.py``, ``graph`` for its folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def imports_of(name: str) -> set[str]:
    """Names of the modules that a module imports, anywhere in its code."""
    path = MODULES[name]
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            parts = [*(["recurjac_plugin", *base] if node.level else []), *(node.module or "").split(".")]
            start = ".".join(part for part in parts if part)
            found |= {f"{start}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    inside = {each.removeprefix("recurjac_plugin.") for each in found if each.startswith("recurjac_plugin.")}
    return {each if each in MODULES else each.rpartition(".")[0] for each in inside} & MODULES.keys()


def folder_of(name: str) -> str:
    """The folder that a module belongs to; a module outside of folders is one by itself."""
    return name.partition(".")[0]
