"""Docstrings of the package as the site shows them: formulas as TeX between dollars, one attribute a line."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

_FORMULA = re.compile(
    r"^(?P<margin> *)\.\. math::(?P<first>.*)\n(?P<rest>(?:(?P=margin) +\S.*\n|[ ]*\n(?=(?P=margin) +\S))*)",
    re.MULTILINE,
)
_WITHIN = re.compile(r":math:`(.+?)`")
_SEVERAL = re.compile(r"^    (?P<names>\w+(?:, \w+)+): (?P<text>.*\n(?:     +\S.*\n)*)", re.MULTILINE)
_ATTRIBUTES = re.compile(r"^Attributes:\n(?:    .*\n)*", re.MULTILINE)


def as_markdown(text: str) -> str:
    r"""A docstring whose ``.. math::`` blocks are paragraphs between ``$$``, and whose attributes have a line each."""

    def block(found: re.Match[str]) -> str:
        lines = [found["first"], *dedent(found["rest"]).splitlines()]
        formula = " ".join(line.strip() for line in lines if line.strip())
        return f"\n{found['margin']}$$ {formula} $$\n\n"

    def one_each(found: re.Match[str]) -> str:
        return "".join(f"    {name}: {found['text']}" for name in found["names"].split(", "))

    text = _ATTRIBUTES.sub(lambda found: _SEVERAL.sub(one_each, found[0]), text + "\n")
    return _WITHIN.sub(r"$\1$", _FORMULA.sub(block, text)).rstrip()


class DocstringFormulas(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
