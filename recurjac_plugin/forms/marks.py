"""What is noted on values while a module is traced: whether they depend on its inputs, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_DEPENDS = "recurjac_depends"
_ORIGIN = "recurjac_origin"
_PASSING = {"to", "float", "double", "type", "type_as", "bfloat16", "half"}
_TRUTHS = {
    *("gt", "ge", "lt", "le", "eq", "ne", "__eq__", "__ne__", "logical_not", "bitwise_not", "__invert__"),
    *(f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("and", "or", "xor")),
    *(f"__{side}{name}__" for side in ("", "r") for name in ("and", "or", "xor")),
}
_NOTED = {"sqrt", "mul", "stack", *_TRUTHS}


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))


def mark_as_input(arguments: Any) -> None:
    """Note that values are those of the module's arguments."""
    for tensor in _tensors(arguments):
        setattr(tensor, _DEPENDS, True)


def depends(values: Any) -> bool:
    """Whether any of the tensors depends on the module's arguments, as far as that has been noted."""
    return any(getattr(tensor, _DEPENDS, False) for tensor in _tensors(values))


def passed_on(name: str, args: Any, kwargs: Any, result: Any, known: bool) -> None:
    """Note about the result of a call what is known of its arguments."""
    if known:
        mark_as_input(result)
    if not isinstance(result, Tensor) or not args:
        return
    if name in _NOTED:
        setattr(result, _ORIGIN, (name, (*args, *kwargs.values())))
    elif name in _PASSING and isinstance(args[0], Tensor) and hasattr(args[0], _ORIGIN):
        setattr(result, _ORIGIN, getattr(args[0], _ORIGIN))


def origin(value: Any) -> tuple[str, tuple[Any, ...]]:
    """The call that gave a value, its name and arguments, where that was noted; else "" and nothing."""
    found: tuple[str, tuple[Any, ...]] = getattr(value, _ORIGIN, ("", ()))
    return found


@contextmanager
def untraced() -> Iterator[None]:
    """What is computed within is a constant of the graph, whatever torch traces."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        with torch._C.DisableTorchFunction():
            yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def shape_of(tensor: Tensor) -> list[int]:
    """The shape of a tensor as numbers, which a tracer gives as tensors."""
    with untraced():
        return [int(size) for size in tensor.shape]


def holds(condition: Callable[[], Tensor]) -> bool:
    """Whether a condition on values holds, seen at the example alone."""
    with untraced():
        return bool(condition())
