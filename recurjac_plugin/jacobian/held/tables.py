"""Bounds of a Jacobian as tables: for pandas in long form, for papers and notebooks one region at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recurjac_plugin.errors import InputError
from recurjac_plugin.plots.figures import labels, signs_of
from recurjac_plugin.written.frames import data_frame, entries
from recurjac_plugin.written.markup import html_table, interval, latex_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_MOST_WRITTEN = 1000  # entries of a table of a paper
_CORNER = 6  # rows and inputs of a table of a notebook


def long_form(
    lower: np.ndarray,  # shape: (b, k, n)
    upper: np.ndarray,  # shape: (b, k, n)
    rows: Sequence[str] | None,
    inputs: Sequence[str] | None,
) -> pd.DataFrame:
    """One line for each entry: region, row, input, lower, upper, sign.

    Raises:
        InputError: names that are more or fewer than what they name.
        ExtraError: pandas is not installed.
    """
    found = {"lower": lower.ravel(), "upper": upper.ravel(), "sign": signs_of(lower, upper).ravel().astype("int8")}
    return data_frame(entries(lower.shape, rows, inputs) | found)


def for_papers(
    lower: np.ndarray,  # shape: (k, n)
    upper: np.ndarray,  # shape: (k, n)
    rows: Sequence[str] | None,
    inputs: Sequence[str] | None,
    digits: int,
) -> str:
    """A `tabular` of intervals, rows by inputs.

    Raises:
        InputError: more entries than one can read, digits below 1, or names that do not fit.
    """
    if lower.size > _MOST_WRITTEN:
        raise InputError(
            f"A table of up to {_MOST_WRITTEN} entries can be written, got {lower.size}: choose rows and inputs by an "
            "index, such as `bounds[:, :, :10]`."
        )
    if isinstance(digits, bool) or not isinstance(digits, int) or digits < 1:
        raise InputError(f"`digits` must be a whole number of at least 1, got {digits!r}.")
    head = ["", *labels(inputs, lower.shape[1], "inputs")]
    names = labels(rows, lower.shape[0], "rows")
    return latex_table(
        head,
        [
            [name, *(interval(low, high, digits) for low, high in zip(lows, highs, strict=True))]
            for name, lows, highs in zip(names, lower.tolist(), upper.tolist(), strict=True)
        ],
    )


def for_notebooks(
    lower: np.ndarray,  # shape: (k, n), at most one more each than are shown
    upper: np.ndarray,  # shape: (k, n)
    caption: str,
) -> str:
    """The first rows and inputs of one region, coloured by their signs."""
    sign, more, shown = signs_of(lower, upper), lower.shape[1] > _CORNER, min(lower.shape[1], _CORNER)
    table = [
        [
            (f"row {k}", 0),
            *((interval(float(lower[k, r]), float(upper[k, r]), 3), int(sign[k, r])) for r in range(shown)),
            *([("…", 0)] if more else []),
        ]
        for k in range(min(len(lower), _CORNER))
    ]
    if len(lower) > _CORNER:
        table.append([("…", 0)])
    head = ["", *(f"input {r}" for r in range(shown)), *(["…"] if more else [])]
    return html_table(caption, head, table)


def corner(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many rows and inputs of (b, k, n) `for_notebooks` looks at."""
    return min(shape[1], _CORNER + 1), min(shape[2], _CORNER + 1)
