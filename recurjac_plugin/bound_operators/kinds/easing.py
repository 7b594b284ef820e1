"""Where the host's CROWN fails on a model: what it can do without, so that it goes as far as possible.

First the windows of convolutions: without them coefficients are plain matrices, which all operators take. Then the node
on which it failed, or that has refused: CROWN ends there, at its interval (`stopping`), and so on for the next one.

Source: own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import RecurJacError, UnsupportedError
from recurjac_plugin.host.library import HOST_FAILURES
from recurjac_plugin.numerics.memory import memory_budget

from .stopping import blamed, stop

_WINDOWS = "patches"


def ease(model: Any, error: BaseException, like: Tensor) -> bool:
    """Let the host do without what it failed on.

    Args:
        model: its model; what is written to it is for the caller to put back.
        error: what it raised.
        like: a tensor of the batch, (b, ...), of the type and on the device of the model.

    Returns:
        Whether it is worth another try.
    """
    if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):
        return False
    if not isinstance(error, UnsupportedError) and _without_windows(model, like):
        return True
    node = blamed(error)
    return node is not None and stop(node)


def with_or_without_windows(model: Any, call: Callable[[], Any]) -> Any:
    """What a call of the host gives; once more by matrices alone where an operator fails at windows (`patches`).

    Args:
        model: the host's `BoundedModule`.
        call: bounds it.

    Raises:
        What the host raises.
    """
    try:
        return call()
    except RecurJacError:
        raise
    except HOST_FAILURES:
        nodes = _windowed(model)
        if not nodes:
            raise
    before = model.conv_mode
    _put(model, nodes, "matrix", "matrix")
    try:
        return call()
    finally:
        _put(model, nodes, _WINDOWS, before)


def _without_windows(model: Any, like: Tensor) -> bool:
    """Take the windows away where there are some, and matrices fit into the memory."""
    nodes = _windowed(model)
    shapes = [tuple(getattr(node, "output_shape", None) or ()) for node in model._modules.values()]
    widest = max((torch.Size(shape[1:]).numel() for shape in shapes if shape), default=0)
    if not nodes or widest**2 * len(like) * like.element_size() > memory_budget(None, like.device):
        return False
    _put(model, nodes, "matrix", "matrix")
    return True


def _windowed(model: Any) -> list[Any]:
    return [node for node in model._modules.values() if vars(node).get("mode") == _WINDOWS]


def _put(model: Any, nodes: Sequence[Any], mode: str, conv_mode: str) -> None:
    for node in nodes:
        vars(node)["mode"] = mode
    model.conv_mode = conv_mode
