"""Operators that a host has no node for, or takes apart.

These are Ceil and Round, and on 0.3 Sign, Floor, Max, Min and ReduceMin, ReduceMax along several axes, and Softmax as a
whole. Taken apart, a softmax is a quotient of exponentials that share their inputs, of which bounds do not know.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.jumps import JUMPS
from recurjac_plugin.host.library import IS_03, Bound, bound_ops

from .kinds.treatment import Treatment
from .treatments import JUMP, PRODUCT


class _Whole(Bound):
    """A node that is bounded by ours alone."""

    treatment: Treatment = PRODUCT

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0, options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        attributes = attr or {}
        self.axis = attributes.get("axis", attributes.get("axes"))
        self.keepdim = bool(attributes.get("keepdims", True))

    @property
    def requires_input_bounds(self) -> list[int]:
        """Positions of the inputs whose bounds CROWN needs."""
        return self.treatment.requires_input_bounds(self)

    @requires_input_bounds.setter
    def requires_input_bounds(self, value: Any) -> None:
        """The host's constructor sets it."""

    def infer_batch_dim(self, batch_size: int, *x: int) -> int:
        """The batch stands first wherever an input has one."""
        return max(x)

    def interval_propagate(self, *v: Any) -> Any:
        """IBP."""
        return self.treatment.interval_propagate(self, *v)

    def bound_backward(self, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        """CROWN."""
        return self.treatment.bound_backward(self, last_lA, last_uA, *x, **kwargs)


class BoundMax(_Whole):
    """`onnx::Max` of two tensors."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The function itself."""
        return torch.maximum(x, y)


class BoundMin(_Whole):
    """`onnx::Min` of two tensors."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The function itself."""
        return torch.minimum(x, y)


class BoundReduceMax(_Whole):
    """`onnx::ReduceMax`."""

    def forward(self, x: Tensor, *axes: Any) -> Tensor:
        """The function itself."""
        return torch.amax(x.as_subclass(Tensor), self._axes(x, *axes), self.keepdim)

    def _axes(self, x: Tensor, *given: Any) -> Any:
        if given:  # from operator set 18 on, which torch writes after it has exported a network
            self.axis = [int(axis) for axis in given[0].reshape(-1)]
        return list(range(1, x.dim())) if self.axis is None else self.axis


class BoundReduceMin(BoundReduceMax):
    """`onnx::ReduceMin`."""

    def forward(self, x: Tensor, *axes: Any) -> Tensor:
        """The function itself."""
        return torch.amin(x.as_subclass(Tensor), self._axes(x, *axes), self.keepdim)


class BoundReduceLogSumExp(BoundReduceMax):
    """`onnx::ReduceLogSumExp`."""

    def forward(self, x: Tensor, *axes: Any) -> Tensor:
        """The function itself."""
        return torch.logsumexp(x.as_subclass(Tensor), self._axes(x, *axes), self.keepdim)


class BoundSoftmax(_Whole):
    """`onnx::Softmax`."""

    def forward(self, x: Tensor) -> Tensor:
        """The function itself."""
        return torch.softmax(x, -1 if self.axis is None else self.axis)


class _Jump(_Whole):
    """A piecewise constant function, by its row of the table."""

    treatment = JUMP

    def forward(self, x: Tensor) -> Tensor:
        """The function itself."""
        return JUMPS[type(self).__name__].function(x)


_JUMPS = tuple(type(kind, (_Jump,), {"__doc__": f"`onnx::{kind.removeprefix('Bound')}`."}) for kind in JUMPS)

LACKING: dict[str, type] = {
    f"onnx::{ours.__name__.removeprefix('Bound')}": ours
    for ours in (BoundMax, BoundMin, BoundReduceMax, BoundReduceMin, BoundReduceLogSumExp, BoundSoftmax, *_JUMPS)
    if not hasattr(bound_ops, ours.__name__) or (IS_03 and ours in (BoundReduceMax, BoundSoftmax))
}
"""Name of the operator in the host's traced graph -> class of its node, for those that this host has not as a whole."""
