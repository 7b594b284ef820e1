"""What the site has beyond the pages in docs/: formulas as MathML, sources that pages link to, the commands' options.

MkDocs calls the functions whose names begin with ``on_`` (mkdocs.yml, `hooks`). Nothing on the site is loaded from
elsewhere: formulas are MathML, which browsers draw by themselves, and a link to a file outside of the pages leads to a
page that shows it.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files, InclusionLevel
from typer.cli import app as typer_app
from typer.testing import CliRunner

ROOT = Path(__file__).parent.parent
COMMANDS = "reference/commands.md"
ROOT_PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md"}
"""Pages of the site that are files at the top of the repository."""

_LINK = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+)(?=[)#])")
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?:\\\(|\\\[)(?P<tex>.*?)(?:\\\)|\\\])</(?P=tag)>', re.DOTALL
)
_BAR = re.compile(r'<mo(?: stretchy="false")?>(&#x02016;|&#x0007C;)</mo>')  # of norms and of absolute values
_PRIMED = re.compile(r"<msup>(<mi>\w</mi>)<mi>(&#x02032;)</mi></msup>")
_LANGUAGES = {".py": "python", ".sh": "bash"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the top, one for every file that is linked to, and that of the commands."""
    for page, name in ROOT_PAGES.items():
        shown = page in str(config.nav)
        files.append(_generated(config, page, (ROOT / name).read_text(encoding="utf-8"), in_nav=shown))
    files.append(_generated(config, COMMANDS, commands(), in_nav=True))
    wanted = {
        path
        for file in files.documentation_pages()
        for found in _LINK.finditer(file.content_string)
        if (path := linked_file(found["target"], file.src_uri)) is not None
    }
    for path in sorted(wanted):
        if files.get_file_from_path(page_of(path)) is None:
            files.append(_generated(config, page_of(path), source(path), in_nav=False))
    return files


def _generated(config: Any, page: str, content: str, in_nav: bool) -> File:
    inclusion = InclusionLevel.INCLUDED if in_nav else InclusionLevel.NOT_IN_NAV
    return File.generated(config, page, content=content, inclusion=inclusion)


def source(path: str) -> str:
    """A page that shows a file of the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = _LANGUAGES.get(Path(path).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n# `{path}`\n\n````{language}\n{text}````\n"


def commands() -> str:
    """Every command with its arguments and options, as typer writes them."""
    os.environ["COLUMNS"] = "120"
    shown = CliRunner().invoke(typer_app, ["recurjac_plugin.cli.app", "utils", "docs", "--name", "recurjac"])
    if shown.exit_code != 0:
        raise RuntimeError(f"typer did not write the commands: {shown.output}")
    return shown.output.replace("# `recurjac`\n", "# Commands\n", 1)


def linked_file(target: str, page: str) -> str | None:
    """The file of the repository that a page's relative link leads to, if it is none of the pages in docs/."""
    path = posixpath.normpath(posixpath.join(_folder(page), target))
    in_docs = path.startswith("docs/") and not path.endswith(".py")
    return None if path.startswith("..") or in_docs or not (ROOT / path).is_file() else path


def page_of(path: str) -> str:
    """Where the site shows a file of the repository."""
    if path.startswith("docs/") and not path.endswith(".py"):
        return path.removeprefix("docs/")
    named = {name: page for page, name in ROOT_PAGES.items()} | {"README.md": "index.md"}
    return named.get(path, f"source/{path}" if path.endswith(".md") else f"source/{path}.md")


def _folder(page: str) -> str:
    """The folder of the repository that links of a page begin in."""
    if page in ROOT_PAGES:
        return "."
    if page.startswith("source/"):
        return posixpath.dirname(page.removeprefix("source/")) or "."
    return posixpath.join("docs", posixpath.dirname(page))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links to files of the repository lead to the pages that show them."""
    here = page.file.src_uri

    def moved(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(_folder(here), found["target"]))
        if not (ROOT / path).is_file():
            return found["target"]
        return posixpath.relpath(page_of(path), posixpath.dirname(here) or ".")

    return _LINK.sub(moved, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML."""

    def drawn(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return f'<{found["tag"]} class="formula">{mathml(html.unescape(found["tex"]), display)}</{found["tag"]}>'

    return _FORMULA.sub(drawn, content)


def mathml(formula: str, display: str) -> str:
    """TeX as MathML, its bars as high as a line and without space around them, its primes raised once."""
    found = convert(formula.strip(), display=display)
    found = _BAR.sub(r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', found)
    return _PRIMED.sub(r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', found)
