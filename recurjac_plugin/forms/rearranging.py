"""Parts and copies of tensors: slices and gathers in place of what the host has no node for, or misreads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError

from .marks import depends, holds, replace_by, shape_of, untraced


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
    """Indexing by masks that are known, from the end, and with steps."""
    places = index if isinstance(index, tuple) else (index,)
    masks = [i for i, each in enumerate(places) if isinstance(each, Tensor) and each.dtype == torch.bool]
    if not masks:
        return _from_the_end(input, places)
    simple = all(_is_whole(each) for i, each in enumerate(places) if i not in masks)
    if len(masks) != 1 or not simple or places[masks[0]].dim() != 1 or depends(places[masks[0]]):
        return NotImplemented
    with untraced():
        chosen = torch.where(places[masks[0]])[0].tolist()
    return selected(input, masks[0], chosen)


def _is_whole(place: Any) -> bool:
    return isinstance(place, slice) and place == slice(None)


def _from_the_end(input: Tensor, places: tuple[Any, ...]) -> Any:
    """Places counted from the end, and every n-th, by their numbers; hosts take others for them, or fail."""
    plain = all(each is Ellipsis or isinstance(each, (int, slice)) for each in places)
    if not plain or any(isinstance(each, bool) for each in places) or not _is_whole(places[0]):
        return NotImplemented
    shape = shape_of(input)
    if Ellipsis in places:
        at = places.index(Ellipsis)
        places = (*places[:at], *[slice(None)] * (len(shape) - len(places) + 1), *places[at + 1 :])
    steps = [each.step for each in places if isinstance(each, slice)]
    if all(step in (None, 1) for step in steps) and not any(isinstance(e, int) and e < 0 for e in places):
        return NotImplemented
    if any(isinstance(value, Tensor) for e in places if isinstance(e, slice) for value in (e.start, e.stop, e.step)):
        return NotImplemented
    numbers: list[Any] = []
    for axis, each in enumerate(places):
        if isinstance(each, int):
            numbers.append(each % shape[axis])
        elif each.step in (None, 1):
            numbers.append(each)
        else:
            input = selected(input, axis, range(shape[axis])[each])
            numbers.append(slice(None))
    return input[tuple(numbers)]


def _setitem(input: Tensor, index: Any, value: Any) -> Any:
    """``x[index] = value``, index beginning with ``:``: from now on x is another tensor, put together of both."""
    first = index[0] if isinstance(index, tuple) else index
    shape = shape_of(input)
    if not (first is Ellipsis or _is_whole(first)) or depends(index):
        return NotImplemented
    with untraced():
        numbers = torch.arange(math.prod(shape[1:])).reshape(1, *shape[1:])
        chosen = numbers[index]
        places = numbers.flatten().tolist()
    selected_shape = tuple(chosen.shape[1:])
    if not depends(value):
        written = _with_constant(input, chosen, value)
    else:
        if value.dim() != len(selected_shape) + 1:
            return NotImplemented
        if tuple(shape_of(value)[1:]) != selected_shape:
            with untraced():
                zeros = torch.zeros(1, *selected_shape, dtype=value.dtype, device=value.device)
            value = value + zeros
        value = value.reshape(-1, math.prod(selected_shape))
        written = _with_values(input, places, chosen.flatten().tolist(), value)
    if written is NotImplemented:
        return NotImplemented
    replace_by(input, written)
    return None


def _with_values(input: Tensor, places: list[int], chosen: list[int], value: Tensor) -> Any:
    """Values (b, n) in the chosen places of a tensor."""
    shape, count = shape_of(input), len(places)
    if depends(input):
        for i, place in enumerate(chosen):
            places[place] = count + i
        whole = torch.cat([input.reshape(-1, count), value], 1)
        return selected(whole, 1, places).reshape(-1, *shape[1:])
    if holds(lambda: (input != input[:1]).any()):  # the same row for every sample, as in `torch.zeros(b, n)`
        return NotImplemented
    places = [len(chosen)] * count
    for i, place in enumerate(chosen):
        places[place] = i
    with untraced():
        row = input[:1].detach().reshape(1, count).clone()
        row[:, chosen] = 0.0
    whole = torch.cat([value, value.narrow(1, 0, 1) * 0.0], 1)
    return (selected(whole, 1, places) + row).reshape(-1, *shape[1:])


def _with_constant(input: Tensor, chosen: Tensor, value: Any) -> Any:
    """A constant, the same for every sample, in the chosen places of a tensor."""
    if not depends(input) or not holds(lambda: torch.as_tensor(value).isfinite().all()):
        return NotImplemented
    shape = shape_of(input)
    with untraced():
        kept = torch.ones(math.prod(shape[1:]), dtype=input.dtype, device=input.device)
        added = torch.zeros_like(kept)
        kept[chosen.flatten()] = 0.0
        if isinstance(value, Tensor) and value.dim() == chosen.dim():
            if bool((value != value[:1]).any()):
                return NotImplemented
            value = value[:1]
        added[chosen.flatten()] = torch.as_tensor(value).to(added).detach().expand(chosen.shape).flatten()
        kept, added = kept.reshape(1, *shape[1:]), added.reshape(1, *shape[1:])
    return input * kept + added


def _expand(input: Tensor, *sizes: Any) -> Any:
    """With numbers in place of -1, which torch's exporter asks for at run time."""
    wanted = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else list(sizes)
    here = shape_of(input)
    here = [1] * (len(wanted) - len(here)) + here
    kept = [i for i, size in enumerate(wanted) if isinstance(size, int) and size == -1]
    if not kept or (0 in kept and depends(input)):
        return NotImplemented
    for i in kept:
        wanted[i] = here[i]
    return input.expand(*wanted)


def _matrix_transposed(input: Tensor) -> Any:
    return input.transpose(-2, -1) if input.dim() > 2 else NotImplemented


def _diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    shape, count = shape_of(input), input.dim()
    axes = sorted((dim1 % count, dim2 % count))
    if axes != [count - 2, count - 1] or not axes[0]:
        return NotImplemented
    with untraced():
        numbers = torch.arange(shape[-2] * shape[-1]).reshape(shape[-2:])
        places = numbers.diagonal(offset if dim1 % count < dim2 % count else -offset).tolist()
    return selected(input.reshape(-1, *shape[1:-2], shape[-2] * shape[-1]), count - 2, places)


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
    """Torch's exporter asks at run time whether the axis has length 1; without one, all but the batch are dropped.

    Raises:
        UnsupportedError: no axis is named, of one sample.
    """
    if dim is None and depends(input) and input.dim():
        if shape_of(input)[0] != 1:
            return input.reshape(-1, *(size for size in shape_of(input)[1:] if size != 1))
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
    "__setitem__": _setitem,
    "expand": _expand,
    "mT": _matrix_transposed,
    "mH": _matrix_transposed,
    "diagonal": _diagonal,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
}
"""Name -> form."""
