"""Writing a module out: while it is traced, calls of torch's functions are answered by others with the same values.

The host traces a module and makes a node of every operator; what it has no node for it cannot read. Most such functions
are made of ones that it has: a variance is a mean of squares, a sort a network of maxima and minima, a cell of a GRU
four products. `FORMS` says how, each in plain torch, with the signature of the function that it stands for; a form that
does not cover the arguments at hand gives `NotImplemented`, and torch's own function is traced. Nothing else of the
module changes, and the host's model is compared with the module afterwards as every other is.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recurjac_plugin.errors import UnsupportedError

from . import attention, masks, rearranging, recurrent, sorting, statistics
from . import functions as of_numbers
from .batch.rules import lifted_answer
from .discrete import rounding, truths
from .images import convolutions, planes
from .marks import constant, current, depends, is_constant, mark_as_input, passed_on, replace_by, shape_of

FORMS: dict[str, Callable[..., Any]] = {
    **of_numbers.FORMS,
    **rearranging.FORMS,
    **statistics.FORMS,
    **sorting.FORMS,
    **planes.FORMS,
    **convolutions.FORMS,
    **attention.FORMS,
    **masks.FORMS,
    **recurrent.FORMS,
    **truths.FORMS,
    **rounding.FORMS,
}
"""Name of a function of torch, or of a method of its tensors -> the same function in operators that the host has."""

CONSTANT = {
    "tril", "triu", "mH", "matrix_exp", "linalg_matrix_exp", "linalg_householder_product", "linalg_qr", "linalg_solve",
    "linalg_inv", "inverse", "linalg_cholesky", "linalg_svd", "linalg_eigh", "diagonal", "diag", "diag_embed",
}  # fmt: skip
"""Functions of weights alone, as in orthogonal layers, that become numbers, with all that is made of them."""


class Writing(TorchFunctionMode):
    """Answers calls of torch's functions by their forms, and notes which values depend on the module's inputs.

    Attributes:
        detached: whether such a value was detached, so that autograd's derivative is not the function's.
    """

    def __init__(self, more: Mapping[str, Callable[..., Any]] | None = None, batch: int | None = None) -> None:
        super().__init__()
        self.detached = False
        self._batch = batch
        self._forms = {**FORMS, **(more or {})}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        args, kwargs = current(args), current(kwargs or {})
        name = _name(func)
        known = name not in _LENGTHS and (depends(args) or depends(kwargs))
        if known and name == "detach":
            self.detached = True
        if not known and (name in CONSTANT or is_constant(args) or is_constant(kwargs)):
            return constant(func, args, kwargs)
        result: Any = NotImplemented
        if known and self._batch is not None:
            with self:
                result = lifted_answer(name, func, args, kwargs, self._batch)
            if result is not NotImplemented:
                return result
        if name in self._forms:
            with self:
                result = _answer(self._forms[name], args, kwargs)
        elif known and _changes_a_view(name, args):
            with self:
                result = getattr(torch.Tensor, name.rstrip("_"))(*args, **kwargs)
            replace_by(args[0], result)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        passed_on(name, args, kwargs, result, known)
        return result


_LENGTHS = {"shape", "size", "dim", "ndim", "numel", "__len__", "dtype", "device"}
"""What does not change with the values of a tensor."""


def _name(func: Any) -> str:
    """The name of a function, a method, or of an attribute such as ``x.mT``."""
    name: str = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else name


def _changes_a_view(name: str, args: Any) -> bool:
    """Whether a function such as `add_` changes a part of another tensor, which the exporter follows badly."""
    in_place = name.endswith("_") and not name.endswith("__") and name not in ("requires_grad_", "detach_")
    return in_place and hasattr(torch.Tensor, name.rstrip("_")) and isinstance(args[0], Tensor) and args[0]._is_view()


def _answer(form: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a form gives, if it takes these arguments."""
    try:
        bound = _signature(form).bind(*args, **kwargs)
    except TypeError:  # another overload of the function
        return NotImplemented
    return form(*bound.args, **bound.kwargs)


_signature = functools.cache(inspect.signature)


@contextmanager
def written_out(module: nn.Module, more: Mapping[str, Callable[..., Any]] | None = None) -> Iterator[None]:
    """While a module is called within, its functions are written out.

    Args:
        module: what is traced.
        more: forms besides those of `FORMS`, or in their place.

    Raises:
        UnsupportedError: it detaches a value that depends on its inputs.
    """
    writing: list[Writing] = []
    detached = False

    def begin(module: nn.Module, arguments: Any) -> None:
        mark_as_input(arguments)
        writing.append(Writing(more, _batch(arguments)))
        writing[-1].__enter__()

    def end(module: nn.Module, arguments: Any, output: Any) -> Any:
        nonlocal detached
        if writing:
            last = writing.pop()
            last.__exit__(None, None, None)
            detached = detached or last.detached
        return current(output)

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


def _batch(arguments: Any) -> int | None:
    """The length of the batch: that of the first axis of all arguments; None where they differ."""
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    lengths = {shape_of(value)[0] if value.dim() else 0 for value in tensors}
    return lengths.pop() if len(lengths) == 1 else None


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
