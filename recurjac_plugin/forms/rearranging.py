"""Parts and copies of tensors: slices and gathers in place of what the host has no node for, or misreads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError

from .marks import depends, shape_of, untraced


def parts(input: Tensor, sizes: Sequence[int], dim: int) -> tuple[Tensor, ...]:
    """Slices of the given sizes, one after the other."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(input.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True))


def _chunk(input: Tensor, chunks: int, dim: int = 0) -> Any:
    size = shape_of(input)[dim]
    step = -(-size // chunks)
    return parts(input, [min(step, size - start) for start in range(0, size, step)], dim)


def _tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> Any:
    if isinstance(indices_or_sections, Tensor):
        return NotImplemented
    size = shape_of(input)[dim]
    if isinstance(indices_or_sections, int):
        least, more = divmod(size, indices_or_sections)
        return parts(input, [least + 1] * more + [least] * (indices_or_sections - more), dim)
    ends = [0, *indices_or_sections, size]
    return parts(input, [b - a for a, b in itertools.pairwise(ends)], dim)


def _unbind(input: Tensor, dim: int = 0) -> Any:
    return tuple(input.select(dim, i) for i in range(shape_of(input)[dim]))


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = torch.chunk(input, 2, dim)
    return value * torch.sigmoid(gate)


def selected(input: Tensor, dim: int, index: Sequence[int]) -> Tensor:
    """The places of an axis by number."""
    with untraced():
        places = torch.tensor(list(index), device=input.device)
    return input.index_select(dim, places)


def _repeated(input: Tensor, counts: Sequence[int]) -> Any:
    missing = len(counts) - input.dim()
    if missing < 0:
        counts, missing = [*[1] * -missing, *counts], 0
    if missing or counts[0] != 1:  # new axes stand before the batch
        return NotImplemented
    for dim, count in enumerate(counts):
        if count != 1:
            input = torch.cat([input] * count, dim)
    return input


def _repeat(input: Tensor, *sizes: Any) -> Any:
    counts = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    return NotImplemented if len(counts) < input.dim() else _repeated(input, [int(count) for count in counts])


def _tile(input: Tensor, *dims: Any) -> Any:
    counts = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    return _repeated(input, [int(count) for count in counts])


def _repeat_interleave(input: Tensor, repeats: Any, dim: int | None = None) -> Any:
    if dim is None or isinstance(repeats, Tensor):
        return NotImplemented
    return selected(input, dim, [i for i in range(shape_of(input)[dim]) for _ in range(repeats)])


def _getitem(input: Tensor, index: Any) -> Any:
    """Indexing by masks that are known."""
    places = index if isinstance(index, tuple) else (index,)
    masks = [i for i, each in enumerate(places) if isinstance(each, Tensor) and each.dtype == torch.bool]
    simple = all(each == slice(None) for i, each in enumerate(places) if i not in masks)
    if len(masks) != 1 or not simple or places[masks[0]].dim() != 1 or depends(places[masks[0]]):
        return NotImplemented
    with untraced():
        chosen = torch.where(places[masks[0]])[0].tolist()
    return selected(input, masks[0], chosen)


def _pixel_shuffle(input: Tensor, upscale_factor: int) -> Any:
    if input.dim() != 4:
        return NotImplemented
    _, c, h, w = shape_of(input)
    r = upscale_factor
    split = input.reshape(-1, c // (r * r), r, r, h, w).permute(0, 1, 4, 2, 5, 3)
    return split.reshape(-1, c // (r * r), h * r, w * r)


def _pixel_unshuffle(input: Tensor, downscale_factor: int) -> Any:
    if input.dim() != 4:
        return NotImplemented
    _, c, h, w = shape_of(input)
    r = downscale_factor
    split = input.reshape(-1, c, h // r, r, w // r, r).permute(0, 1, 3, 5, 2, 4)
    return split.reshape(-1, c * r * r, h // r, w // r)


def _channel_shuffle(input: Tensor, groups: int) -> Tensor:
    c = shape_of(input)[1]
    return selected(input, 1, [g * (c // groups) + i for i in range(c // groups) for g in range(groups)])


def _unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    if input.dim() != 4:
        return NotImplemented
    _, channels, *places = shape_of(input)
    kernel, spread, pads, steps = (
        list(value) if isinstance(value, (tuple, list)) else [value] * 2
        for value in (kernel_size, dilation, padding, stride)
    )
    if any(pads):
        input = torch.nn.functional.pad(input, (pads[1], pads[1], pads[0], pads[0]))
    counts = []
    for i in range(2):
        count = (places[i] + 2 * pads[i] - spread[i] * (kernel[i] - 1) - 1) // steps[i] + 1
        counts.append(count)
        index = [k * spread[i] + n * steps[i] for k in range(kernel[i]) for n in range(count)]
        input = selected(input, 2 + i, index)
    windows = input.reshape(-1, channels, kernel[0], counts[0], kernel[1], counts[1]).permute(0, 1, 2, 4, 3, 5)
    return windows.reshape(-1, channels * kernel[0] * kernel[1], counts[0] * counts[1])


def _unflatten(input: Tensor, dim: int, sizes: Any) -> Any:
    axis, shape = dim % input.dim(), shape_of(input)
    return input.reshape(-1, *shape[1:axis], *sizes, *shape[axis + 1 :]) if axis and -1 not in sizes else NotImplemented


def _squeeze(input: Tensor, dim: Any = None) -> Any:
    """Torch's exporter asks at run time whether the axis has length 1.

    Raises:
        UnsupportedError: no axis is named.
    """
    if dim is None and depends(input):
        raise UnsupportedError(
            "The model",
            ["Squeeze without an axis: for one sample it drops the batch dimension as well"],
            "Name the axis, as in `squeeze(1)`.",
        )
    if not isinstance(dim, int) or dim % max(1, input.dim()) == 0:
        return NotImplemented
    axis, shape = dim % input.dim(), shape_of(input)
    return input.reshape(-1, *shape[1:axis], *shape[axis + 1 :]) if shape[axis] == 1 else input


FORMS: dict[str, Callable[..., Any]] = {
    "chunk": _chunk,
    "unsafe_chunk": _chunk,
    "tensor_split": _tensor_split,
    "unbind": _unbind,
    "squeeze": _squeeze,
    "unflatten": _unflatten,
    "unfold": _unfold,
    "glu": _glu,
    "repeat": _repeat,
    "tile": _tile,
    "repeat_interleave": _repeat_interleave,
    "__getitem__": _getitem,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
}
"""Name -> form."""
