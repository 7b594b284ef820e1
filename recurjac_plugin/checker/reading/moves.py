"""Operators that move elements: applied to the numbers of the elements, they say where each of them goes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from recurjac_plugin.checker.maps import Dense

from .tensors import Attributes, Operand, Operator, Refused, Vectors, axes_of, finite, fixed, numbers, perturbed, room


def moving(move: Callable[[np.ndarray, list[Operand], Attributes], np.ndarray]) -> Operator:
    """An operator that moves elements, from what it does to an array."""

    def operator(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
        x = inputs[0]
        if isinstance(x, np.ndarray):
            return [np.asarray(move(x, inputs, attributes))]
        return [vectors.selected(perturbed(x), np.asarray(move(numbers(x), inputs, attributes)))]

    return operator


def _same(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    return x


def _dropout(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    if len(inputs) > 2 and inputs[2] is not None and bool(fixed(inputs[2])):
        raise Refused("it is in training mode")
    return x


def _flatten(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    axis = attributes("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _reshape(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    shape = axes_of(inputs, attributes, "shape")
    if shape is None:
        raise Refused("it has no shape")
    kept = not attributes("allowzero", 0)
    return x.reshape([x.shape[i] if d == 0 and kept else d for i, d in enumerate(shape)])


def _transpose(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    return np.transpose(x, attributes("perm", None))


def _squeeze(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    return np.squeeze(x, axes_of(inputs, attributes))


def _unsqueeze(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    axes = axes_of(inputs, attributes)
    if axes is None:
        raise Refused("it has no axes")
    return np.expand_dims(x, axes)


def _gather(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    return np.take(x, fixed(inputs[1]), axis=attributes("axis", 0))


def _slice(x: np.ndarray, inputs: list[Operand], attributes: Attributes) -> np.ndarray:
    if len(inputs) > 1:
        given = [None if each is None else fixed(each).tolist() for each in (*inputs[1:], None, None)][:4]
    else:
        given = [attributes(name, None) for name in ("starts", "ends", "axes", "steps")]
    starts, ends, axes, steps = given
    if starts is None or ends is None:
        raise Refused("it has no starts or no ends")
    slices = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts, ends)):
        step = 1 if steps is None else steps[i]
        if step < 1:
            raise Refused("it goes backwards")
        slices[i if axes is None else axes[i]] = slice(start, end, step)
    return x[tuple(slices)]


def _shape(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    return [np.array(inputs[0].shape, dtype=np.int64)]


def _split(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    x, axis = perturbed(inputs[0]), attributes("axis", 0)
    sizes = axes_of(inputs, attributes, "split")
    if sizes is None:
        if x.shape[axis] % attributes.outputs:
            raise Refused("its parts are not equal")
        sizes = (x.shape[axis] // attributes.outputs,) * attributes.outputs
    if sum(sizes) != x.shape[axis]:
        raise Refused("its parts are not the whole")
    return [vectors.selected(x, part) for part in np.split(numbers(x), np.cumsum(sizes)[:-1], axis)]


def _concat(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    axis = attributes("axis", 0)
    if all(isinstance(each, np.ndarray) for each in inputs):
        return [np.concatenate(inputs, axis)]
    parts = [np.full(each.shape, i) for i, each in enumerate(inputs)]
    owner = np.concatenate(parts, axis)
    bias, terms = np.zeros(owner.shape), []
    for i, each in enumerate(inputs):
        if isinstance(each, np.ndarray):
            bias[owner == i] = finite(each).reshape(-1)
            continue
        size = math.prod(each.shape)
        matrix = np.zeros(room(owner.size, size))
        matrix[np.flatnonzero(owner == i), np.arange(size)] = 1.0
        terms.append((each.vector, Dense(matrix)))
    return [vectors.affine(owner.shape, *terms, bias=bias)]


def _pad(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    """Zeros around a tensor."""
    x, (pads, value, axes) = perturbed(inputs[0]), [*inputs[1:], None, None, None][:3]
    widths = fixed(pads).tolist() if pads is not None else attributes("pads", [])
    fill = attributes("value", 0.0) if value is None else float(fixed(value).reshape(()))
    if attributes("mode", b"constant") != b"constant" or fill != 0 or axes is not None or min(widths, default=0) < 0:
        raise Refused("expected zeros around all axes")
    rank = len(x.shape)
    if len(widths) != 2 * rank:
        raise Refused("its widths do not fit")
    pairs = list(zip(widths[:rank], widths[rank:]))
    return [vectors.selected(x, np.pad(numbers(x), pairs, constant_values=-1))]


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "Dropout": moving(_dropout),
    "Flatten": moving(_flatten),
    "Gather": moving(_gather),
    "Identity": moving(_same),
    "Pad": _pad,
    "Reshape": moving(_reshape),
    "Shape": _shape,
    "Slice": moving(_slice),
    "Split": _split,
    "Squeeze": moving(_squeeze),
    "Transpose": moving(_transpose),
    "Unsqueeze": moving(_unsqueeze),
}
"""Operators that move elements, or say how many there are."""
