"""Which regions and rows are left where bounds are indexed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

AXES = ("region", "row")
"""The leading axes of bounds of a Jacobian, before those of the input."""


def left_by(index: Any, axes: tuple[str, ...], shape: torch.Size) -> tuple[tuple[str, ...], list[int]]:
    """What is left of the leading axes, and which regions are chosen.

    A whole number takes an axis away; slices, and one list or mask of an axis, choose on it. What pairs axes up or adds
    one (a mask of several axes, two lists, None) leaves no region or row as such.

    Args:
        index: as a tensor takes it.
        axes: the leading axes before: those of `AXES` that are still there.
        shape: of the tensors.

    Returns:
        The leading axes that are left, and the numbers of the regions chosen; none where regions have been paired up,
        or were chosen before.
    """
    given = list(index) if isinstance(index, tuple) else [index]
    places = [place for place, part in enumerate(given) if part is Ellipsis]
    if places:
        given[places[0] : places[0] + 1] = [slice(None)] * (len(shape) - len(given) + 1)
    kinds = [_kind(part) for part in given]
    if "other" in kinds or kinds.count("list") > (0 if "number" in kinds else 1):
        return (), []
    kinds += ["slice"] * (len(axes) - len(kinds))
    left = tuple(axis for axis, kind in zip(axes, kinds) if kind != "number")
    if axes[:1] != AXES[:1]:
        return left, []
    first = given[0] if given else slice(None)
    chosen = torch.arange(shape[0])[first.cpu() if isinstance(first, Tensor) else first]
    return left, chosen.reshape(-1).tolist()


def _kind(part: Any) -> str:
    if isinstance(part, slice):
        return "slice"
    if part is None or part is Ellipsis or isinstance(part, bool):
        return "other"
    if isinstance(part, Sequence) or hasattr(part, "shape"):
        found = torch.as_tensor(part)
        return {0: "number" if found.dtype != torch.bool else "other", 1: "list"}.get(found.dim(), "other")
    return "number"
