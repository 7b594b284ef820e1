"""Which picture bounds of a region have: over an image, over a vector, or of all rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recurjac_plugin.errors import InputError
from recurjac_plugin.plots import heat_map, intervals, sign_map
from recurjac_plugin.plots.figures import labels

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


def drawn(
    bounds: tuple[np.ndarray, np.ndarray],  # shapes: (k, n)
    input_shape: tuple[int, ...],
    place: tuple[int | None, int],
    image_shape: tuple[int, ...] | None,
    title: str | None,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
) -> Figure:
    """The picture of one region's bounds, see `Bounds.plot`.

    Args:
        bounds: lower and upper.
        input_shape: of the inputs before they were flattened.
        place: the row, or None, and the region.
        image_shape: as it was given.
        title: as it was given.
        names: of the rows and of the inputs, as they were given.

    Raises:
        InputError: `image_shape` or names do not fit, or the bounds are not finite.
    """
    lower, upper = bounds
    row, region = place
    is_image = image_shape is not None or (len(input_shape) in (2, 3) and 1 not in input_shape[-2:])
    if row is None and (is_image or len(lower) == 1):
        row = 0
    if title is None:
        title = f"Jacobian bounds of {'all rows' if row is None else f'row {row}'}, region {region}"
    if is_image:
        shape = input_shape if image_shape is None else tuple(image_shape)
        if len(shape) not in (2, 3) or math.prod(shape) != lower.shape[1]:
            raise InputError(
                f"`image_shape` must be (h, w) or (c, h, w) with {lower.shape[1]} elements to draw an input of shape "
                f"{input_shape}, got {image_shape}."
            )
        image = (-1, *shape[-2:])
        return sign_map(lower[row].reshape(image), upper[row].reshape(image), title)
    rows, inputs = labels(names[0], len(lower), "rows"), labels(names[1], lower.shape[1], "inputs")
    if row is None:
        return heat_map(lower, upper, rows, inputs, title)
    return intervals(lower[row], upper[row], inputs, title)
