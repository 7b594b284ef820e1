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
_NOTED = {"sqrt", "mul", "add", "sub", "exp", "expm1", "masked_fill", "stack", *_TRUTHS}
_CONSTANT = "recurjac_constant"
_CURRENT = "recurjac_current"


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments or results of a function."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        yield from tensors_in(tuple(values.values()))


def mark_as_input(arguments: Any) -> None:
    """Note that values are those of the module's arguments."""
    for tensor in tensors_in(arguments):
        setattr(tensor, _DEPENDS, True)


def depends(values: Any) -> bool:
    """Whether any of the tensors depends on the module's arguments, as far as that has been noted."""
    return any(getattr(tensor, _DEPENDS, False) for tensor in tensors_in(values))


def passed_on(name: str, args: Any, kwargs: Any, result: Any, known: bool) -> None:
    """Note about the result of a call what is known of its arguments."""
    if known:
        mark_as_input(result)
        if name.endswith("_") and args and isinstance(args[0], Tensor):  # it changes what stands there, and its whole
            mark_as_input((args[0], args[0]._base))
    if not isinstance(result, Tensor) or not args:
        return
    if name in _NOTED:
        arguments = (*args, *kwargs.values())
        setattr(result, _ORIGIN, (name, arguments, _versions((result, *arguments))))
    elif name in _PASSING and origin(args[0])[0]:
        name, arguments = origin(args[0])
        setattr(result, _ORIGIN, (name, arguments, _versions((result, *arguments))))


def origin(value: Any) -> tuple[str, tuple[Any, ...]]:
    """The call that gave a value, its name and arguments, noted while all were as they are now; else nothing."""
    name, arguments, versions = getattr(value, _ORIGIN, ("", (), []))
    return (name, arguments) if name and _versions((value, *arguments)) == versions else ("", ())


def _versions(values: Any) -> list[int]:
    """How often tensors have been changed in place."""
    return [tensor._version for tensor in tensors_in(values)]


def replace_by(tensor: Tensor, value: Tensor) -> None:
    """Note that a tensor that a function would change in place is another from now on."""
    setattr(tensor, _CURRENT, value)


def current(values: Any) -> Any:
    """Arguments with what stands for tensors that were changed in place."""
    if isinstance(values, Tensor):
        while hasattr(values, _CURRENT):
            values = getattr(values, _CURRENT)
        return values
    if type(values) in (tuple, list):
        return type(values)(map(current, values))
    return {key: current(value) for key, value in values.items()} if type(values) is dict else values


def is_constant(values: Any) -> bool:
    """Whether any of the tensors was made by `constant`."""
    return any(getattr(tensor, _CONSTANT, False) for tensor in tensors_in(values))


def constant(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A call as numbers: no part of the trace, and nothing that gradients go through."""
    with untraced(), torch.no_grad():
        result = function(*args, **kwargs)
    for tensor in tensors_in(result):
        setattr(tensor, _CONSTANT, True)
    return result


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
