"""The boxes on which specimens are bounded: intervals of all widths, at all distances from 0, in one batch.

Interval i of a box of width w at offset o is ``[o - t_i w, o + (1 - t_i) w]`` with ``t_i`` from ``1/2, 0, 1, 5/16`` in
turn, so that a kink at o is crossed, and touched from both sides. In mixed boxes every second interval has another
width.

Source: own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from math import prod

import torch
from torch import Tensor

from .specimens.specimen import LEAK, Specimen

_NEAR = 30.0
_FEW = 16  # coordinates
_PLACEMENTS = (0.5, 0.0, 1.0, 0.3125)


@dataclass(frozen=True)
class Grid:
    """Which boxes.

    Attributes:
        widths: of all intervals of a box.
        offsets: numbers at which they lie; those near which something happens to a specimen are added.
        mixed: pairs of widths.
    """

    widths: Sequence[float]
    offsets: Sequence[float]
    mixed: Sequence[tuple[float, float]]

    def thinned(self) -> Grid:
        """Every second width, offset and pair, for networks with many neurons."""
        return Grid(self.widths[::2], self.offsets[::2], self.mixed[::2])


FULL = Grid(
    (0.0, 1e-12, 1e-10, 1e-9, 0.9e-8, 1e-7, 9e-7, 1e-5, 1e-3, 0.1, 1.0, 10.0, 1e3),
    (0.0, -0.3, 0.3, 2.0, -2.0, -30.0, 30.0, 1e3, -1e3, -1e5, 1e5),
    ((0.0, 1.0), (9e-7, 1.0), (0.0, 9e-7), (1.0, 10.0), (1e-9, 1e-3), (10.0, 1e3)),
)
"""From a point to 1e3, up to 1e5 away from 0."""

SMALL = Grid((0.0, 1e-9, 9e-7, 0.1, 10.0), (0.0, -2.0, 0.3, 1e3), ((9e-7, 1.0),))
"""A few of each, for quick tests."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """A batch of boxes.

    Attributes:
        lower, upper: their ends, shape (b, *shape).
        widths, offsets: what they were made from, by number of the box.
    """

    lower: Tensor
    upper: Tensor
    widths: tuple[tuple[float, float], ...]
    offsets: tuple[float, ...]

    def at(self, i: int) -> tuple[Tensor, Tensor]:
        """The ends of box i, as a batch of one."""
        return self.lower[i : i + 1], self.upper[i : i + 1]

    def near(self) -> list[int]:
        """Numbers of the boxes that are neither far from 0 nor wide: what fails on others may be bounded on these."""
        boxes = zip(self.widths, self.offsets, strict=True)
        return [i for i, (widths, offset) in enumerate(boxes) if max(*widths, abs(offset)) <= _NEAR]

    def chosen(self, numbers: Sequence[int]) -> Boxes:
        """Some of the boxes."""
        widths, offsets = (tuple(values[i] for i in numbers) for values in (self.widths, self.offsets))
        return Boxes(self.lower[numbers], self.upper[numbers], widths, offsets)  # type: ignore[arg-type]

    def where(self, i: int) -> str:
        """Box i in words."""
        width = " and ".join(f"{w:g}" for w in dict.fromkeys(self.widths[i]))
        return f"width {width} at {self.offsets[i]:g}"


def boxes_of(specimen: Specimen, shape: tuple[int, ...], grid: Grid, dtype: torch.dtype) -> Boxes:
    """All boxes of a grid that lie in a specimen's domain, also behind a leaky ReLU.

    Args:
        specimen: the specimen.
        shape: of the boxes.
        grid: which boxes.
        dtype: number type of their ends.
    """
    grid = grid if prod(shape) <= _FEW else grid.thinned()
    pairs = [(w, w) for w in grid.widths]
    offsets = (*grid.offsets, *specimen.points)
    chosen = [(o, pair) for o in offsets for pair in pairs] + [(o, p) for o in offsets[:3] for p in grid.mixed]
    count = prod(shape)
    placements = torch.tensor([*islice(cycle(_PLACEMENTS), count)], dtype=torch.float64)
    lower, upper = [], []
    for offset, pair in chosen:
        width = torch.tensor([*islice(cycle(pair), count)], dtype=torch.float64)
        lower.append(offset - placements * width)
        upper.append(lower[-1] + width)
    low, high = (torch.stack(ends).to(dtype) for ends in (lower, upper))
    high = torch.maximum(low, high)
    fits = (_leaked(low, -1).amin(1) >= specimen.domain[0]) & (_leaked(high, 1).amax(1) <= specimen.domain[1])
    kept = fits.nonzero().flatten().tolist()
    return Boxes(
        low[kept].reshape(-1, *shape),
        high[kept].reshape(-1, *shape),
        tuple(chosen[i][1] for i in kept),
        tuple(chosen[i][0] for i in kept),
    )


def _leaked(ends: Tensor, side: int) -> Tensor:
    """The farther of an end and of its image under the leaky ReLU, below (-1) or above (1)."""
    image = torch.where(ends < 0, LEAK * ends, ends)
    return torch.minimum(ends, image) if side < 0 else torch.maximum(ends, image)
