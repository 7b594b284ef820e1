"""Tables for notebooks and papers; numbers of bounds are rounded outward wherever they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from html import escape

from recurjac_plugin.plots.figures import FALLING, RISING

_NAMED = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater", "|": "bar"}
_LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {c: rf"\text{name}{{}}" for c, name in _NAMED.items()})

_INFINITY, _NO_NUMBER = r"\infty", r"\mathrm{nan}"


def interval(lower: float, upper: float, digits: int) -> str:
    """``[lower, upper]`` in so many digits, the lower end rounded down and the upper one up."""
    return f"[{_rounded(lower, digits, ROUND_FLOOR)}, {_rounded(upper, digits, ROUND_CEILING)}]"


def _rounded(value: float, digits: int, rounding: str) -> str:
    number = Decimal(value)
    if not number:
        return "0"  # of either sign
    if not number.is_finite():
        return str(value)
    return format(Context(prec=digits, rounding=rounding).plus(number), "g")


def html_table(caption: str, header: Iterable[str], rows: Iterable[Iterable[tuple[str, int]]]) -> str:
    """A table for notebooks, each cell a text and the sign that colours it."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(cell: tuple[str, int]) -> str:
    text, sign = cell
    style = f' style="color: {RISING if sign > 0 else FALLING}"' if sign else ""
    return f"<td{style}>{escape(text)}</td>"


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A `tabular` of names in the first row and column, and formulas elsewhere."""
    lines = [r"\begin{tabular}{l" + "c" * (len(header) - 1) + "}", _latex_row(map(_plain, header)), r"\hline"]
    lines += [_latex_row([_plain(name), *map(_formula, cells)]) for name, *cells in rows]
    return "\n".join([*lines, r"\end{tabular}"])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _formula(text: str) -> str:
    text = re.sub(r"e([+-]?)0*([0-9]+)", _power, text)
    return f"${text.replace('inf', _INFINITY).replace('nan', _NO_NUMBER)}$"


def _power(exponent: re.Match[str]) -> str:
    return rf"\cdot 10^{{{exponent[1].replace('+', '')}{exponent[2]}}}"


def _plain(text: str) -> str:
    return text.translate(_LATEX)
