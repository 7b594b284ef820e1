"""The folders of the package, what they import of each other, and how docs/architecture.md shows it.

    python docs/architecture.py

writes the table in docs/architecture.md and the picture above it again, after folders, the first lines of their
docstrings or their imports have changed. A test tells when that is.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "recurjac_plugin"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "pictures" / "architecture.png"
TABLE = re.compile(r"(?<=<!-- folders: python docs/architecture.py -->\n).*?(?=\n<!-- /folders -->)", re.DOTALL)


def name_of(path: Path) -> str:
    """Dotted name in the package: ``graph.steps`` for ``recurjac_plugin/graph/steps.py``, ``graph`` for its folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def imports_of(name: str) -> set[str]:
    """Names of the modules that a module imports, anywhere in its code."""
    path = MODULES[name]
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = ["recurjac_plugin", *here[: len(here) + 1 - node.level]] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            imported |= {f"{start}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    inside = {each.removeprefix("recurjac_plugin.") for each in imported if each.startswith("recurjac_plugin.")}
    return {each if each in MODULES else each.rpartition(".")[0] for each in inside} & MODULES.keys()


def folder_of(name: str) -> str:
    """The folder that a module belongs to; a module outside of folders is one by itself."""
    return name.partition(".")[0]


@dataclass(frozen=True)
class Folder:
    """A folder of the package, or a module outside of folders.

    Attributes:
        name: of the folder.
        modules: how many lie in it, its ``__init__`` included.
        says: the first line of its docstring.
        imports: every folder that it imports, directly or not.
        stands_on: those of them that none of the others imports, so that they name the rest: the arrows.
        level: how many imports lead to the bottom, on the longest way.
    """

    name: str
    modules: int
    says: str
    imports: frozenset[str]
    stands_on: frozenset[str]
    level: int

    @property
    def label(self) -> str:
        """As it stands in the tree."""
        return f"{self.name}/" if MODULES[self.name].name == "__init__.py" else f"{self.name}.py"

    @property
    def knows_the_host(self) -> bool:
        """Whether something in it can meet auto_LiRPA."""
        return "host" in self.imports | {self.name}


def folders() -> dict[str, Folder]:
    """All folders by name, each after what it imports.

    Raises:
        ValueError: folders import each other in a circle.
    """
    inside = {name: [each for each in MODULES if folder_of(each) == name] for name in map(folder_of, MODULES)}
    direct = {
        name: {folder_of(other) for each in modules for other in imports_of(each)} - {name}
        for name, modules in inside.items()
    }
    known: dict[str, Folder] = {}
    while waiting := direct.keys() - known.keys():
        ready = sorted(name for name in waiting if direct[name] <= known.keys())
        if not ready:
            raise ValueError(f"These folders import each other in a circle: {sorted(waiting)}.")
        for name in ready:
            below = [known[other] for other in direct[name]]
            further = frozenset().union(*(other.imports for other in below))
            known[name] = Folder(
                name,
                modules=len(inside[name]),
                says=(ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8"))) or "").partition("\n")[0],
                imports=frozenset(direct[name]) | further,
                stands_on=frozenset(direct[name]) - further,
                level=max((other.level + 1 for other in below), default=0),
            )
    return known


def table(known: dict[str, Folder]) -> str:
    """The folders from the top down, one a line."""
    lines = ["| | | modules | stands on |", "|---|---|---|---|"]
    for each in sorted(known.values(), key=lambda each: (-each.level, each.name)):
        stands_on = ", ".join(f"`{other}`" for other in sorted(each.stands_on)) or "–"
        lines.append(f"| `{each.label}` | {each.says} | {each.modules} | {stands_on} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from layered_picture import draw

    all_folders = folders()
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: table(all_folders), text), encoding="utf-8")
    draw(all_folders, PICTURE, description=table(all_folders))
