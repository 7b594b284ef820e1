"""Pictures, drawn without a display: what the library and the command line share."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

MOST_CHANNELS = 4
"""Of an image that can be drawn: each takes a line of panels."""

_RISING, _FALLING, _UNKNOWN = "#b2182b", "#2166ac", "#d9d9d9"  # the ends of the colour map, and neither


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    # Without pyplot: no display is looked for, and no global state is left behind.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def encoded(figure: Figure, form: str) -> bytes:
    """The content of a picture file; `form` is png, pdf or svg."""
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=150)
    return content.getvalue()


def sign_map(
    lower: np.ndarray,  # shape: (c, h, w)
    upper: np.ndarray,  # shape: (c, h, w)
    title: str,
) -> Figure:
    """Bounds over an image in the colours of one scale around 0, and beside them where the sign is known.

    Raises:
        InputError: too many channels to draw, or bounds that are not finite.
    """
    import numpy as np
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Patch

    if len(lower) > MOST_CHANNELS:
        raise InputError(f"Images of up to {MOST_CHANNELS} channels can be drawn, got {len(lower)}.")
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise InputError("The bounds contain NaN or infinite values, which cannot be drawn.")
    channels, height, width = lower.shape
    panel = (2.8, min(max(2.8 * height / width, 1.0), 5.6))
    figure = new_figure(3 * panel[0] + 1.2, channels * (panel[1] + 0.3) + 0.8)
    axes = figure.subplots(channels, 3, squeeze=False)
    largest = max(float(np.abs(lower).max()), float(np.abs(upper).max())) or 1.0
    scale = Normalize(-largest, largest)
    sign = (lower > 0).astype(int) - (upper < 0).astype(int)
    shared = ScalarMappable(scale, "RdBu_r")
    for channel, (low, high, third) in enumerate(axes):
        low.imshow(lower[channel], cmap="RdBu_r", norm=scale)
        high.imshow(upper[channel], cmap="RdBu_r", norm=scale)
        third.imshow(sign[channel], cmap=ListedColormap([_FALLING, _UNKNOWN, _RISING]), norm=Normalize(-1, 1))
        for each in (low, high, third):
            each.set_xticks([])
            each.set_yticks([])
        if channels > 1:
            low.set_ylabel(("red", "green", "blue")[channel] if channels == 3 else f"channel {channel}")
    for each, name in zip(axes[0], ("lower bound", "upper bound", "sign"), strict=True):
        each.set_title(name)
    figure.colorbar(shared, ax=list(axes[:, :2].flat), label="derivative")
    counts = ((_RISING, "positive", 1), (_FALLING, "negative", -1), (_UNKNOWN, "unknown", 0))
    figure.legend(
        handles=[Patch(color=colour, label=f"{name}: {(sign == value).sum()}") for colour, name, value in counts],
        loc="outside lower right",
        ncols=3,
    )
    figure.suptitle(title)
    return figure
