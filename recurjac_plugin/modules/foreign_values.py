"""Where a module and a model of it part: the first value that the module computes and the model has not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recurjac_plugin.numerics.rounding import GROSS, eps

from .evaluation import clones

HARMLESS = {"clone", "detach", "to", "contiguous"}
"""Functions of torch that give their input."""


class _Calls(TorchFunctionMode):
    """Records what torch's functions make of the inputs, with the module in which they are called.

    Attributes:
        values: descriptions and values, in the order of the calls.
    """

    def __init__(self, inputs: Iterable[Tensor], stack: list[str]) -> None:
        super().__init__()
        self.values: list[tuple[str, Tensor]] = []
        self._stack = stack
        self._reached = list(inputs)  # held, so that no other tensor gets their identities

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        from_inputs = any(value is held for value in _flat((args, kwargs or {})) for held in self._reached)
        name = getattr(func, "__name__", "").strip("_")
        if from_inputs and isinstance(result, Tensor):
            self._reached.append(result)
            if result.is_floating_point() and name not in HARMLESS:
                self.values.append((f"`{name}`" + (f" in {self._stack[-1]}" if self._stack else ""), result.clone()))
        elif from_inputs and isinstance(result, (tuple, list)):
            self._reached.extend(value for value in result if isinstance(value, Tensor))
        return result


def first_foreign(
    module: nn.Module,
    arguments: Sequence[Tensor],  # shape: (b, *input_shape) each
    values: Sequence[Any],
) -> str:
    """The first function of torch whose value is not among the given ones, and the part of the module that calls it.

    Args:
        module: the user's, in the mode in which it is compared.
        arguments: of the module.
        values: of all nodes of the model.

    Returns:
        A description, "" if every value is there.
    """
    held: dict[int, list[Tensor]] = {}
    for value in values:
        if isinstance(value, Tensor):
            held.setdefault(value.numel(), []).append(value.detach().double().flatten())
    stack: list[str] = []
    copies = clones(arguments)
    with _named(module, stack), _Calls(copies, stack) as calls:
        module(*copies)
    for description, value in calls.values:
        own = value.detach().double().flatten()
        allowed = GROSS * eps(value) * float(own.abs().nan_to_num(posinf=0.0).max() if own.numel() else 0.0)
        if not any(
            torch.allclose(own, other, rtol=0.0, atol=allowed, equal_nan=True) for other in held.get(own.numel(), ())
        ):
            return description
    return ""


@contextmanager
def _named(module: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the names of the parts that are being evaluated on a stack, the innermost last."""
    handles = []
    for name, part in module.named_modules():
        if name:
            label = f"`{name}` ({type(part).__name__})"
            handles.append(part.register_forward_pre_hook(lambda *_, label=label: stack.append(label)))
            handles.append(part.register_forward_hook(lambda *_: stack.pop() and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield from _flat(tuple(value.values()))
    else:
        yield value
