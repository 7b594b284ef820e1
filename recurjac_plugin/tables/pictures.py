"""Which picture a table has, by names and words alone, so that a saved table can be drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from recurjac_plugin.jacobian.methods import GLOBAL_METHODS
from recurjac_plugin.plots import comparison, lipschitz_curves, method_bars

from .constants import curves_of
from .measured import together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLED = "sampled"
"""The method of a row that says what points show."""

Rows = Sequence[Mapping[str, Any]]

_PANELS = {
    "jacobian_width": "mean width of the\nJacobian's bounds",
    "known_signs": "entries of\nknown sign",
    "lipschitz": "Lipschitz\nconstant",
    "output_width": "mean width of\nthe outputs' bounds",
    "seconds": "seconds",
}


class Picture(NamedTuple):
    """The picture of a table.

    Attributes:
        kind: a panel for each quantity, methods on a property, or constants against the radius.
        norms: of the radius and of the constants as they are written, for curves.
    """

    kind: Literal["panels", "property", "curves"]
    norms: tuple[str, str] = ("", "")

    def of(self, rows: Rows, title: str) -> Figure:
        """The picture of these rows."""
        if self.kind == "panels":
            return panels(rows, title)
        if self.kind == "property":
            return comparison([row for row in rows if row["method"] != SAMPLED], title)
        steps, curves = curves_of(rows)
        return lipschitz_curves(steps, curves, everywhere=GLOBAL_METHODS, norms=self.norms, title=title)


def panels(rows: Rows, title: str) -> Figure:
    """The picture of a comparison: a panel for each quantity, a line for what sampling found; all inputs as one."""
    rows = together(rows)
    known = [row for row in rows if row["unsupported"] is None and row["method"] != SAMPLED]
    columns = {label: {row["method"]: row[name] for row in known} for name, label in _PANELS.items()}
    columns = {label: values for label, values in columns.items() if any(v is not None for v in values.values())}
    (sampled,) = (row for row in rows if row["method"] == SAMPLED)
    limits = {label: sampled[name] for name, label in _PANELS.items() if sampled[name] is not None}
    return method_bars(columns or {"seconds": {}}, limits=limits, log=[_PANELS["seconds"]], title=title)
