"""Writing a module out: while it is traced, calls of torch's functions are answered by others with the same values.

The host traces a module and makes a node of every operator; what it has no node for it cannot read. Most such functions
are made of ones that it has: a variance is a mean of squares, a sort a network of maxima and minima, a cell of a GRU
four products. `FORMS` says how, each in plain torch, with the signature of the function that it stands for; a form that
does not cover the arguments at hand gives `NotImplemented`, and torch's own function is traced. Nothing else of the
module changes, and the host's model is compared with the module afterwards as every other is.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recurjac_plugin.errors import UnsupportedError

from . import attention, functions, images, rearranging, recurrent, sorting, statistics
from .discrete import rounding, truths
from .marks import depends, mark_as_input, passed_on

FORMS: dict[str, Callable[..., Any]] = {
    **functions.FORMS,
    **rearranging.FORMS,
    **statistics.FORMS,
    **sorting.FORMS,
    **images.FORMS,
    **attention.FORMS,
    **recurrent.FORMS,
    **truths.FORMS,
    **rounding.FORMS,
}
"""Name of a function of torch, or of a method of its tensors -> the same function in operators that the host has."""

_SIGNATURES = {name: inspect.signature(form) for name, form in FORMS.items()}


class Writing(TorchFunctionMode):
    """Answers calls of torch's functions by their forms, and notes which values depend on the module's inputs.

    Attributes:
        detached: whether such a value was detached, so that autograd's derivative is not the function's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detached = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        known = depends(args) or depends(tuple(kwargs.values()))
        if known and name == "detach":
            self.detached = True
        result = NotImplemented
        if name in FORMS:
            with self:
                result = _answer(name, args, kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        passed_on(name, args, kwargs, result, known)
        return result


def _answer(name: str, args: Any, kwargs: Any) -> Any:
    """What a form gives, if it takes these arguments."""
    try:
        bound = _SIGNATURES[name].bind(*args, **kwargs)
    except TypeError:  # another overload of the function
        return NotImplemented
    return FORMS[name](*bound.args, **bound.kwargs)


@contextmanager
def written_out(module: nn.Module) -> Iterator[None]:
    """While a module is called within, its functions are written out.

    Args:
        module: what is traced.

    Raises:
        UnsupportedError: it detaches a value that depends on its inputs.
    """
    writing: list[Writing] = []
    detached = False

    def begin(module: nn.Module, arguments: Any) -> None:
        mark_as_input(arguments)
        writing.append(Writing())
        writing[-1].__enter__()

    def end(module: nn.Module, arguments: Any, output: Any) -> None:
        nonlocal detached
        if writing:
            last = writing.pop()
            last.__exit__(None, None, None)
            detached = detached or last.detached

    handles = [
        module.register_forward_pre_hook(begin),
        module.register_forward_hook(end, always_call=True),
    ]
    try:
        with warnings.catch_warnings():  # torch's own layers ask for shapes, of which the tracer warns
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            yield
    finally:
        for handle in handles:
            handle.remove()
        while writing:
            writing.pop().__exit__(None, None, None)
    if detached:
        raise UnsupportedError(
            "The module",
            ["it detaches a value that depends on its input (`detach`)"],
            "Derivatives by autograd would leave that part out, while bounds are of the derivative of the function; "
            "remove the `detach`.",
        )


def require_one_tensor(output: Any) -> None:
    """Refuse what is no tensor.

    Raises:
        UnsupportedError: it is a tuple, a list or a dictionary, or something else.
    """
    if isinstance(output, Tensor):
        return
    kinds: dict[type, str] = {tuple: "a tuple", list: "a list", dict: "a dictionary"}
    parts = output if isinstance(output, (tuple, list, dict)) else ()
    names = [repr(key) for key in parts] if isinstance(parts, dict) else [str(i) for i in range(len(parts))]
    raise UnsupportedError(
        "The module",
        [f"its output is {kinds.get(type(output), f'a {type(output).__name__}')} with {', '.join(names)}"],
        "Bounds are of one tensor: wrap the module in one whose `forward` returns a single one of these, or "
        "`torch.cat` of them.",
    )
