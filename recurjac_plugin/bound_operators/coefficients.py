r"""Coefficients of linear bounds as they come from behind an operator in the host's CROWN, written out.

The host carries the A of ``A z + c`` in four forms: a tensor of shape (rows, b, *shape), a unit matrix (`EyeC`), rows
of one (`OneHotC`), and `Patches`, the windows of a convolution. Ours are tensors; `dense` makes one of each form.

Source: own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.host.library import EyeC, OneHotC, Patches, inplace_unfold


def dense(
    coefficients: Any,
    shape: tuple[int, ...],
    like: Tensor,
) -> Tensor | None:
    """Coefficients of an operator's output as a tensor.

    Args:
        coefficients: in one of the host's forms, or None.
        shape: of the output, per sample.
        like: a tensor of the dtype and device to work in.

    Returns:
        Shape (rows, b, *shape), or None.
    """
    if coefficients is None:
        return None
    if isinstance(coefficients, Patches):
        return _written_out(coefficients, shape, like)
    if isinstance(coefficients, EyeC):
        rows, batch = coefficients.shape[:2]
        return torch.eye(rows, dtype=like.dtype, device=like.device).reshape(rows, 1, *shape).expand(-1, batch, *shape)
    if isinstance(coefficients, OneHotC):
        return _from_one_hot(coefficients, shape, like)
    tensor: Tensor = coefficients
    return tensor.reshape(*tensor.shape[:2], *shape).to(like.dtype)


def _from_one_hot(coefficients: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    index = coefficients.index.to(like.device)  # shape: (rows, b), or (rows,) if all samples have the same
    rows, batch = coefficients.shape[:2]
    index = index.reshape(rows, -1).expand(rows, batch)
    values = coefficients.coeffs
    values = like.new_ones(rows, batch) if values is None else values.reshape(rows, -1).expand(rows, batch).to(like)
    full = like.new_zeros(rows, batch, torch.Size(shape).numel())
    return full.scatter(2, index.unsqueeze(2), values.unsqueeze(2)).reshape(rows, batch, *shape)


def _written_out(patches: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The tensor of windows: each number goes to the place of the input that its window has it at.

    Windows have shape (out_channels, b, out_height, out_width, *window), or (rows, b, *window) for selected rows.
    """
    selected = patches.unstable_idx
    if patches.identity:
        if selected is None:
            everything = torch.Size(shape).numel()
            batch = patches.shape[1]
            unit = torch.eye(everything, dtype=like.dtype, device=like.device)
            return unit.reshape(everything, 1, *shape).expand(-1, batch, *shape)
        full = like.new_zeros(len(selected[0]), *shape)
        full[(torch.arange(len(selected[0]), device=like.device), *selected)] = 1.0
        return full.unsqueeze(1).expand(-1, patches.shape[1], *shape)
    values = patches.patches
    channels, height, width = shape
    places = torch.arange(1, height * width + 1, dtype=torch.float64, device=values.device)
    place = inplace_unfold(  # shape: (1, out_height, out_width, 1, *window); 0 in the padding
        places.reshape(1, 1, height, width),
        kernel_size=values.shape[-2:],
        stride=patches.stride,
        padding=patches.padding,
        inserted_zeros=patches.inserted_zeros,
        output_padding=patches.output_padding,
    ).to(torch.long)[0, :, :, 0]
    if selected is None:
        index = place.flatten(2).unsqueeze(2).unsqueeze(0).unsqueeze(0)  # shape: (1, 1, out_height, out_width, 1, w)
    else:
        index = place[selected[-2], selected[-1]].flatten(1)[:, None, None, :]  # shape: (rows, 1, 1, w)
    values = values.flatten(-2)
    full = values.new_zeros(*values.shape[:-1], height * width + 1)
    full = full.scatter_add(-1, index.expand(values.shape), values)[..., 1:]
    if selected is None:
        full = full.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    return full.reshape(*full.shape[:2], channels, height, width).to(like.dtype)
