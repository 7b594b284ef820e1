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
from recurjac_plugin.bound_operators.elementwise import BoundElementwise
from recurjac_plugin.bound_operators.lacking import LACKING
from recurjac_plugin.errors import InputError
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.graph.products import PRODUCTS
from recurjac_plugin.host.library import BoundActivation, bound_op_map, bound_ops, parse_module

# Whose constructors make tables in torch's default type.
_MADE_FOR_A_TYPE = {"onnx::Sin", "onnx::Cos", "onnx::Tan"}

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
"""Name of the operator in the host's traced graph -> class of its node: those of the table, and those of users."""

_added: set[str] = set()
"""Operators that the host has from us by `add_to_host`."""

_registered: set[str] = set()
"""Operators that the host has from us by `register_activation`."""

_before: dict[str, Any] = {}
"""What our entries in the host's map stand in place of."""


def missing() -> dict[str, Any]:
    """What the host's map lacks: `LACKING`, and entries for those of `CLASSES` that it has not with lines."""
    return _entries(name for name in (*CLASSES, *LACKING) if not _works(name))


def add_to_host() -> None:
    """Make the host's models understand the operators it lacks. Doing it again changes nothing."""
    _added.update(name for name in (*CLASSES, *LACKING) if not _works(name))
    _update()


def remove_from_host() -> None:
    """Undo `add_to_host`."""
    _added.clear()
    _update()


def _works(name: str) -> bool:
    """Whether the host has lines for an operator at present."""
    added = name in _added | _registered
    return added or (name not in LACKING and name not in _MADE_FOR_A_TYPE and _has_lines(_own(name)))


def _has_lines(theirs: Any) -> bool:
    """Whether a class of the host, or None, bounds what it stands for by lines."""
    return theirs is not None and getattr(theirs, "bound_relax", None) is not BoundActivation.bound_relax


def _own(name: str) -> Any:
    """The host's class for an operator, or None."""
    if name.startswith(_CALLED):
        return getattr(bound_ops, f"BoundATen{name.removeprefix(_CALLED).capitalize()}", None)
    return bound_op_map.get(name) or getattr(bound_ops, f"Bound{name.removeprefix('onnx::')}", None)


def _entries(names: Iterable[str]) -> dict[str, Any]:
    """The entries of the host's map by which it has operators from us."""
    return dict((_CALL, _call) if name.startswith(_CALLED) else (name, {**CLASSES, **LACKING}[name]) for name in names)


def _update() -> None:
    """Put our entries into the host's map, and what was there before in place of those that are no longer wanted."""
    entries = _entries(_added | _registered)
    for key in _before.keys() - entries.keys():
        if _before[key] is None:
            bound_op_map.pop(key, None)
        else:
            bound_op_map[key] = _before[key]
        del _before[key]
    for key in entries.keys() - _before.keys():
        _before[key] = bound_op_map.get(key)
        bound_op_map[key] = entries[key]


def _call(attr: Any, *arguments: Any) -> Any:
    """The host's node of a call of torch, by the function's name: ours if the host has none with lines."""
    name = _CALLED + attr["operator"]
    ours, own = CLASSES.get(name), _own(name)
    others = _before.get(_CALL) or bound_op_map.get(_CALL, _call)
    if ours is not None and not _has_lines(own):
        return ours(attr, *arguments)
    if others is not _call:
        return others(attr, *arguments)
    if own is None:
        raise NotImplementedError(f"There are unsupported operations: {name}")
    return own(attr, *arguments)


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
    if operator is not None and operator.name in _registered:
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


def _teach(class_name: str, activation: Activation) -> None:
    """Give the host a class for an operator, unless it has one of this name that works.

    Raises:
        InputError: it, or the table, has a class of another name, or another class of this name.
    """
    assert activation.operator is not None
    name = activation.operator.name
    own = _own(name)
    known = CLASSES.get(name) or (own if _has_lines(own) else None)
    if known is not None and known.__name__ != class_name:
        raise InputError(f"`{name}`, the `function` of `{class_name}`, is known as `{known.__name__}` already.")
    if known is None and hasattr(bound_ops, class_name):
        raise InputError(f"auto_LiRPA has another `{class_name}`, which is not `{name}`; register another class name.")
    if known is None:
        CLASSES[name] = node_class(class_name, activation)
        _registered.add(name)
        _update()


def _forget(name: str) -> None:
    """Undo `_teach`."""
    _registered.discard(name)
    _update()
    del CLASSES[name]
