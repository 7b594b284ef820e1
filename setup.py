"""The long description: the README, with links that hold outside of the repository.

Everything else about the package stands in pyproject.toml. Where that has a `Source` among its URLs, links to files
lead there; without one they are left as words.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
_LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?P<target>[^):]+)\)")
_SOURCE = re.compile(r'^Source = "(.+?)/?"$', re.MULTILINE)


def source() -> str | None:
    """Where the repository is, if pyproject.toml says so."""
    found = _SOURCE.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return None if found is None else found[1]


def long_description(repository: str | None) -> str:
    """The README with links to files of the repository made absolute, or left out."""

    def outward(link: re.Match[str]) -> str:
        if repository is None:
            return "" if link["picture"] else link["words"]
        kind = "raw" if link["picture"] else "blob"
        return f"{link['picture']}[{link['words']}]({repository}/{kind}/main/{link['target']})"

    return _LINK.sub(outward, README.read_text(encoding="utf-8"))


if __name__ == "__main__":
    setup(long_description=long_description(source()), long_description_content_type="text/markdown")
