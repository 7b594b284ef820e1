"""The operators that are audited, with their attributes.

`SPECIMENS` has at least one for every row of the tables of activations, linear operators and products.
"""

from __future__ import annotations

from .arithmetic import ARITHMETIC
from .extremes import EXTREMES
from .functions import FUNCTIONS
from .images import IMAGES
from .rearrangements import REARRANGEMENTS
from .specimen import PLACES, Formula, Placed, Specimen

__all__ = ["PLACES", "SPECIMENS", "Formula", "Placed", "Specimen"]

SPECIMENS: tuple[Specimen, ...] = FUNCTIONS + ARITHMETIC + EXTREMES + IMAGES + REARRANGEMENTS
"""All specimens, functions of one variable first."""
