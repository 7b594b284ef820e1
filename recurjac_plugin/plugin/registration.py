"""RecurJac as a method of the host: names for `BoundedModule.compute_bounds` and `compute_jacobian_bounds`.

`register` wraps the two methods of the host's class, and its constructor: a method name of this package is answered
here, every other call goes to the host untouched, and models with a `JacobianOP` are made ready when they are built.
`unregister` puts the class back exactly as it was.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from recurjac_plugin.bound_operators import installation
from recurjac_plugin.bound_operators.kinds.easing import with_or_without_windows
from recurjac_plugin.errors import InputError, MethodError, RecurJacError, UnsupportedError
from recurjac_plugin.host import same_function
from recurjac_plugin.host.library import HOST_FAILURES, VERSION, BoundedModule
from recurjac_plugin.host.state import default_dtype
from recurjac_plugin.jacobian.bounds import Bounds
from recurjac_plugin.jacobian.entries import jacobian_bounds
from recurjac_plugin.jacobian.methods import is_method
from recurjac_plugin.lipschitz.mean_value import output_bounds
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.preactivations.host import output_bounds_by_crown

from . import activations, building, inputs, jacobian_node, jacobian_op

_WRAPPED = ("__init__", "check_incompatible_nodes", "_convert_nodes", "compute_bounds", "compute_jacobian_bounds")
_ANSWERED = {"x", "C", "method", "bound_lower", "bound_upper"}
_originals: dict[str, Any] = {}

_NO_LINE = (
    "bounds by the Jacobian are no linear functions of the input, so that there are no coefficients A; `CROWN` has some"
)
_GIVEN = "bounds of nodes are not taken from outside here; `CROWN` takes them"
_REASONS = {
    "return_A": _NO_LINE,
    "needed_A_dict": _NO_LINE,
    "return_b": _NO_LINE,
    "b_dict": _NO_LINE,
    "reference_bounds": _GIVEN,
    "interm_bounds": _GIVEN,
    "intermediate_layer_bounds": _GIVEN,
    "aux_reference_bounds": _GIVEN,
    "IBP": "a prefix says by what the pre-activations are bounded, as in `IBP+RecurJac`",
    "forward": "a prefix says by what the pre-activations are bounded; those of the forward mode are not among them",
    "final_node_name": "the output is bounded; build a `BoundedModule` of the part that ends at the node",
    "decision_thresh": "nothing is cut off at a threshold",
}
"""Option of the host's `compute_bounds` -> why it has no meaning here, and what has."""


def register() -> None:
    """Add the method names to the host's `BoundedModule`, and the operators that it lacks. A second call does nothing.

    Afterwards ``model.compute_bounds(x=(x,), method="RecurJac")`` returns output bounds of shape (b, k), and
    ``model.compute_jacobian_bounds(x, method="RecurJac")`` Jacobian bounds of shape (b, n_out, *input_shape), one pair
    for each perturbed input of a tuple of several.
    Models that are built afterwards may have the activations of `plugin.activations`: PReLU, ELU, softplus, erf and
    others.
    """
    if _originals:
        return
    for name in _WRAPPED:
        _originals[name] = vars(BoundedModule).get(name)
    activations.add_to_host()
    installation.install()
    jacobian_node.add_to_host()
    inputs.add_to_host()
    BoundedModule.__init__ = _wrapped_init(BoundedModule.__init__)
    BoundedModule.check_incompatible_nodes = building.wrapped_check(BoundedModule.check_incompatible_nodes)
    BoundedModule._convert_nodes = building.wrapped_conversion(BoundedModule._convert_nodes)
    BoundedModule.compute_bounds = _wrapped_compute_bounds(BoundedModule.compute_bounds)
    BoundedModule.compute_jacobian_bounds = _wrapped_compute_jacobian_bounds(
        getattr(BoundedModule, "compute_jacobian_bounds", None)
    )


def unregister() -> None:
    """Put the host's classes back as they were before `register`. Calling it again changes nothing."""
    if not _originals:
        return
    for name, original in _originals.items():
        if original is None:
            delattr(BoundedModule, name)
        else:
            setattr(BoundedModule, name, original)
    _originals.clear()
    activations.remove_from_host()
    installation.uninstall()
    jacobian_node.remove_from_host()
    inputs.remove_from_host()


def is_registered() -> bool:
    """Whether the host has the method names and operators of `register` at present."""
    return bool(_originals)


def _wrapped_init(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            with same_function.postponed(), jacobian_op.building():  # a `JacobianOP` has values once it is built
                original(self, *args, **kwargs)
        except HOST_FAILURES as error:
            given = signature.bind(self, *args, **kwargs).arguments
            reason = building.explained(error, given.get("model"), given.get("global_input"), given.get("custom_ops"))
            if reason is None:
                raise
            raise reason from error
        for node in jacobian_node.nodes_of(self):
            node.add_inputs()
            node.require_supported()
            same_function.require(self, ())

    return init


def _wrapped_compute_bounds(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def compute_bounds(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        method = given.get("method")
        if not is_method(method):
            jacobians = jacobian_node.nodes_of(self)
            if not jacobians:
                return original(self, *args, **kwargs)
            jacobian_node.require_alike_inputs(self, jacobians, given.get("x"))
            with full_precision(), default_dtype(jacobian_node.type_of(self, given.get("x"))):
                return _with_jacobians(self, method, lambda: original(self, *args, **kwargs))
        _refuse_other_options(signature, given)
        x = given.get("x")
        x = inputs.of_last_call(self) if x is None else x
        want_lower, want_upper = given.get("bound_lower", True), given.get("bound_upper", True)
        if not want_lower and not want_upper:
            raise InputError("At least one of `bound_lower` and `bound_upper` must be True.")
        lower, upper = output_bounds(self, x, method=str(method), C=given.get("C"))
        inputs.note(self, x)
        return (lower if want_lower else None), (upper if want_upper else None)

    return compute_bounds


def _with_jacobians(model: Any, method: Any, call: Callable[[], Any]) -> Any:
    """The host's bounds of a model with Jacobians in it.

    Raises:
        UnsupportedError: it fails at an operator.
    """
    try:
        return with_or_without_windows(model, call)
    except RecurJacError:
        raise
    except HOST_FAILURES as error:
        named = "" if method is None else f" with `{method}`"
        raise UnsupportedError(
            "The model with a `JacobianOP`",
            [f"auto_LiRPA {VERSION} cannot bound what follows the Jacobian{named} ({building.said(error)})"],
            "Keep the batch first in every value, and write it with operators that bounds are known for.",
        ) from error


def _wrapped_compute_jacobian_bounds(original: Any) -> Any:
    def compute_jacobian_bounds(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        method = kwargs.get("method")
        if method is None and jacobian_node.nodes_of(self):
            return _bounds_of_outputs(self, x, *args, **kwargs)
        if not is_method(method):
            return _of_the_host(original, self, x, *args, **kwargs)
        known = inspect.signature(jacobian_bounds).parameters
        other = [*map(repr, args), *(name for name in kwargs if name not in known)]
        if other:
            raise InputError(
                f"`compute_jacobian_bounds` has no option {', '.join(other)} with this method; it takes, by keyword, "
                f"{', '.join(list(known)[2:])}."
            )
        bounds = jacobian_bounds(self, x, **kwargs)
        return tuple(bounds) if isinstance(bounds, Bounds) else tuple(map(tuple, bounds))

    return functools.wraps(original)(compute_jacobian_bounds) if original else compute_jacobian_bounds


def _of_the_host(original: Any, model: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's own Jacobian bounds, which it has for models with its own `JacobianOP` since 0.4.

    Raises:
        MethodError: it has none.
        InputError: it has no such option.
    """
    lacks = "This version of auto_LiRPA has no Jacobian bounds of its own" if original is None else ""
    if original is not None and not getattr(model, "jacobian_start_nodes", None):
        lacks = "auto_LiRPA's own bounds are of a `JacobianOP` in the model's `forward`, and this model has none"
    if lacks:
        raise MethodError(f"{lacks}; name a method, e.g. `method='RecurJac'`, got {kwargs.get('method')!r}.")
    try:
        inspect.signature(original).bind(model, x, *args, **kwargs)
    except TypeError as error:
        raise InputError(f"auto_LiRPA's `compute_jacobian_bounds` does not take these options: {error}.") from error
    return original(model, x, *args, **kwargs)


@full_precision()
def _bounds_of_outputs(
    model: Any,
    x: Any,
    optimize: bool = True,
    optimize_output_node: Any = None,
    bound_lower: bool = True,
    bound_upper: bool = True,
) -> tuple[Any, Any]:
    """What the host's `compute_jacobian_bounds` returns, for a model with a `JacobianOP`: CROWN bounds of its output.

    `optimize` and `optimize_output_node`, with which the host optimises its relaxation of the Jacobian, have nothing to
    act on here: RecurJac has no variables.
    """
    if not bound_lower and not bound_upper:
        raise InputError("At least one of `bound_lower` and `bound_upper` must be True.")
    arguments = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    jacobian_node.require_alike_inputs(model, jacobian_node.nodes_of(model), arguments)
    return output_bounds_by_crown(model, arguments, bound_lower, bound_upper)


def _refuse_other_options(signature: inspect.Signature, given: dict[str, Any]) -> None:
    """Options of the host that these methods do not have must not be ignored silently."""
    other = [
        name
        for name, value in given.items()
        if name != "self" and name not in _ANSWERED and value is not signature.parameters[name].default
    ]
    if other:
        reasons = "".join(f" `{name}`: {_REASONS[name]}." for name in other if name in _REASONS)
        raise InputError(
            f"`compute_bounds` has no option {', '.join(f'`{name}`' for name in other)} with this method; it takes "
            f"{', '.join(f'`{name}`' for name in sorted(_ANSWERED))}.{reasons}"
        )
