"""What torch's functions are on values that hold the batch elsewhere than in their first axis (`values`).

Element by element they are the same; along an axis they are so along the next one; products of matrices, and images,
have rules of their own. What would mix the samples of a batch has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.forms.marks import depends, mark_as_input, replace_by, shape_of, untraced
from recurjac_plugin.forms.statistics import axes

from .images import IMAGES
from .values import Lifted, is_lifted, lifted, settled, shadow, viewed

_ELEMENTWISE = {
    "neg", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "relu", "relu6", "tanh", "sigmoid",
    "sin", "cos", "gelu", "silu", "softplus", "leaky_relu", "elu", "selu", "celu", "mish", "hardtanh", "hardswish",
    "hardsigmoid", "logsigmoid", "softsign", "clamp", "clip", "dropout", "contiguous", "clone", "to", "float", "double",
    "type_as", "pow", "erf", "atan", "log1p", "expm1", "threshold", "clamp_min", "clamp_max", "softshrink",
}  # fmt: skip
_BROADCAST = {
    "add", "sub", "mul", "div", "true_divide", "maximum", "minimum", "rsub",
    "__radd__", "__rmul__", "__rsub__", "__rdiv__", "masked_fill", "where",
}  # fmt: skip
_VIEWS = {"reshape", "view", "flatten", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as"}
_MOVES = {"transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "T", "mT", "mH"}
_BEGIN = {*_VIEWS, *_MOVES, "stack"}
"""Functions that move the batch out of the first axis."""


def lifted_answer(name: str, function: Callable[..., Any], args: Any, kwargs: Any, batch: int) -> Any:
    """A call whose arguments, or whose result, hold the batch elsewhere than in the first axis.

    Args:
        name: of the function.
        function: the function itself.
        args: its arguments.
        kwargs: its keyword arguments.
        batch: B at the example.

    Returns:
        The result; NotImplemented where no argument is lifted and none is to be, or where there is no rule.
    """
    begins = (name in _BEGIN and depends(args)) or (name in _BROADCAST and _spreads(args, batch))
    if not args or not (is_lifted(args) or begins):
        return NotImplemented
    if name.endswith("_") and name.rstrip("_") in _ELEMENTWISE | _BROADCAST:  # in place
        result = lifted_answer(name.rstrip("_"), getattr(Tensor, name.rstrip("_")), args, kwargs, batch)
        if result is not NotImplemented:
            replace_by(args[0], result)
        return result
    if name in _VIEWS and isinstance(args[0], Tensor):
        return _view(name, function, args, kwargs, batch)
    if name in _MOVES and isinstance(args[0], Tensor):
        return _moved(function, args, kwargs, batch)
    if name == "stack":
        return _stack(args, kwargs, batch)
    if name in _BROADCAST:
        return _broadcast(function, args, kwargs, batch)
    if name in _PRODUCTS:
        return _product(function, args, kwargs, batch)
    if name == "scaled_dot_product_attention":
        return _attention(function, args, kwargs, batch)
    if name in ("cat", "concat"):
        return _joined(function, args, kwargs, batch)
    held = lifted(args[0], batch) if is_lifted(args[0]) else None
    if held is None:
        return NotImplemented
    if name in _ALONG:
        return _along(name, held, function, args, kwargs)
    rule = _elementwise if name in _ELEMENTWISE else _OF_ONE.get(name)
    return NotImplemented if rule is None else rule(held, function, args, kwargs)


def _view(name: str, function: Callable[..., Any], args: Any, kwargs: Any, batch: int) -> Any:
    here = shape_of(args[0])
    if not is_lifted(args[0]) and (not here or here[0] != batch):
        return NotImplemented
    if name == "squeeze" and not is_lifted(args[0]):
        return NotImplemented
    new = shadow(function, args, kwargs)
    there = shape_of(new)
    if not is_lifted(args[0]) and there[:1] == [batch]:  # the batch stays where it is, whatever its length
        numbered = name in ("reshape", "view") and len(args) > 1 and not isinstance(args[1], torch.dtype)
        if not numbered:
            return NotImplemented
        new = shadow(torch.Tensor.reshape, (args[0], -1, *there[1:]), {})
        mark_as_input(new)
        return new
    return viewed(args[0], new, batch)


def _moved(function: Callable[..., Any], args: Any, kwargs: Any, batch: int) -> Any:
    x = args[0]
    count = x.dim()
    with untraced():
        order = [size - 2 for size in function(torch.empty(tuple(range(2, count + 2))), *args[1:], **kwargs).shape]
    held = lifted(x, batch)
    if held is None or (not is_lifted(x) and order[:1] == [0]):
        return NotImplemented
    axis = None if held.axis is None else order.index(held.axis)
    new = shadow(function, args, kwargs)
    rest = held.rest(held.shape)
    long = [each for each in order if rest[each] > 1]
    if long == sorted(long):  # only axes of length 1 move
        value = held.value.reshape(-1, *(rest[each] for each in order))
    else:
        value = held.value.permute(0, *(each + 1 for each in order))
    return settled(new, value, batch, axis, held.inner)


def _stack(args: Any, kwargs: Any, batch: int) -> Any:
    tensors, *rest = args
    dim = rest[0] if rest else kwargs.get("dim", 0)
    count = tensors[0].dim() + 1
    every = [lifted(each, batch) for each in tensors]
    if (dim % count and not is_lifted(tensors)) or any(each is None for each in every):
        return NotImplemented
    places = [each for each in every if each is not None]
    if len({(each.axis, each.inner) for each in places}) > 1:
        return NotImplemented
    value = torch.stack([each.value for each in places], dim % count + 1)
    axis = places[0].axis
    new = shadow(torch.stack, [tensors], {"dim": dim})
    return settled(new, value, batch, axis if axis is None else axis + (dim % count <= axis), places[0].inner)


def _elementwise(held: Lifted, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if is_lifted(args[1:]):
        return NotImplemented
    value = function(held.value, *args[1:], **kwargs)
    return settled(shadow(function, args, kwargs), value, held.batch, held.axis, held.inner)


def _aligned(operands: Sequence[Any], batch: int) -> tuple[list[Any], Lifted] | None:
    """Operands with the batch in front and axes that align; with one of them, for the place of the batch."""
    rank = max(each.dim() for each in operands if isinstance(each, Tensor))
    ahead, like = [], None
    for each in operands:
        if not isinstance(each, Tensor) or not each.dim():
            ahead.append(each)
            continue
        held, missing = lifted(each, batch), rank - each.dim()
        if held is None and depends(each):
            return None
        if held is not None:
            value = held.value
            value = value.reshape(-1, *[1] * missing, *held.rest(held.shape)) if missing else value
            axis = None if held.axis is None else held.axis + missing
            held = Lifted(value, (*[1] * missing, *held.shape), held.batch, axis, held.inner)
            if like is not None and (like.axis, like.inner) != (axis, held.inner):
                return None
            like = held
        ahead.append(each if held is None else value)
    if like is None:
        return None
    for i, each in enumerate(operands):
        if isinstance(each, Tensor) and each.dim() and not depends(each):
            constant = _per_sample(each, like, rank)
            if constant is None:
                return None
            ahead[i] = constant
    return ahead, like


def _per_sample(constant: Tensor, like: Lifted, rank: int) -> Tensor | None:
    """A constant without the batch, if it is the same for all samples."""
    if like.axis is None:
        return constant
    axis = like.axis - (rank - constant.dim())
    if axis < 0 or constant.shape[axis] == 1:
        return constant
    sizes = shape_of(constant)
    split = (sizes[axis] // like.batch, like.batch) if like.inner else (like.batch, sizes[axis] // like.batch)
    with untraced(), torch.no_grad():
        parts = constant.reshape(*sizes[:axis], *split, *sizes[axis + 1 :])
        first = parts.narrow(axis + like.inner, 0, 1)
        if bool((parts != first).any()):
            return None
        return first.squeeze(axis + like.inner).clone()


def _spreads(operands: Sequence[Any], batch: int) -> bool:
    """Whether a constant puts axes before the batch, or spreads a batch of 1."""
    ranks = [each.dim() for each in operands if isinstance(each, Tensor) and depends(each)]
    constants = [each for each in operands if isinstance(each, Tensor) and each.dim() and not depends(each)]
    rank = max(ranks, default=0)
    return any(
        each.dim() > rank or (each.dim() == rank and batch == 1 != shape_of(each)[0]) for each in constants if rank
    )


def _broadcast(function: Callable[..., Any], args: Any, kwargs: Any, batch: int) -> Any:
    found = _aligned(args, batch)
    if found is None:
        return NotImplemented
    ahead, like = found
    new = shadow(function, args, kwargs)
    if like.axis is not None and shape_of(new)[like.axis] != like.shape[like.axis]:
        return NotImplemented  # the batch is spread
    return settled(new, function(*ahead, **kwargs), batch, like.axis, like.inner)


# --- along axes -----------------------------------------------------------------------------------------------------

_ALONG: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    **{
        name: (getattr(torch, name), lambda input, dim=None, keepdim=False: (dim, {"keepdim": keepdim}))
        for name in ("sum", "mean", "amax", "amin", "logsumexp")
    },
    "softmax": (torch.softmax, lambda input, dim, _stacklevel=3, dtype=None: (dim, {})),
    "log_softmax": (torch.log_softmax, lambda input, dim, _stacklevel=3, dtype=None: (dim, {})),
    "cumsum": (torch.cumsum, lambda input, dim: (dim, {})),
    "chunk": (torch.chunk, lambda input, chunks, dim=0: (dim, {"chunks": chunks})),
    "split": (torch.split, lambda tensor, split_size, dim=0: (dim, {"split_size_or_sections": split_size})),
    "unbind": (torch.unbind, lambda input, dim=0: (dim, {})),
    "select": (torch.select, lambda input, dim, index: (dim, {"index": index})),
    "narrow": (torch.narrow, lambda input, dim, start, length: (dim, {"start": start, "length": length})),
    "index_select": (torch.index_select, lambda input, dim, index: (dim, {"index": index})),
}
"""Name -> torch's function, and what its arguments are: axes, and the others by name."""


def _along(name: str, held: Lifted, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    own, arguments = _ALONG[name]
    try:
        dim, others = arguments(*args, **kwargs)
    except TypeError:
        return NotImplemented
    over = axes(args[0], dim)
    if held.holds(over):
        return NotImplemented
    shifted = [axis + 1 for axis in over]
    value = own(held.value, dim=shifted if isinstance(dim, (tuple, list)) or dim is None else shifted[0], **others)
    new = shadow(function, args, kwargs)
    several = isinstance(new, (tuple, list))
    gone = (new[0] if several else new).dim() < args[0].dim()
    axis = held.axis
    if axis is not None and gone:
        axis -= sum(each < axis for each in over)
    if several:
        pairs = zip(new, value, strict=True)
        return tuple(settled(each, of_it, held.batch, axis, held.inner) for each, of_it in pairs)
    return settled(new, value, held.batch, axis, held.inner)


def _taken(held: Lifted, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Indexing by numbers, slices and new axes."""
    places = list(args[1]) if isinstance(args[1], tuple) else [args[1]]
    if any(isinstance(each, (Tensor, list, bool)) for each in places):
        return NotImplemented
    if Ellipsis in places:
        at, used = places.index(Ellipsis), sum(each is not None for each in places) - 1
        places[at : at + 1] = [slice(None)] * (args[0].dim() - used)
    old = new_axis = 0
    axis = None
    for each in places:
        if each is not None and old == held.axis:
            if not (isinstance(each, slice) and each == slice(None)):
                return NotImplemented
            axis = new_axis
        old += each is not None
        new_axis += not isinstance(each, int)
    if axis is None and held.axis is not None:
        axis = held.axis - old + new_axis
    value = held.value[(slice(None), *places)]
    return settled(shadow(function, args, kwargs), value, held.batch, axis, held.inner)


def _joined(function: Callable[..., Any], args: Any, kwargs: Any, batch: int) -> Any:
    tensors, *rest = args
    dim = (rest[0] if rest else kwargs.get("dim", 0)) % tensors[0].dim()
    every = [lifted(each, batch) for each in tensors]
    places = [each for each in every if each is not None]
    alike = len(places) == len(every) and len({(each.axis, each.inner) for each in places}) == 1
    if not alike or places[0].holds([dim]):
        return NotImplemented
    value = torch.cat([each.value for each in places], dim + 1)
    return settled(shadow(function, args, kwargs), value, batch, places[0].axis, places[0].inner)


# --- products -------------------------------------------------------------------------------------------------------


def _product(function: Callable[..., Any], args: Any, kwargs: Any, batch: int) -> Any:
    x, y = args[:2]
    if min(x.dim(), y.dim()) < 2:
        return NotImplemented
    rank = max(x.dim(), y.dim())
    if depends(x) and depends(y):
        found = _aligned((x, y), batch)
        inner_axes = [rank - 2, rank - 1]
        if found is None or found[1].holds(inner_axes):
            return NotImplemented
        (first, second), like = found
        return settled(shadow(function, args, kwargs), torch.matmul(first, second), batch, like.axis, like.inner)
    known = y if depends(x) else x
    held = lifted(x if depends(x) else y, batch)
    contracted = -1 if depends(x) else -2
    if held is None or known.dim() != 2 or held.holds([len(held.shape) + contracted]):
        return NotImplemented
    value = torch.matmul(held.value, known) if depends(x) else torch.matmul(known, held.value)
    return settled(shadow(function, args, kwargs), value, batch, held.axis, held.inner)


def _linear(held: Lifted, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if held.holds([len(held.shape) - 1]) or is_lifted(args[1:]):
        return NotImplemented
    value = functional.linear(held.value, *args[1:], **kwargs)
    return settled(shadow(function, args, kwargs), value, held.batch, held.axis, held.inner)


def _normalised(held: Lifted, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    size = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    if held.holds(range(len(held.shape) - len(size), len(held.shape))):
        return NotImplemented
    value = function(held.value, *args[1:], **kwargs)
    return settled(shadow(function, args, kwargs), value, held.batch, held.axis, held.inner)


def _attention(function: Callable[..., Any], args: Any, kwargs: Any, batch: int) -> Any:
    found = _aligned(args[:3], batch)
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    if found is None or found[1].holds([args[0].dim() - 2, args[0].dim() - 1]) or depends(mask):
        return NotImplemented
    ahead, like = found
    value = function(*ahead, *args[3:], **kwargs)
    return settled(shadow(function, args, kwargs), value, batch, like.axis, like.inner)


_PRODUCTS = {"matmul", "__matmul__", "bmm"}

_OF_ONE: dict[str, Callable[[Lifted, Callable[..., Any], Any, Any], Any]] = {
    "__getitem__": _taken,
    "linear": _linear,
    "layer_norm": _normalised,
    "rms_norm": _normalised,
    **IMAGES,
}
"""Name -> rule for functions of one value."""
