"""Pictures, drawn without a display, and bounds of a Jacobian as one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from .errors import InputError
from .extras import need

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

MOST_CHANNELS = 4
"""Most channels of an image that can be drawn: each takes a line of panels."""

_RISING, _FALLING, _UNKNOWN = "#b2182b", "#2166ac", "#d9d9d9"  # both ends of the map of colours, and a grey


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    need("matplotlib")
    # Without pyplot: no display is looked for, and no global state is left behind.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def encoded(figure: Figure, file_format: str) -> bytes:
    """The content of a picture file; `file_format` is png, pdf or svg."""
    content = io.BytesIO()
    figure.savefig(content, format=file_format, dpi=150)
    return content.getvalue()


def sign_map(
    lower: np.ndarray,  # shape: (c, h, w)
    upper: np.ndarray,  # shape: (c, h, w)
    title: str,
) -> Figure:
    """Bounds of a Jacobian's row over an image: both in one scale of colours around 0, and the sign where it is known.

    An entry's sign is positive where ``lower > 0``, negative where ``upper < 0``, else unknown.

    Raises:
        ExtraError: matplotlib is not installed.
        InputError: too many channels to draw, or bounds that are not finite.
    """
    need("matplotlib")
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
        for panel_axes in (low, high, third):
            panel_axes.set_xticks([])
            panel_axes.set_yticks([])
        if channels > 1:
            low.set_ylabel(("red", "green", "blue")[channel] if channels == 3 else f"channel {channel}")
    for top, name in zip(axes[0], ("lower bound", "upper bound", "sign"), strict=True):
        top.set_title(name)
    figure.colorbar(shared, ax=list(axes[:, :2].flat), label="derivative")
    counts = ((_RISING, "positive", 1), (_FALLING, "negative", -1), (_UNKNOWN, "unknown", 0))
    figure.legend(
        handles=[Patch(color=colour, label=f"{name}: {(sign == value).sum()}") for colour, name, value in counts],
        loc="outside lower right",
        ncols=3,
    )
    figure.suptitle(title)
    return figure
