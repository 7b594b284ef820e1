r"""Whether the host's model computes the user's function: both are evaluated when the model is made.

The host traces a network and may overlook an attribute; bounds of what it reads would hold, for the wrong function. So
once this package is imported, the constructor of `BoundedModule` is followed by a comparison: with f the module and g
the host's model, at the example input, a random point, and one on its other side (`modules.evaluation.points`),

.. math:: \max_i |f_i(x) - g_i(x)| \le n \varepsilon \max_i |f_i(x)|,

n = 8 in float32 and 1024 in float64. What is further apart is computed once more in the other number type: rounding
shrinks with :math:`\varepsilon`, another function does not. A network may be another one in training mode than in
evaluation mode. Our bounds are those of the host's model in evaluation mode; the module is compared in both, in the
mode that it was given in and in that one. What was found stays with the model and its copies (`Found`); it is acted
upon when the model is bounded (`require`), where the centre of the region is one more point.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.modules import evaluation as modules
from recurjac_plugin.modules.evaluation import MODULE_FAILURES, Modes, difference, evaluation_modes
from recurjac_plugin.modules.foreign_values import first_foreign
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import GROSS, SHRINKS_WITH_PRECISION, eps

from .state import preserved, shares_weights

Points = Sequence[Sequence[Tensor]]
"""Arguments of a network, one after the other."""

_FOUND = "recurjac_found"
"""Attribute of the host's model that keeps what was found: plain data, which its copies and files have too."""

_RANDOM = "its outputs are random: two evaluations of the same input differ"

_ENOUGH = 3
"""Points at which something could be compared; NaN at both says nothing."""

_FEW = 2
"""Samples of a large batch."""

_modules: weakref.WeakKeyDictionary[Any, weakref.ref[nn.Module]] = weakref.WeakKeyDictionary()
"""The module that a model was made of, as long as both are there."""

_declared: weakref.WeakKeyDictionary[Any, Found] = weakref.WeakKeyDictionary()
"""What was found about models whose modules were handed over later."""

_postponed: list[Callable[[], None]] | None = None
_watching = True


@dataclass(frozen=True)
class Found:
    """What a comparison has found: why the model is another function than the module, "" if it is not.

    None where they could not be compared.

    Attributes:
        given: with the module in the mode that it was given in.
        evaluation: with the module in evaluation mode.
    """

    given: str | None
    evaluation: str | None


def watch(bounded_module: Any) -> None:
    """Have every model of the host's class compared with its module from now on, once it is made."""
    original = bounded_module.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError:  # which the original says better
            given = {}
        module, inputs = given.get("model"), modules.tensors(given.get("global_input"))
        if not _watching or inputs is None or not isinstance(module, nn.Module) or isinstance(module, bounded_module):
            original(self, *args, **kwargs)
            return
        modes = modules.modes_of(module)  # the host may change them
        original(self, *args, **kwargs)
        _modules[self] = weakref.ref(module)
        comparison = functools.partial(_look, self, module, inputs, modes)
        if _postponed is None:
            comparison()
        else:
            _postponed.append(comparison)

    bounded_module.__init__ = init


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Compare models that are made within at the end: some modules have no values while they are traced."""
    global _postponed
    waiting: list[Callable[[], None]] = []
    outer, _postponed = _postponed, waiting
    try:
        yield
    finally:
        _postponed = outer
    for comparison in waiting:
        comparison()


@contextlib.contextmanager
def not_watched() -> Iterator[None]:
    """Leave models that are made within without a comparison."""
    global _watching
    outer, _watching = _watching, False
    try:
        yield
    finally:
        _watching = outer


def found(model: Any) -> Found:
    """What is known of a model."""
    return _declared.get(model) or Found(*vars(model).get(_FOUND, (None, None)))


def declare(model: Any, reference: Any) -> None:
    """Compare a model with the module that it was made of, as it would have been when it was made.

    Args:
        model: the host's model.
        reference: the module, in any mode; None changes nothing.

    Raises:
        InputError: the reference is no module, or does not give outputs for the model's inputs.
        UnsupportedError: it is another function.
    """
    if reference is None:
        return
    if not hasattr(model, "get_forward_value"):
        raise InputError(f"`reference` belongs to a `BoundedModule`, but the model is a {type(model).__name__}.")
    if not isinstance(reference, nn.Module) or isinstance(reference, type(model)):
        raise InputError(f"`reference` must be the network as a torch module, got {type(reference).__name__}.")
    inputs = _example(model)
    try:
        reason = _compare(model, reference, [*modules.points(inputs)], required=True)
    except MODULE_FAILURES as error:
        shapes = " and ".join(str(tuple(value.shape)) for value in inputs)
        raise InputError(
            f"`reference` does not take an input of shape {shapes} ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); give the module that the model was made of."
        ) from error
    if reason is None:
        raise InputError("`reference` gives no finite numbers; give the module that the model was made of.")
    _require(reason)
    _modules[model], _declared[model] = weakref.ref(reference), Found(reason, reason)


def require(
    model: Any,
    inputs: Sequence[Tensor],  # shape: (b, *input_shape) each
    output: Tensor | None = None,  # shape: (b, *output_shape)
) -> bool:
    """Refuse a model that is known, or seen at the given inputs, to be another function than the user's.

    Args:
        model: the host's model.
        inputs: points to compare them at once more, if the module is there and has the model's weights.
        output: the model's at the inputs; None to leave that out.

    Returns:
        Whether it is known to be the same function, as far as values tell.

    Raises:
        UnsupportedError: it is another function.
    """
    module, known = _module_of(model), found(model)
    in_evaluation = not model.training or (module is not None and not module.training)
    reason = known.evaluation if in_evaluation or known.given is None else known.given
    if reason == known.evaluation == "" and module is not None and output is not None:
        reason = _differs_at(model, module, inputs, output)
    _require(reason)
    return reason is not None


def _require(reason: str | None) -> None:
    if reason:
        raise UnsupportedError(
            "The model",
            [f"auto_LiRPA computes another function than the network: {reason}"],
            "Bounds of the one are not bounds of the other; write the network with other operators.",
        )


def _module_of(model: Any) -> nn.Module | None:
    reference = _modules.get(model)
    return None if reference is None else reference()


def _differs_at(model: Any, module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> str:
    """Why a model that was the same function is another one at the inputs; "" where that cannot be seen."""
    if not shares_weights(model, module):
        return ""
    with full_precision(), torch.no_grad(), modules.undisturbed(module), modules.in_modes(evaluation_modes(module)):
        try:
            own = module(*modules.clones(inputs))
        except MODULE_FAILURES:
            return ""
    gap = difference(own, output.reshape(own.shape) if output.numel() == own.numel() else output)
    if gap is None or modules.within_rounding(gap, own.dtype, GROSS):  # a branch makes more
        return ""
    reason = _compare(model, module, [inputs])
    return f"at the centre of the region {reason}" if reason else ""


def _example(model: Any) -> tuple[Tensor, ...]:
    """The inputs at which a model was made, of the type that its weights have by now."""
    like = next(iter(model.parameters()), None)
    inputs = (value.to(model.device) for value in modules.tensors(model.global_input) or ())
    return tuple(value.to(like.dtype) if like is not None and value.is_floating_point() else value for value in inputs)


def _look(model: Any, module: nn.Module, inputs: tuple[Tensor, ...], modes: Modes) -> None:
    """Compare a new model with its module, and keep what is found."""
    inputs = tuple(value.to(model.device) for value in inputs)
    where = list(modules.points(inputs))
    in_evaluation = given = _compare_by_few(model, module, where)
    if any(modes.values()) and modules.mode_matters(module, where[:_ENOUGH], modes):
        given = _compare(model, module, where, modes)
        given = None if given == _RANDOM else given and f"{given}, in training mode, in which it was wrapped"
    vars(model)[_FOUND] = (given, in_evaluation)


def _compare_by_few(model: Any, module: nn.Module, where: Points) -> str | None:
    """`_compare`, with two samples of a large batch if they show that it is the same function."""
    sizes = {len(value) if value.dim() else 0 for value in where[0]}
    if len(sizes) == 1 and sizes.pop() > _FEW:
        few = [[value[:_FEW] for value in arguments] for arguments in where]
        # Where they do not agree the model may be one of this batch size alone.
        if _compare(model, module, few, place=False) == "":
            return ""
    return _compare(model, module, where)


@dataclass(frozen=True)
class _Pair:
    """The user's module and the host's model, ready to be evaluated (see `_ready`).

    Attributes:
        model: the host's model.
        module: the user's.
    """

    model: Any
    module: nn.Module

    def own(self, arguments: Sequence[Tensor]) -> Any:
        """The user's module at its arguments, which it may change in place."""
        return self.module(*modules.clones(arguments))

    def read(self, arguments: Sequence[Tensor]) -> Any:
        """The host's model at its arguments.

        Its own `forward` does the same, and forgets bounds and marks its nodes anew, which takes longer.
        """
        model = self.model
        for node in model._modules.values():
            vars(node).pop("forward_value", None)
        for name, index in zip(model.input_name, model.input_index):
            if index is not None:
                vars(model[name])["value"] = arguments[index]
        return model.get_forward_value(model.final_node())

    def precision(self, like: Tensor) -> torch.dtype:
        """The number type that decides what rounding is: before some operators exporters cast float64 to float32."""
        nodes = (vars(node) for node in self.model._modules.values())
        types = {getattr(node.get("forward_value"), "dtype", None) for node in nodes if node.get("from_input")}
        return torch.float32 if torch.float32 in types and like.dtype == torch.float64 else like.dtype

    def values(self) -> list[Any]:
        """Values of all nodes of the host at the arguments at which it was last read."""
        return [vars(node).get("forward_value") for node in self.model._modules.values()]


@contextlib.contextmanager
def _ready(model: Any, module: nn.Module, modes: Modes | None) -> Iterator[_Pair]:
    """Both in the modes in which they are compared, afterwards as they were; with gradients if Jacobians are computed.

    The host's nodes are put in evaluation mode, apart from weights, whose mode says whether they are trainable.
    """
    nodes = {part: False for part in model.modules() if type(part).__name__ != "BoundParams"}
    differentiating = any("Jacobian" in type(node).__name__ for node in model._modules.values())
    with (
        full_precision(),
        torch.set_grad_enabled(differentiating),
        modules.undisturbed(module),
        modules.in_modes(modes or evaluation_modes(module)),
        preserved(model),
        modules.in_modes(nodes),
    ):
        yield _Pair(model, module)


def _compare(
    model: Any,
    module: nn.Module,
    where: Points,
    modes: Modes | None = None,
    required: bool = False,
    place: bool = True,
) -> str | None:
    """Why a model is another function: "" if it is not, None if nothing could be compared.

    Args:
        model: the host's model; it is compared as it is in evaluation mode.
        module: the user's, in evaluation mode unless `modes` says otherwise.
        where: arguments of both.
        modes: mode of every part of the module.
        required: whether exceptions of the module at the first of the arguments are the caller's.
        place: whether to look for the first value that differs.
    """
    if getattr(model, "jacobian_start_nodes", None):  # the host's own JacobianOP has no values in torch
        return None
    seen, largest, size, worst = 0, 0.0, 0.0, None
    with _ready(model, module, modes) as pair:
        for index, arguments in enumerate(where):
            try:
                gap = difference(own := pair.own(arguments), pair.read(arguments))
            except MODULE_FAILURES:
                if required and not index:
                    raise
                continue
            if gap is None:
                continue
            seen += 1
            if not modules.within_rounding(gap, pair.precision(own)) and (worst is None or gap[0] > largest):
                worst, (largest, size) = (arguments, own), gap
            if seen == _ENOUGH:
                break
        if worst is None:
            return "" if seen else None
        arguments, own = worst
        again = difference(own, pair.own(arguments))
        if again is not None and again[0] != 0:
            return _RANDOM
    if _is_rounding(model, module, where, modes, largest, size, own.dtype):
        return ""
    reason = "the outputs differ " + (
        f"by {largest:.3g} where the largest is {size:.3g}" if size < math.inf else "in shape"
    )
    first = ""
    if place:
        with _ready(model, module, modes) as pair:
            pair.read(arguments)
            first = first_foreign(module, arguments, pair.values())
    return reason + (f"; the first value that it does not have is that of {first}" if first else "")


def _is_rounding(
    model: Any, module: nn.Module, where: Points, modes: Modes | None, apart: float, size: float, dtype: torch.dtype
) -> bool:
    """Whether the difference shrinks with the precision of the arithmetic, seen on copies in the other number type."""
    other = torch.float32 if dtype == torch.float64 else torch.float64
    if size == math.inf:
        return False
    try:
        gap, scale = _repeated(model, module, where, modes, other)
    except MODULE_FAILURES:  # there are no copies, or the host does not take them
        return apart <= GROSS * eps(dtype) * size
    if other == torch.float32:
        return gap < math.inf and apart <= SHRINKS_WITH_PRECISION * gap
    return gap <= max(GROSS * eps(other) * scale, SHRINKS_WITH_PRECISION * min(apart, scale))


def _repeated(
    model: Any, module: nn.Module, where: Points, modes: Modes | None, dtype: torch.dtype
) -> tuple[float, float]:
    """Largest difference and largest output of copies in another number type."""
    copies: dict[int, Any] = {}
    twin = copy.deepcopy(module, copies).to(dtype)
    twin_modes = None if modes is None else {copies[id(part)]: mode for part, mode in modes.items()}
    example, *elsewhere = (
        tuple(x.to(dtype) if x.is_floating_point() else x for x in arguments) for arguments in (_example(model), *where)
    )
    options = {"device": model.device, "bound_opts": dict(model.bound_opts), "custom_ops": model.custom_ops}
    with modules.undisturbed(twin), modules.in_modes(evaluation_modes(twin)), not_watched():
        fresh = type(model)(twin, example, **options)
    with _ready(fresh, twin, twin_modes) as pair:
        gaps = [difference(pair.own(arguments), pair.read(arguments)) or (0.0, 0.0) for arguments in elsewhere]
    return max(gap for gap, _ in gaps), max(size for _, size in gaps)
