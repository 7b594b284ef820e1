r"""Convolution, average pooling, and batch normalisation in evaluation mode, as linear maps.

Source: the operators' definitions in the ONNX standard, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math

import numpy as np

from recurjac_plugin.checker.maps import Dense, Diagonal
from recurjac_plugin.checker.rounding import TINY, UNIT

from .tensors import Attributes, Operand, Operator, Refused, Vectors, finite, fixed, perturbed, room

_ROUNDINGS = 8  # units: a sum, a root, a quotient and two products


def _padding(sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int], given: Attributes) -> list:
    """(before, after) for every axis."""
    mode = given("auto_pad", b"NOTSET").decode()
    if mode == "VALID":
        return [(0, 0)] * len(sizes)
    if mode == "NOTSET":
        pads = given("pads", [0] * 2 * len(sizes))
        return [*zip(pads[: len(sizes)], pads[len(sizes) :])]
    pairs = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations):
        total = max(0, (math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if mode == "SAME_UPPER" else (more, less))
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refused(f"its padding is {mode}")
    return pairs


def _convolution(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    """Each entry of the matrix is one number of the kernel."""
    x, kernel = perturbed(inputs[0]), finite(fixed(inputs[1]))
    rank = kernel.ndim - 2
    if rank not in (1, 2) or len(x.shape) != rank + 2 or x.shape[0] != 1:
        raise Refused("expected one input with one or two axes besides its channels")
    strides, dilations = attributes("strides", [1] * rank), attributes("dilations", [1] * rank)
    sizes, lengths = [*x.shape[2:]], [*kernel.shape[2:]]
    pairs = _padding(sizes, lengths, strides, dilations, attributes)
    groups = attributes("group", 1)
    if x.shape[1] != groups * kernel.shape[1] or kernel.shape[0] % groups:
        raise Refused("its channels and groups do not fit")
    if rank == 1:  # as an image of one row
        sizes, lengths, pairs = [1, *sizes], [1, *lengths], [(0, 0), *pairs]
        strides, dilations, kernel = [1, *strides], [1, *dilations], kernel[:, :, None]
    out = [
        (size + sum(pair) - (length - 1) * dilation - 1) // stride + 1
        for size, length, pair, stride, dilation in zip(sizes, lengths, pairs, strides, dilations)
    ]
    matrix = _matrix(kernel, groups, sizes, out, [pair[0] for pair in pairs], strides, dilations)
    shape = (1, len(kernel), *out[2 - rank :])
    bias = np.zeros(len(kernel)) if len(inputs) < 3 or inputs[2] is None else finite(fixed(inputs[2]))
    return [vectors.affine(shape, (x.vector, Dense(matrix)), bias=bias.reshape(1, -1, *[1] * rank))]


def _matrix(
    kernel: np.ndarray,  # shape: (out channels, in channels of a group, height, width)
    groups: int,
    sizes: list[int],
    out: list[int],
    before: list[int],
    strides: list[int],
    dilations: list[int],
) -> np.ndarray:
    """The matrix of a convolution of images."""
    channels = kernel.shape[1] * groups
    room(len(kernel) * math.prod(out), channels * math.prod(sizes))
    matrix = np.zeros((len(kernel), *out, channels, *sizes))
    rows, columns = len(kernel) // groups, kernel.shape[1]
    for place in np.ndindex(*kernel.shape[2:]):
        reached = []
        for axis in (0, 1):
            target = np.arange(out[axis])
            source = target * strides[axis] + place[axis] * dilations[axis] - before[axis]
            inside = (source >= 0) & (source < sizes[axis])
            reached.append((target[inside], source[inside]))
        (down, from_down), (across, from_across) = reached
        for g in range(groups):
            part = matrix[g * rows : (g + 1) * rows, :, :, g * columns : (g + 1) * columns]
            entries = kernel[g * rows : (g + 1) * rows, :, place[0], place[1]]
            part[:, down[:, None], across, :, from_down[:, None], from_across] = entries
    return matrix.reshape(len(kernel) * math.prod(out), -1)


def _normalisation(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    """``(x - mean) scale / sqrt(variance + epsilon) + bias``, factor and constant with their roundings."""
    x = perturbed(inputs[0])
    if attributes("training_mode", 0) or attributes.outputs > 1 or not attributes("spatial", 1):
        raise Refused("it is in training mode")
    scale, bias, mean, variance = (finite(fixed(each)) for each in inputs[1:5])
    root = np.sqrt(variance + attributes("epsilon", float(np.float32(1e-5))))
    if not (root > 0).all():
        raise Refused("its variance is not positive")
    factor = scale / root
    room_of_factor = _ROUNDINGS * UNIT * np.abs(factor) + TINY
    constant = bias - factor * mean
    room_of_constant = _ROUNDINGS * UNIT * (np.abs(bias) + np.abs(factor * mean)) + room_of_factor * np.abs(mean) + TINY
    shape = (1, -1, *[1] * (len(x.shape) - 2))
    diagonal, around, bias, radius = (
        np.broadcast_to(each.reshape(shape), x.shape)
        for each in (factor, 2 * room_of_factor, constant, 2 * room_of_constant)
    )
    scaling = Diagonal(diagonal.reshape(-1), around.reshape(-1))
    return [vectors.affine(x.shape, (x.vector, scaling), bias=bias, radius=radius)]


def _average(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    """Means over windows: ones, divided by their number."""
    x = perturbed(inputs[0])
    lengths = list(attributes("kernel_shape", []))
    if len(lengths) != 2 or len(x.shape) != 4 or x.shape[0] != 1 or attributes("ceil_mode", 0):
        raise Refused("expected one image, and windows that are not rounded up")
    if attributes("dilations", [1, 1]) != [1, 1]:
        raise Refused("its windows have gaps")
    strides, channels, sizes = attributes("strides", [1, 1]), x.shape[1], [*x.shape[2:]]
    pairs = _padding(sizes, lengths, strides, [1, 1], attributes)
    out = [(size + sum(pair) - k) // s + 1 for size, pair, k, s in zip(sizes, pairs, lengths, strides)]
    ones = np.ones((channels, 1, *lengths))
    matrix = _matrix(ones, channels, sizes, out, [pair[0] for pair in pairs], strides, [1, 1])
    number = np.full(len(matrix), math.prod(lengths)) if attributes("count_include_pad", 0) else matrix.sum(1)
    mean = matrix / number[:, None]
    return [vectors.affine((1, channels, *out), (x.vector, Dense(mean, 2 * UNIT * mean)))]


def _global_average(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    """Means over whole channels."""
    whole = {"kernel_shape": list(perturbed(inputs[0]).shape[2:])}
    return _average(vectors, inputs, Attributes(whole, attributes.outputs))


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average,
    "BatchNormalization": _normalisation,
    "Conv": _convolution,
    "GlobalAveragePool": _global_average,
}
"""Layers with weights."""
