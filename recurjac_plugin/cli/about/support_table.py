"""What is supported, as a table: ``python -m recurjac_plugin.cli.about.support_table``."""

from __future__ import annotations

import sys

from recurjac_plugin.activations.jumps import JUMPS
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.forms.writing import FORMS
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.graph.products import PRODUCTS
from recurjac_plugin.jacobian.methods import HOST_METHODS, METHODS


def markdown_table() -> str:
    """Methods, activations and operators as a Markdown table."""
    rows = (
        ("Methods", ", ".join(f"`{name}`" for name in METHODS)),
        ("Prefixes", ", ".join(f"`{name}+`" for name in HOST_METHODS)),
        ("Activations", ", ".join(sorted(activation.name for activation in ACTIVATIONS.values()))),
        ("Linear operators", ", ".join(sorted({kind.removeprefix("Bound") for kind in OPERATORS}))),
        ("Written out when traced", ", ".join(sorted({name.strip("_") for name in FORMS}))),
        ("Piecewise constant: outputs and verdicts alone", ", ".join(sorted(jump.name for jump in JUMPS.values()))),
        ("Products and extremes", ", ".join(sorted({kind.removeprefix("Bound") for kind in PRODUCTS}))),
    )
    return "\n".join(("| | |", "|---|---|", *(f"| {name} | {values} |" for name, values in rows)))


if __name__ == "__main__":
    sys.stdout.write(markdown_table() + "\n")
