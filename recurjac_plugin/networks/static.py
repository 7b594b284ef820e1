"""ONNX operators whose parameters are constants of the file, as modules that hold these as Python numbers.

onnx2pytorch computes such parameters (axes, shapes, pads, positions) with tensors on every call. The host would trace
that arithmetic into the graph, and torch warns of it; for Slice and Gather it also relies on indexing that torch is
about to drop. Here every such operator is one torch function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from onnx import NodeProto

Apply = Callable[[Tensor], Tensor]


class Static(nn.Module):
    """One torch function ``f(x)`` of one tensor."""

    def __init__(self, apply: Apply) -> None:
        super().__init__()
        self.apply_to = apply

    def forward(self, x: Tensor, *_parameters: Tensor) -> Tensor:
        """``f(x)``; the operator's other inputs are the constants that f was made from."""
        return self.apply_to(x)


class Take(nn.Module):
    """``x[..., index, ...]`` along one axis, positions in any order."""

    index: Tensor

    def __init__(self, axis: int, index: np.ndarray) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64))

    def forward(self, x: Tensor, *_parameters: Tensor) -> Tensor:
        """`x` at the positions."""
        return x.index_select(self.axis, self.index)


class Fold(nn.Module):
    """An operator of two tensors for any number of them: ``op(op(a, b), c)``."""

    def __init__(self, operator: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, *values: Tensor) -> Tensor:
        """The operator applied from left to right."""
        return functools.reduce(self.operator, values)


@dataclass(frozen=True)
class _Operator:
    """A node with its attributes, the constants among its inputs, and the shape of its first input (0: unknown)."""

    node: NodeProto
    attributes: dict[str, Any]
    constants: dict[str, np.ndarray]
    shape: tuple[int, ...] | None

    def parameter(self, name: str, position: int) -> np.ndarray | None:
        """A parameter, given as an attribute by older operator sets and as an input by newer ones; None if computed."""
        if name in self.attributes:
            return np.asarray(self.attributes[name])
        inputs = self.node.input
        return self.constants.get(inputs[position]) if position < len(inputs) else None

    def given(self, position: int) -> bool:
        """Whether there is an input at this position."""
        return position < len(self.node.input) and self.node.input[position] != ""


def static_module(
    node: NodeProto, constants: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> nn.Module | None:
    """A module for a node whose parameters are constants, or None where the converter's own is to be kept.

    Args:
        node: any node.
        constants: values of initializers and Constant nodes by name.
        shapes: shapes that are known by name, 0 for an unknown size.
    """
    from onnx import helper

    build = _BUILDERS.get(node.op_type)
    if build is None:
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    built = build(_Operator(node, attributes, constants, shapes.get(node.input[0])))
    return built if built is None or isinstance(built, nn.Module) else Static(built)


def _softmax(operator: _Operator) -> Apply | None:
    """Along the last axis: before operator set 13 all axes from the given one on, which is the same there."""
    if not operator.shape:
        return None
    axis = operator.attributes.get("axis", 1)
    last = axis % len(operator.shape) == len(operator.shape) - 1 and "axis" in operator.attributes
    return partial(torch.softmax, dim=-1) if last else None


def _selu(operator: _Operator) -> Apply:
    alpha = operator.attributes.get("alpha", 1.6732632423543772)
    gamma = operator.attributes.get("gamma", 1.0507009873554805)
    return lambda x: gamma * torch.nn.functional.elu(x, alpha)


def _prelu(operator: _Operator) -> nn.Module | None:
    slope, shape = operator.parameter("slope", 1), operator.shape
    one_a_feature = slope is not None and shape is not None and len(shape) == 2 and slope.shape == shape[1:]
    if slope is None or not (slope.size == 1 or one_a_feature):
        return None
    module = nn.PReLU(slope.size)
    module.weight = nn.Parameter(torch.tensor(slope).flatten())
    return Static(module)


def _flatten(operator: _Operator) -> Apply | None:
    axis = operator.attributes.get("axis", 1)
    if axis == 0:
        return partial(torch.reshape, shape=(1, -1))
    return partial(torch.flatten, start_dim=1) if axis == 1 else None


def _reshape(operator: _Operator) -> Apply | None:
    shape = operator.parameter("shape", 1)
    return None if shape is None or 0 in shape else partial(torch.reshape, shape=_ints(shape))


def _expand(operator: _Operator) -> Apply | None:
    shape = operator.parameter("shape", 1)
    if shape is None or operator.shape is None or len(shape) != len(operator.shape):
        return None
    return lambda x: x.expand([-1 if size == 1 else size for size in _ints(shape)])


def _pad(operator: _Operator) -> nn.Module | Apply | None:
    pads, value = operator.parameter("pads", 1), operator.parameter("value", 2)
    computed = pads is None or operator.given(3) or (operator.given(2) and value is None)
    if computed or operator.attributes.get("mode", b"constant") != b"constant":
        return None
    assert pads is not None
    if not pads.any():
        return nn.Identity()
    ends = [end for pair in zip(*np.split(pads, 2), strict=True) for end in pair[::-1]]  # (end, begin) per axis
    return partial(nn.functional.pad, pad=_ints(ends[::-1]), value=0.0 if value is None else float(value))


def _slice(operator: _Operator) -> nn.Module | Apply | None:
    starts, ends = operator.parameter("starts", 1), operator.parameter("ends", 2)
    axes, steps = operator.parameter("axes", 3), operator.parameter("steps", 4)
    computed = (operator.given(3) and axes is None) or (operator.given(4) and steps is None)
    if starts is None or ends is None or computed or not operator.shape:
        return None
    axes = np.arange(len(starts)) if axes is None else axes % len(operator.shape)
    steps = np.ones(len(starts), dtype=np.int64) if steps is None else steps
    if any(operator.shape[axis] == 0 for axis in axes):
        return None
    modules: list[nn.Module] = []
    for start, end, axis, step in zip(*map(_ints, (starts, ends, axes, steps)), strict=True):
        positions = range(operator.shape[axis])[start:end:step]
        if step == 1:
            modules.append(Static(partial(torch.narrow, dim=axis, start=positions.start, length=len(positions))))
        else:
            modules.append(Take(axis, np.array(positions)))
    return _Sequence(*modules)


class _Sequence(nn.Sequential):
    def forward(self, input: Tensor, *_parameters: Tensor) -> Tensor:
        return super().forward(input)


def _gather(operator: _Operator) -> nn.Module | Apply | None:
    index = operator.parameter("indices", 1)
    if index is None or index.ndim > 1 or not operator.shape:
        return None
    axis = operator.attributes.get("axis", 0) % len(operator.shape)
    size = operator.shape[axis]
    if not size:
        return None
    return Take(axis, index % size) if index.ndim else partial(torch.select, dim=axis, index=int(index) % size)


def _squeeze(operator: _Operator) -> Apply | None:
    axes = operator.parameter("axes", 1)
    if axes is None or operator.shape is None:
        return None
    return partial(_one_by_one, torch.squeeze, axes=sorted(_ints(axes % len(operator.shape)), reverse=True))


def _unsqueeze(operator: _Operator) -> Apply | None:
    axes = operator.parameter("axes", 1)
    if axes is None or operator.shape is None:
        return None
    return partial(_one_by_one, torch.unsqueeze, axes=sorted(_ints(axes % (len(operator.shape) + len(axes)))))


def _one_by_one(function: Callable[[Tensor, int], Tensor], x: Tensor, axes: list[int]) -> Tensor:
    """A function of a tensor and an axis, applied to one axis after the other."""
    for axis in axes:
        x = function(x, axis)
    return x


def _reduce(function: Callable[..., Tensor], operator: _Operator) -> Apply | None:
    axes = operator.parameter("axes", 1)
    if axes is None:
        return None
    return partial(function, dim=_ints(axes), keepdim=operator.attributes.get("keepdims", 1) == 1)


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]


_BUILDERS: dict[str, Callable[[_Operator], nn.Module | Apply | None]] = {
    "Selu": _selu,
    "Softmax": _softmax,
    "PRelu": _prelu,
    "Max": lambda operator: Fold(torch.maximum),
    "Min": lambda operator: Fold(torch.minimum),
    "Flatten": _flatten,
    "Expand": _expand,
    "Reshape": _reshape,
    "Pad": _pad,
    "Slice": _slice,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ReduceSum": partial(_reduce, torch.sum),
    "ReduceMean": partial(_reduce, torch.mean),
}
