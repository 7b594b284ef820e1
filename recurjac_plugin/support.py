"""The table of what is supported, from the tables that decide it: ``python -m recurjac_plugin.support``."""

from __future__ import annotations

import sys

from .activations import ACTIVATIONS
from .methods import HOST_METHODS, METHODS
from .multivariate import MULTIVARIATE
from .operators import OPERATORS


def support_table() -> str:
    """Methods, activations and operators as a Markdown table."""
    rows = (
        ("Methods", ", ".join(f"`{name}`" for name in METHODS)),
        ("Prefixes", ", ".join(f"`{name}+`" for name in HOST_METHODS)),
        ("Activations", ", ".join(sorted(activation.name for activation in ACTIVATIONS.values()))),
        ("Linear operators", ", ".join(sorted({kind.removeprefix("Bound") for kind in OPERATORS}))),
        ("Products and extremes", ", ".join(sorted({kind.removeprefix("Bound") for kind in MULTIVARIATE}))),
    )
    return "\n".join(("| | |", "|---|---|", *(f"| {name} | {values} |" for name, values in rows)))


if __name__ == "__main__":
    sys.stdout.write(support_table() + "\n")
