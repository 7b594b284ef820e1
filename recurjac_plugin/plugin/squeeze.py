"""`squeeze()` without an axis, in the host's models: refused in a sentence when a model is built.

It drops every axis of length 1, and the batch's where there is one sample; the host fails at it with a bare error.
"""

from __future__ import annotations

from typing import Any

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host.library import bound_op_map, bound_ops

_OPERATOR = "onnx::Squeeze"
_before: list[Any] = []  # the host's entry, None for none, while ours stands there


def add_to_host() -> None:
    """Put ours before the host's class. Doing it again changes nothing."""
    if not _before:
        _before.append(bound_op_map.get(_OPERATOR))
        bound_op_map[_OPERATOR] = _node


def remove_from_host() -> None:
    """Undo `add_to_host`."""
    if _before:
        own = _before.pop()
        if own is None:
            bound_op_map.pop(_OPERATOR, None)
        else:
            bound_op_map[_OPERATOR] = own


def _node(attr: Any = None, inputs: Any = None, output_index: int = 0, options: Any = None) -> Any:
    """The host's node; it takes its axis from an attribute or from a second input."""
    if "axes" not in (attr or {}) and len(inputs or ()) < 2:
        raise UnsupportedError(
            "The model",
            ["Squeeze without an axis: for one sample it drops the batch dimension as well"],
            "Name the axis, as in `squeeze(1)`.",
        )
    host_class = _before[0] if _before and _before[0] is not None else bound_ops.BoundSqueeze
    return host_class(attr, inputs, output_index, options)
