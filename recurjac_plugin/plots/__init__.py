"""Pictures of bounds, constants and searches: matplotlib figures, made without pyplot, nothing has to be closed.

Every function returns a `matplotlib.figure.Figure`: save it by ``figure.savefig("name.pdf")``, or let a notebook show
it. Colours can be told apart by colour-blind readers, and marks, dashes and hatches in grey.
"""

from .bars import comparison, method_bars
from .curves import certified_fractions, closing_gap, landscape_curves, lipschitz_curves
from .figures import encoded, new_figure
from .maps import MOST_CHANNELS, heat_map, sign_map
from .planes import boxes_2d
from .vectors import intervals

__all__ = [
    "MOST_CHANNELS",
    "boxes_2d",
    "certified_fractions",
    "closing_gap",
    "comparison",
    "encoded",
    "heat_map",
    "intervals",
    "landscape_curves",
    "lipschitz_curves",
    "method_bars",
    "new_figure",
    "sign_map",
]
