"""What every public function begins with: a model and its perturbed input, read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError

from .library import BoundedModule
from .misread import require_read_right
from .read import HostGraph, read_graph
from .region import Arguments, read_arguments, require_alike


def read(model: Any, x: Any) -> tuple[Arguments, HostGraph]:
    """Read a model and its perturbed inputs, the graph at the centres of the regions.

    Raises:
        InputError: not the host's objects, or they do not fit together.
        UnsupportedError: weights are perturbed, or the host reads another network.
    """
    if not isinstance(model, BoundedModule):
        raise InputError(
            f"`model` must be auto_LiRPA's `BoundedModule`, got {type(model).__name__}; wrap it as "
            "`BoundedModule(model, example_input)`."
        )
    arguments = read_arguments(x)
    require_alike(model, arguments.reference)
    graph = read_graph(model, *arguments.for_host())
    require_read_right(graph.nodes)
    return arguments, graph


def specification(C: Tensor | None, output: Tensor) -> Tensor:
    """The matrix C for an output of shape (b, *output_shape), as (b, k, *output_shape).

    Raises:
        InputError: C has another shape, dtype or device, or contains NaN.
    """
    batch, size = len(output), output[0].numel()
    if C is None:
        C = torch.eye(size, dtype=output.dtype, device=output.device).unsqueeze(0)
    if not isinstance(C, Tensor) or C.dim() < 3 or len(C) not in (1, batch) or C[0, :1].numel() != size:
        came = tuple(C.shape) if isinstance(C, Tensor) else type(C).__name__
        raise InputError(f"`C` must have shape ({batch} or 1, k, {size}) for this model, got {came}.")
    if C.dtype != output.dtype or C.device != output.device:
        raise InputError(
            f"`C` is {C.dtype} on {C.device}, but the model's output is {output.dtype} on {output.device}; "
            "use the same."
        )
    if not bool(C.isfinite().all()):
        raise InputError("`C` contains NaN or infinite values; a specification must be finite.")
    return C.expand(batch, *C.shape[1:]).reshape(batch, C.shape[1], *output.shape[1:])
