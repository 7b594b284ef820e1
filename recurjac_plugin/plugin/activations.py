"""Activations of the table as nodes of the host: those that it lacks, and those that a user adds.

A row of `ACTIVATIONS` with a `function` and an `operator` is enough for a node of the host (`elementwise`). Which of
them the host needs is found out by looking at its own: a node without lines of its own, or with lines that are known to
be wrong, is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.activations.activation import Activation, Operator
from recurjac_plugin.activations.custom import custom_activation
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.errors import InputError
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.graph.products import PRODUCTS
from recurjac_plugin.host.library import BoundActivation, bound_op_map, bound_ops, parse_module

from .elementwise import BoundElementwise

# In the hosts' CROWN, see `preactivations.defects`; 0.3's Tan knows torch's default type only.
_WRONG = {"onnx::Sin", "onnx::Cos", "onnx::Tan"}

# The exporter writes a function of torch that it does not translate as a call with the function's name as an attribute.
_CALL, _CALLED = "aten::ATen", "aten::"


def node_class(key: str, activation: Activation) -> type:
    """The host's class for a row of the table that has a function and an operator, named by the row's key."""
    name = key if key.startswith("Bound") else f"Bound{key}"
    operator = activation.operator
    assert operator is not None
    described = {"activation": activation, "operator": operator, "__doc__": f"`{operator.name}`."}
    return type(name, (BoundElementwise,), described)


CLASSES: dict[str, type] = {
    row.operator.name: node_class(key, row) for key, row in ACTIVATIONS.items() if row.operator is not None
}
"""Name of the operator in the host's traced graph -> class of its node."""


def missing() -> dict[str, type]:
    """Those of `CLASSES` that the host does not have, or has without a CROWN that holds."""
    return {name: ours for name, ours in CLASSES.items() if not _works(name)}


def _works(name: str) -> bool:
    theirs = _of_host(name)
    if theirs is None or (name in _WRONG and not issubclass(theirs, BoundElementwise)):
        return False
    return getattr(theirs, "bound_relax", None) is not BoundActivation.bound_relax


def _of_host(name: str) -> Any:
    """The class that the host takes for an operator at present, or None."""
    if name.startswith(_CALLED):
        return _taught.get(name) or _own_call(name.removeprefix(_CALLED))
    return bound_op_map.get(name) or getattr(bound_ops, f"Bound{name.removeprefix('onnx::')}", None)


def _own_call(function: str) -> Any:
    """The host's own class for a call of one of torch's functions, or None."""
    return getattr(bound_ops, f"BoundATen{function.capitalize()}", None)


_replaced: dict[str, Any] = {}
"""What `add_to_host` put its classes in place of."""


def add_to_host() -> None:
    """Make the host's models understand the operators it lacks. Doing it again changes nothing."""
    for name, ours in missing().items():
        _put(name, ours, _replaced)


def remove_from_host() -> None:
    """Undo `add_to_host`."""
    for name in [*_replaced]:
        _put_back(name, _replaced)


def _put(name: str, ours: Any, replaced: dict[str, Any]) -> None:
    replaced[name] = bound_op_map.get(name)
    bound_op_map[name] = ours


def _put_back(name: str, replaced: dict[str, Any]) -> None:
    before = replaced.pop(name)
    if before is None:
        bound_op_map.pop(name, None)
    else:
        bound_op_map[name] = before


def register_activation(
    class_name: str,
    derivative: Callable[[Tensor], Tensor],
    critical_points: Iterable[tuple[float, tuple[float, ...] | float]],
    *,
    curvature: float = inf,
    domain: tuple[float, float] = (-inf, inf),
    function: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Add an element-wise activation f to the table, and to auto_LiRPA if that has none.

    After ``register_activation("BoundAsinh", lambda z: (1 + z**2).rsqrt(), [(0.0, 1.0)], function=torch.asinh)`` every
    `BoundedModule` may call ``torch.asinh``: IBP takes the values at the ends of an interval where f is monotone, CROWN
    lines from the derivative's ranges (`recurjac_plugin.plugin.elementwise`), RecurJac these ranges themselves.

    Args:
        class_name: exact name of the host's node class, e.g. ``"BoundSoftsign"`` (sub-classes are not looked up:
            in the host ``BoundGelu`` inherits from ``BoundTanh``). With a `function` that the host does not know, a
            class of this name is made.
        derivative: element-wise ``z -> f'(z)`` in torch, any shape, differentiable if gradients are wanted.
        critical_points: ``(z*, value)`` or ``(z*, (value, ...))`` for every point between which f' is not
            monotone: its peaks and valleys, and its kinks with both one-sided derivatives.
        curvature: upper bound of ``|f'''|`` between the kinks, if f' has no corner there. With it the lines of
            `RecurJac-McCormick` around f' narrow with the square of an interval's width.
        domain: ends of the open interval on which f' is finite: ``(-1.0, 1.0)`` for arcsin. Regions on which the
            pre-activation may leave it are refused.
        function: element-wise ``z -> f(z)`` in torch, any shape, to be had from models that the host cannot read
            otherwise: one of torch's own functions that the exporter writes as one operator, or the ``apply`` of a
            `torch.autograd.Function` with a ``symbolic`` of its own.

    Raises:
        InputError: the class already has a rule; a critical point is not finite, the curvature is negative, or the
            domain empty; derivative, critical points and function contradict each other where they are tried; the
            function is more than one operator in the host's graph, or one that has a class of another name.
    """
    if class_name in ACTIVATIONS:
        raise InputError(f"`{class_name}` already has a derivative range; register another class name.")
    if class_name in OPERATORS or class_name in PRODUCTS:
        raise InputError(f"`{class_name}` already has a linear map or is a product; register another class name.")
    activation = custom_activation(class_name, derivative, critical_points, curvature, domain, function)
    if function is not None:
        activation = replace(activation, operator=Operator(_name_in_graph(class_name, function)))
        _teach(class_name, activation)
    ACTIVATIONS[class_name] = activation


def unregister_activation(class_name: str) -> None:
    """Remove an activation added with `register_activation`, from the host too.

    Raises:
        InputError: the class has no rule.
    """
    if class_name not in ACTIVATIONS:
        raise InputError(f"`{class_name}` has no derivative range to remove; known: {', '.join(ACTIVATIONS)}.")
    operator = ACTIVATIONS.pop(class_name).operator
    if operator is not None and operator.name in _taught:
        _forget(operator.name)


class _Alone(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)


def _name_in_graph(class_name: str, function: Callable[[Tensor], Tensor]) -> str:
    """Name of the operator that a function is in the host's graph.

    Raises:
        InputError: it is more than one, or one with constants.
    """
    nodes = parse_module(_Alone(function), torch.zeros(1, 2))[0]
    names = [_CALLED + node.attr["operator"] if node.op == _CALL else node.op for node in nodes]
    constants = [[key for key in node.attr if key not in ("operator", "overload_name")] for node in nodes]
    if len(nodes) != 1 or len(nodes[0].inputs) != 1 or constants[0]:
        got = ", ".join(f"{name}({', '.join(keys)})" if keys else name for name, keys in zip(names, constants))
        raise InputError(
            f"`function` of `{class_name}` must be one operator without constants in auto_LiRPA's graph, got {got}; "
            "the `apply` of a `torch.autograd.Function` with a `symbolic` of its own is one."
        )
    return names[0]


_taught: dict[str, type] = {}
"""Operators that users added -> their classes."""

_before_taught: dict[str, Any] = {}
"""What these were put in place of."""


def _teach(class_name: str, activation: Activation) -> None:
    """Give the host a class for an operator, unless it has one of this name that works.

    Raises:
        InputError: it, or the table, has a class of another name, or another class of this name.
    """
    assert activation.operator is not None
    name = activation.operator.name
    theirs = CLASSES.get(name) or (_of_host(name) if _works(name) else None)
    if theirs is not None and theirs.__name__ != class_name:
        raise InputError(f"`{name}`, the `function` of `{class_name}`, is known as `{theirs.__name__}` already.")
    if theirs is None and hasattr(bound_ops, class_name):
        raise InputError(f"auto_LiRPA has another `{class_name}`, which is not `{name}`; register another class name.")
    if theirs is not None:
        return
    _taught[name] = node_class(class_name, activation)
    if not name.startswith(_CALLED):
        _put(name, _taught[name], _before_taught)
    elif _CALL not in _before_taught:
        _put(_CALL, _call, _before_taught)


def _forget(name: str) -> None:
    """Undo `_teach`."""
    del _taught[name]
    if not name.startswith(_CALLED):
        _put_back(name, _before_taught)
    elif not any(other.startswith(_CALLED) for other in _taught):
        _put_back(_CALL, _before_taught)


def _call(attr: Any, *arguments: Any) -> Any:
    """The host's node of a call of torch, by the function's name."""
    function = attr["operator"]
    node = _taught.get(_CALLED + function) or _before_taught[_CALL] or _own_call(function)
    if node is None:
        raise NotImplementedError(f"There are unsupported operations: {_CALLED}{function}")
    return node(attr, *arguments)
