"""Regions in and out of the host: its perturbed inputs as plain regions (`read_region`), and back (`perturbed`).

The only perturbation that is read is the host's `PerturbationLpNorm`, which says one of two things about an input x0:

* norm p < inf: the ball ``|x - x0|_p <= eps``, with one eps, or one for every sample; the host takes no notice of
  `x_L` and `x_U` then, and nor do we: bounds on the ball hold on the part of it between them;
* norm inf: the box ``x_L <= x <= x_U``, or ``x0 - eps <= x <= x0 + eps``, eps a number or a tensor. Its centre is the
  middle, wherever x0 lies, and its radii reach both ends from the middle as it was rounded.

A model has one or several arguments, perturbed or not (`Arguments`). Whatever does not fit is refused here, before
anything is computed.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.modules.half_types import HALF, half_type, in_float32
from recurjac_plugin.numerics.region import Region

from .library import BoundedTensor, PerturbationLpNorm

Inputs = Tensor | tuple[Tensor, ...] | list[Tensor]
"""What a model of the host is bounded on: a `BoundedTensor`, or one for each of several inputs."""

Function = TypeVar("Function", bound=Callable[..., Any])


def perturbed(region: Region) -> Any:
    """A region as a perturbed input of the host, a `BoundedTensor` of shape (b, *input_shape).

    Balls of a batch get the largest of their radii: the host takes one number per sample in some places, but not in its
    convolutions.
    """
    radius = float(region.radius.max())
    if region.norm != math.inf or bool((region.radius == radius).all()):  # one number, which more operators accept
        with np.errstate(divide="ignore"):  # the host divides by 1 - 1/p
            return BoundedTensor(region.center, PerturbationLpNorm(norm=region.norm, eps=radius))
    reach = region.reach.reshape(region.center.shape)
    return perturbed_box(region.center - reach, region.center + reach, region.center)


def perturbed_box(
    lower: Tensor,  # shape: (b, *input_shape)
    upper: Tensor,  # shape: (b, *input_shape)
    center: Tensor | None = None,  # shape: (b, *input_shape)
) -> Any:
    """Boxes between exact ends as a perturbed input of the host; its value is `center`, by default the middle.

    Returns:
        A `BoundedTensor` of shape (b, *input_shape).
    """
    center = lower + (upper - lower) / 2 if center is None else center
    return BoundedTensor(center, PerturbationLpNorm(norm=math.inf, x_L=lower, x_U=upper))


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of a model: a region for every perturbed one, and the others as they are.

    Attributes:
        values: one per argument, in the model's order.
    """

    values: tuple[Region | Tensor, ...]

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Those of the perturbed ones, in their order."""
        return tuple(value for value in self.values if isinstance(value, Region))

    def for_host(self, hulls: Sequence[int] = ()) -> tuple[Any, ...]:
        """As the host takes them; balls at the positions `hulls` as the boxes around them."""
        return tuple(
            value if not isinstance(value, Region) else perturbed(value.hull() if i in hulls else value)
            for i, value in enumerate(self.values)
        )

    def scaled(self, fraction: float) -> Arguments:
        """All regions scaled about their centres."""
        return Arguments(tuple(value.scaled(fraction) if isinstance(value, Region) else value for value in self.values))


def read_arguments(x: Any, model: nn.Module | None) -> Arguments:
    """Read what a model is to be bounded on.

    Args:
        x: a `BoundedTensor`, or a tuple of them and of plain tensors, shape (b, *input_shape) each.
        model: the model, whose parameters must be of the type and on the device of the perturbed ones; None for
            nothing to compare with.

    Raises:
        InputError: nothing is perturbed, a region cannot be read, or batches, types or devices differ.
    """
    values = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    if not values or not all(isinstance(value, Tensor) for value in values):
        kinds = ", ".join(type(value).__name__ for value in values) or "nothing"
        raise InputError(f"`x` must be a `BoundedTensor`, or a tuple of them and of plain tensors; got {kinds}.")
    single = len(values) == 1
    read = tuple(read_region(value) if single or getattr(value, "ptb", None) is not None else value for value in values)
    arguments = Arguments(read)
    if not arguments.regions:
        raise InputError(
            "None of the inputs is perturbed: wrap at least one as "
            "`BoundedTensor(x, PerturbationLpNorm(norm=..., eps=...))`."
        )
    first = arguments.regions[0].center
    for region in arguments.regions:
        same = (len(region.center), region.center.dtype, region.center.device)
        if same != (len(first), first.dtype, first.device):
            raise InputError("The perturbed inputs differ in batch size, dtype or device; they must agree.")
    if model is not None:
        require_alike(model, first)
    return arguments


def converted(x: Any, dtype: torch.dtype) -> Any:
    """Perturbed and plain inputs in another type; to float64 exactly, ends and radii being the numbers that they are.

    Args:
        x: a `BoundedTensor` or another tensor, or a tuple of them.
        dtype: what its floating-point numbers become.
    """
    if isinstance(x, (tuple, list)):
        return tuple(converted(value, dtype) for value in x)

    def number(value: Any) -> Any:
        return value.detach().to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    perturbation: Any = getattr(x, "ptb", None)
    if type(perturbation) is not PerturbationLpNorm:
        return number(x)
    copied = copy.copy(perturbation)
    copied.eps, copied.x_L, copied.x_U = (number(value) for value in (copied.eps, copied.x_L, copied.x_U))
    return BoundedTensor(number(x).as_subclass(Tensor), copied)


def cut(x: Any, part: slice) -> Any:
    """Some regions of a batch as a perturbed input of the host, with the ends and radii that were given.

    Args:
        x: a `BoundedTensor` or a plain tensor, (b, ...), or a tuple of them.
        part: which of the b regions.

    Raises:
        RuntimeError: the perturbation does not fit to the tensor.
    """
    if isinstance(x, (tuple, list)):
        return tuple(cut(value, part) for value in x)
    perturbation: Any = getattr(x, "ptb", None)
    plain = x.as_subclass(Tensor)
    if type(perturbation) is not PerturbationLpNorm:
        return plain[part]

    def of_part(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.numel() == 1:
            return value
        if perturbation.norm != math.inf:  # one radius for every sample
            return value.reshape(len(x))[part]
        return value.expand_as(plain)[part]

    copied = copy.copy(perturbation)
    copied.eps, copied.x_L, copied.x_U = (of_part(v) for v in (copied.eps, copied.x_L, copied.x_U))
    return BoundedTensor(plain[part], copied)


def through_float32(function: Function) -> Function:
    """The function, whose first argument is a model: of a half type it is computed on in float32, with a warning.

    All tensors of half types among the other arguments, perturbed ones with their regions, become float32, too; the
    results are float32, without gradients. Afterwards the model is as it was (`modules.half_types`). Other models are
    passed on.
    """

    @functools.wraps(function)
    def call(model: Any, *arguments: Any, **options: Any) -> Any:
        dtype = half_type(model)
        if dtype is None:
            return function(model, *arguments, **options)
        warnings.warn(
            f"The model holds numbers of {dtype}: it is bounded as the network with the same weights that computes in "
            "float32, not as one that rounds every value to its own type; the results are float32, without gradients.",
            stacklevel=2,
        )
        with ExitStack() as stack:
            for module in (model, *(each for each in options.values() if isinstance(each, nn.Module))):
                stack.enter_context(in_float32(module))
            wider = {name: _widened(each) for name, each in options.items()}
            return function(model, *map(_widened, arguments), **wider)

    return call  # type: ignore[return-value]


def _widened(value: Any) -> Any:
    """An argument with its tensors of half types as float32, whatever holds them."""
    if isinstance(value, Tensor):
        return converted(value, torch.float32) if value.dtype in HALF else value
    if isinstance(value, (tuple, list)):
        return tuple(map(_widened, value)) if isinstance(value, tuple) else list(map(_widened, value))
    if isinstance(value, dict):
        return {name: _widened(each) for name, each in value.items()}
    return value


def type_of(x: Any) -> torch.dtype:
    """The type of the perturbed inputs."""
    values = x if isinstance(x, (tuple, list)) else (x,)
    dtype: torch.dtype = next(value.dtype for value in values if getattr(value, "ptb", None) is not None)
    return dtype


def require_full_type(what: str, dtype: torch.dtype) -> None:
    """Refuse other numbers than float32 and float64: half types round too coarsely for bounds to mean much.

    Args:
        what: whose type it is, the subject of the message.
        dtype: the type.

    Raises:
        InputError: another type.
    """
    if dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"{what} must hold numbers of float32 or float64, got {dtype}; convert the model and its inputs, as by "
            "`.float()`."
        )


def require_alike(model: nn.Module, x: Tensor, what: str = "`x`") -> None:
    """Refuse an input of another type, or on another device, than the model's parameters.

    Args:
        model: any module.
        x: the input, of any shape.
        what: what the message calls it.

    Raises:
        InputError: they differ, or the parameters are neither float32 nor float64.
    """
    for parameter in model.parameters():
        require_full_type("`model`", parameter.dtype)
        if parameter.device != x.device or parameter.dtype != x.dtype:
            raise InputError(
                f"{what} is {x.dtype} on {x.device}, but the model is {parameter.dtype} on {parameter.device}; "
                "move one of them."
            )


def read_region(x: Any) -> Region:
    """Read the region of a perturbed input: ball or box, with its exact ends.

    Of a ball, ``PerturbationLpNorm(norm=p, eps=..., x_L=..., x_U=...)`` with p < inf, `x_L` and `x_U` do not count, as
    in the host: bounds hold on all of ``|x - x0|_p <= eps``, and so on the part of it between them.

    Args:
        x: a `BoundedTensor` of shape (b, *input_shape).

    Raises:
        InputError: not a `BoundedTensor`, another perturbation than an l_p ball or a box, NaN, a negative radius, an
            empty box, or `x_L` and `x_U` of a ball without a radius, which may be meant as a box.
    """
    if isinstance(x, (tuple, list)):
        raise InputError(
            f"`x` must be one `BoundedTensor`, got {len(x)} inputs, as `jacobian_bounds`, `local_lipschitz` and "
            "`monotonicity` take them; here make the model of `flat_inputs(module, shapes)`, whose one input has all."
        )
    if not isinstance(x, BoundedTensor):
        raise InputError(
            f"`x` must be a `BoundedTensor` with an l_p perturbation, got {type(x).__name__}; wrap it as "
            "`BoundedTensor(x, PerturbationLpNorm(norm=..., eps=...))`."
        )
    perturbation: Any = getattr(x, "ptb", None)
    if type(perturbation) is not PerturbationLpNorm:
        raise InputError(f"The perturbation of `x` must be a `PerturbationLpNorm`, got {type(perturbation).__name__}.")
    require_full_type("`x`", x.dtype)
    if x.dim() < 2 or x.numel() == 0:
        raise InputError(f"`x` must have shape (b, *input_shape) with at least one element, got {tuple(x.shape)}.")
    norm = float(perturbation.norm)
    if not norm >= 1:
        raise InputError(f"The norm of the perturbation must be at least 1, got {norm}.")
    center = x.detach().as_subclass(Tensor) if not x.requires_grad else x.as_subclass(Tensor)
    if norm == math.inf:
        return _box(center, perturbation)
    radius = _as_tensor(perturbation.eps, center)
    if (perturbation.x_L is not None or perturbation.x_U is not None) and not bool((radius > 0).all()):
        raise InputError(
            f"`x_L` and `x_U` describe a box, which needs norm inf, got norm {norm:g} and no `eps`; give norm inf, "
            "or the `eps` of a ball."
        )
    if radius.numel() not in (1, len(center)):
        raise InputError(
            f"`eps` of an l_{norm:g} ball must be one number, or one per sample ({len(center)}), got shape "
            f"{tuple(radius.shape)}."
        )
    radius = radius.reshape(-1, 1).expand(len(center), 1)
    _check(center, radius, f"`eps` {_extreme(radius):g}")
    return Region(center, norm, radius)


def _box(x: Tensor, perturbation: Any) -> Region:
    """The box ``[x_L, x_U]``, an end that is not given being x -+ eps; its radius reaches both ends from its middle."""
    given = perturbation.x_L is not None and perturbation.x_U is not None
    eps = torch.zeros_like(x) if given else _as_tensor(perturbation.eps, x)
    if perturbation.x_L is None and perturbation.x_U is None:
        radius = _expanded("eps", eps, x).flatten(1)
        _check(x, radius, f"`eps` {_extreme(eps):g}")
        return Region(x, math.inf, radius)
    lower = x - eps if perturbation.x_L is None else perturbation.x_L
    upper = x + eps if perturbation.x_U is None else perturbation.x_U
    for name, bound in (("x_L", lower), ("x_U", upper)):
        if bound.device != x.device or bound.dtype != x.dtype:
            raise InputError(
                f"`{name}` is {bound.dtype} on {bound.device}, but `x` is {x.dtype} on {x.device}; use the same."
            )
    lower, upper = _expanded("x_L", lower, x), _expanded("x_U", upper, x)
    what = "the box" if given else f"`eps` {_extreme(eps):g}"
    center, radius = (lower + upper) / 2, (upper - lower).flatten(1) / 2
    _check(center, radius, what)
    # The middle of a box is rounded: the radius must reach both ends from there.
    radius = torch.maximum(upper - center, center - lower).flatten(1)
    return Region(center, math.inf, radius)


def _expanded(name: str, value: Tensor, x: Tensor) -> Tensor:
    try:
        return value.expand_as(x)
    except RuntimeError as error:
        raise InputError(
            f"`{name}` has shape {tuple(value.shape)}, but `x` has shape {tuple(x.shape)}; they must agree."
        ) from error


def _as_tensor(value: Any, like: Tensor) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"`eps` must be a number or a tensor, got {value!r}.") from error


def _extreme(value: Tensor) -> float:
    return float(value.detach().min())


def _check(center: Tensor, radius: Tensor, what: str) -> None:
    if not bool(center.isfinite().all() & radius.isfinite().all()):
        raise InputError("`x` or its region contains NaN or infinite values; regions must be finite.")
    if bool((radius < 0).any()):
        raise InputError(
            f"The region is empty: {what} gives a negative radius ({_extreme(radius):g}); radii must be at least 0 and "
            "lower bounds must not exceed upper bounds."
        )
