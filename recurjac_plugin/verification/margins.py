"""How far a property is from being violated on a box: lower bounds of ``A f(x) - b``, and what they prove.

A property's disjunct is a conjunction ``A y <= b``. It cannot be met on a box if *one* of its rows is larger than its
right side everywhere on the box. All rows of all disjuncts of a box are bounded together, as one specification matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurjac_plugin.host.region import perturbed_box
from recurjac_plugin.lipschitz.mean_value import output_bounds
from recurjac_plugin.numerics.rounding import PROOF
from recurjac_plugin.properties.spec import Box


@dataclass(frozen=True, eq=False)
class Margins:
    r"""Bounds of the rows of one box, over all its disjuncts.

    A row k is proved to be violated where ``lower_k > slack_k``, with

    .. math:: \text{slack}_k = d \sum_j |A_{kj}|
        + 64 \varepsilon \Big(\sum_j |A_{kj} f_j(x_0)| + |b_k| + |A_k f(x_0) - b_k - \text{lower}_k|\Big),

    where eps is the number type's, x0 the middle of the box, and d the largest difference between the network's outputs
    here and those of the reference that a counterexample is replayed on. It is an estimate, not a proof: directed
    rounding is what torch does not have. The factor is generous: on 50 VNN-COMP instances of all categories bounds in
    float32 rose above those in float64 by at most 7 units of the bracket times eps.

    Attributes:
        box: the box.
        lower: float64 [k], lower bounds of ``A y - b``; -inf where the method gave no finite number.
        slack: float64 [k], what rounding may be responsible for.
    """

    box: Box
    lower: np.ndarray
    slack: np.ndarray

    @property
    def worst(self) -> float:
        """The smallest, over the disjuncts, of the largest bound of a row: positive means all are excluded."""
        return min((float(self.lower[rows].max()) for rows in self._rows()), default=math.inf)

    def excluded(self) -> tuple[bool, ...]:
        """For every disjunct, whether no output of the box lies in it."""
        # A strict row is excluded by equality, too, where nothing was rounded (a row of zeros).
        strict = np.concatenate([polytope.strict for polytope in self.box.disjuncts])
        proved = (self.lower > self.slack) | (strict & (self.lower >= self.slack))
        return tuple(bool(proved[rows].any()) for rows in self._rows())

    def _rows(self) -> Iterator[slice]:
        """The rows that belong to each disjunct."""
        first = 0
        for polytope in self.box.disjuncts:
            yield slice(first, first + len(polytope.b))
            first += len(polytope.b)


def box_margins(
    model: Any,
    box: Box,
    *,
    method: str,
    input_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    difference: float = 0.0,
) -> Margins:
    """Bound every row of every disjunct of a box.

    Args:
        model: auto_LiRPA's `BoundedModule`.
        box: input bounds and disjuncts.
        method: as in `output_bounds`.
        input_shape: shape of one input, without the batch dimension.
        dtype: the model's.
        device: the model's.
        difference: d of `Margins`, in units of the outputs.

    Raises:
        InputError: the box is not finite in `dtype`.
        MethodError: unknown method.
        UnsupportedError: parts of the network have no rule.
    """
    x = box_region(box, input_shape, dtype, device)
    A, b = box_rows(box)
    rows = torch.from_numpy(A).to(device, dtype).unsqueeze(0)
    with torch.no_grad():
        bounds = output_bounds(model, x, method=method, C=rows)[0]
        center = model(x.as_subclass(Tensor)).flatten(1)[0].double().cpu().numpy()
    lower = bounds[0].double().cpu().numpy() - b
    lower = np.where(np.isfinite(lower), lower, -np.inf)
    fallen = np.where(np.isfinite(lower), np.abs(A @ center - b - lower), 0.0)
    scale = np.abs(A) @ np.abs(center) + np.abs(b) + fallen
    slack = difference * np.abs(A).sum(1) + PROOF * torch.finfo(dtype).eps * scale
    return Margins(box, lower, slack)


def box_rows(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """All rows of all disjuncts, below each other: A [k, n_outputs] and b [k]."""
    return np.concatenate([p.A for p in box.disjuncts]), np.concatenate([p.b for p in box.disjuncts])


def box_region(box: Box, input_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
    """The box as a perturbed input of the host, shape (1, *input_shape), never smaller than the box.

    Bounds that are no numbers of type `dtype` are rounded outward; open bounds are taken as closed.
    """
    shape = (1, *input_shape)
    low, high = (torch.from_numpy(end).to(device, dtype).reshape(shape) for end in rounded_outward(box, dtype))
    return perturbed_box(low, high)


def rounded_outward(box: Box, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The box's ends as numbers of type `dtype`, rounded outward where they are none, [n_inputs] each."""
    narrow = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
    with np.errstate(over="ignore"):
        lower, upper = box.lower.astype(narrow), box.upper.astype(narrow)
    lower = np.where(lower > box.lower, np.nextafter(lower, np.asarray(-np.inf, narrow)), lower)
    return lower, np.where(upper < box.upper, np.nextafter(upper, np.asarray(np.inf, narrow)), upper)
