"""Tables of pandas, which is imported when one is made, and the columns that say what a line is about."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recurjac_plugin.extras import need
from recurjac_plugin.plots.figures import labels

if TYPE_CHECKING:
    import pandas as pd


def data_frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    """A table of pandas.

    Raises:
        ExtraError: pandas is not installed.
    """
    need("pandas")
    pandas = importlib.import_module("pandas")
    frame: pd.DataFrame = pandas.DataFrame(columns)
    return frame


def entries(shape: tuple[int, ...], rows: Sequence[str] | None, inputs: Sequence[str] | None) -> dict[str, Any]:
    """The columns region, row and input of a table with one line for each entry of an array (b, k, n).

    Raises:
        InputError: there are more or fewer names than rows or inputs.
    """
    import numpy as np

    regions, count, columns = shape
    row = np.arange(count) if rows is None else np.asarray(labels(rows, count, "rows"))
    column = np.arange(columns) if inputs is None else np.asarray(labels(inputs, columns, "inputs"))
    return {
        "region": np.repeat(np.arange(regions), count * columns),
        "row": np.tile(np.repeat(row, columns), regions),
        "input": np.tile(column, regions * count),
    }
