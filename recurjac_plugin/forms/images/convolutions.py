r"""Convolutions that hosts have no nodes for, as the two-dimensional one that they have.

* Padding by a word is padding by numbers.
* A line is an image of height 1.
* A volume's planes become channels. For every plane d of the output, those that its kernel meets stand side by side as
  channels of one group:

  .. math:: y_{o,d} = \sum_{c,k} W_{o,c,k} * x_{c, s d + t k - p}

* A transposed convolution is one of the image with zeros between its pixels, the kernel turned around. The zeros, and
  what is padded or cut off, come from one small matrix an axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.forms.marks import depends, shape_of, untraced
from recurjac_plugin.forms.rearranging import selected

from .planes import several, times_matrix


def _convolution(count: int) -> Callable[..., Any]:
    """Padding that is a word, and volumes."""

    def form(
        input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Any:  # fmt: skip
        if input.dim() != count + 2 or depends(weight):
            return NotImplemented
        if isinstance(padding, str):
            input, padding = _padded(input, weight, padding, several(dilation, count))
        elif count < 3:
            return NotImplemented
        if count < 3:
            function = getattr(functional, f"conv{count}d")
            return function(input, weight, bias, stride, padding, dilation, groups)
        steps, pads, apart = (several(each, 3) for each in (stride, padding, dilation))
        return _of_planes(input, weight, bias, steps, pads, apart, groups)

    return form


def _padded(input: Tensor, weight: Tensor, word: str, dilations: list[int]) -> tuple[Tensor, Any]:
    """The image and the padding that is left to do."""
    count = len(dilations)
    pads: list[int] = []
    if word == "same":
        for axis in reversed(range(count)):
            total = dilations[axis] * (shape_of(weight)[2 + axis] - 1)
            pads += [total // 2, total - total // 2]
    if all(a == b for a, b in zip(pads[::2], pads[1::2])):
        return input, pads[::2][::-1] if pads else 0
    return functional.pad(input, pads, value=0.0), 0


def _of_planes(
    input: Tensor, weight: Tensor, bias: Any, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Any:
    """A volume's convolution, the planes being channels."""
    _, channels, depth, height, width = shape_of(input)
    outputs, of_group, kernel, *sides = shape_of(weight)
    planes = (depth + 2 * padding[0] - dilation[0] * (kernel - 1) - 1) // stride[0] + 1
    met = [d * stride[0] + k * dilation[0] - padding[0] for d in range(planes) for k in range(kernel)]
    if min(met) < 0 or max(met) >= depth:  # planes of zeros, behind the others
        zeros = input.narrow(2, 0, 1) * 0.0
        input = torch.cat([input, zeros], 2)
        met = [place if 0 <= place < depth else depth for place in met]
    side_by_side = selected(input, 2, met).reshape(-1, channels, planes, kernel, height, width)
    image = side_by_side.permute(0, 2, 1, 3, 4, 5).reshape(-1, planes * channels * kernel, height, width)
    kernels = torch.cat([weight.reshape(outputs, of_group * kernel, *sides)] * planes, 0)
    biases = None if bias is None else torch.cat([bias] * planes, 0)
    value = functional.conv2d(image, kernels, biases, stride[1:], padding[1:], dilation[1:], planes * groups)
    return value.reshape(-1, planes, outputs, *shape_of(value)[2:]).permute(0, 2, 1, 3, 4)


def _transposed(count: int) -> Callable[..., Any]:
    def form(
        input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
        groups: int = 1, dilation: Any = 1,
    ) -> Any:  # fmt: skip
        if input.dim() != count + 2 or depends(weight):
            return NotImplemented
        steps, pads, extra, apart = (several(each, count) for each in (stride, padding, output_padding, dilation))
        if count == 2 and groups == 1 and not any(extra) and all(each == 1 for each in apart):
            return NotImplemented
        inputs, of_group, *sides = shape_of(weight)
        for i in range(count):
            size, room = shape_of(input)[2 + i], apart[i] * (sides[i] - 1) - pads[i]
            length = (size - 1) * steps[i] + 1 + 2 * room + extra[i]
            with untraced():
                matrix = torch.zeros(size, length, dtype=input.dtype, device=input.device)
                for j in range(size):
                    if 0 <= room + j * steps[i] < length:
                        matrix[j, room + j * steps[i]] = 1.0
            input = times_matrix(input, 2 + i, matrix)
        parts = weight.reshape(groups, inputs // groups, of_group, *sides).transpose(1, 2)
        for i in range(count):
            parts = selected(parts, 3 + i, range(sides[i])[::-1])
        kernels = parts.reshape(groups * of_group, inputs // groups, *sides)
        return getattr(functional, f"conv{count}d")(input, kernels, bias, 1, 0, dilation, groups)

    return form


def _of_a_line(
    input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Any:  # fmt: skip
    """A line as an image of height 1."""
    if input.dim() != 3 or depends(weight):
        return NotImplemented
    if isinstance(padding, str):
        input, padding = _padded(input, weight, padding, several(dilation, 1))
    steps, pads, apart = (several(each, 1)[0] for each in (stride, padding, dilation))
    size, kernel = shape_of(input), shape_of(weight)
    image, kernels = input.reshape(-1, size[1], 1, size[2]), weight.reshape(*kernel[:2], 1, kernel[2])
    value = functional.conv2d(image, kernels, bias, (1, steps), (0, pads), (1, apart), groups)
    return value.reshape(-1, kernel[0], math.prod(shape_of(value)[2:]))


FORMS: dict[str, Callable[..., Any]] = {
    **{f"conv{n}d": _convolution(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed(n) for n in (1, 2, 3)},
}
"""Name -> form."""

OF_LINES: dict[str, Callable[..., Any]] = {"conv1d": _of_a_line}
"""Forms for hosts that know no convolution of lines."""
