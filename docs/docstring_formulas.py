"""Docstrings of the package as the site shows them: formulas of reStructuredText become TeX between dollars."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

_FORMULA = re.compile(
    r"^(?P<margin> *)\.\. math::(?P<first>.*)\n(?P<rest>(?:(?P=margin) +\S.*\n|[ ]*\n(?=(?P=margin) +\S))*)",
    re.MULTILINE,
)


def with_formulas(text: str) -> str:
    r"""A docstring whose ``.. math::`` blocks are paragraphs between ``$$``."""

    def block(found: re.Match[str]) -> str:
        lines = [found["first"], *dedent(found["rest"]).splitlines()]
        formula = " ".join(line.strip() for line in lines if line.strip())
        return f"\n{found['margin']}$$ {formula} $$\n\n"

    return _FORMULA.sub(block, text + "\n").rstrip()


class DocstringFormulas(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = with_formulas(obj.docstring.value)
