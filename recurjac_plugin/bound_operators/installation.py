"""Our bounds in the host's classes: put in, and taken out again without a trace.

Methods are replaced in the classes themselves, so that models which were built before are bounded by them as well. A
method of ours asks what the node at hand is, and goes to the host's where that is kept; it never speaks for a subclass,
which can be another function (the host's ``BoundGelu`` inherits from ``BoundTanh``).

Source: own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host.library import HOST_FAILURES, IS_03, Bound, BoundedModule, bound_ops
from recurjac_plugin.numerics.deadline import require_time

from .kinds import stopping
from .part import value_of
from .treatments import TREATMENTS, treatment_of

_METHODS = ("interval_propagate", "bound_backward", "bound_relax", "init_opt_parameters", "clip_alpha", "clip_alpha_")
_SAME_AS = {"clip_alpha_": "clip_alpha"}  # the name in 0.3

_OPTIMISED = "optimised_as"
"""Attribute of nodes: the treatment that their `alpha` is for, None where it is the host's."""

_WITH_WINDOWS = ("BoundConv", "BoundConvTranspose", "BoundAdd", "BoundSub", "BoundBatchNormalization")
"""Classes whose `mode` decides what CROWN of one of their nodes begins with."""

_IMAGES = {"BoundConv", "BoundBatchNormalization", "BoundRelu", "BoundAdd", "BoundSub", "BoundInput"}
"""What hands windows on to its inputs: sums of anything else, as of matrices, begin without."""

_before: list[tuple[type, str, Any]] = []
"""What stood in the classes: class, name, and what its own dictionary had, or None."""

_users = 0


def install() -> None:
    """Bound the operators of `treatments.TREATMENTS` by ours, in all models; as often as it is uninstalled."""
    global _users
    _users += 1
    if _users > 1:
        return
    for name in TREATMENTS:
        host_class = getattr(bound_ops, name, None)
        if host_class is None:
            continue
        if IS_03:
            _put(host_class, "alpha_batch_dim", _batch_of_alpha())
        for method in _METHODS:
            if hasattr(host_class, method):
                _put(host_class, method, _method(host_class, method))
        _put(host_class, "requires_input_bounds", _required(host_class))
    for host_class in _classes():
        _put(host_class, "bound_backward", _stopping(vars(host_class)["bound_backward"]))
    _put(Bound, "requires_input_bounds", _required(Bound))
    if IS_03:
        _put(BoundedModule, "check_IBP_intermediate", _intermediate)
    for name in ("BoundReduceMax", "BoundReduceMin"):
        host_class = getattr(bound_ops, name, None)
        if host_class is not None:
            _put(host_class, "forward", _extreme(torch.amax if name == "BoundReduceMax" else torch.amin))
    for name in ("BoundRelu", "BoundLeakyRelu"):
        host_class = getattr(bound_ops, name)
        _put(host_class, "forward", _leaky(host_class.forward))
    for name in _WITH_WINDOWS:
        host_class = getattr(bound_ops, name)
        _put(host_class, "mode", _mode(host_class, name))
    if IS_03:
        _put(bound_ops.Bound, "broadcast_backward", _broadcast_back(bound_ops.Bound.broadcast_backward))


def _classes() -> list[type]:
    """The host's classes with a `bound_backward` of their own, and the base of all."""
    found = {value for value in vars(bound_ops).values() if isinstance(value, type) and issubclass(value, Bound)}
    return [each for each in found if "bound_backward" in vars(each)]


def uninstall() -> None:
    """Take back one `install`; the last one leaves the host's classes as they were."""
    global _users
    if _users == 0:
        return
    _users -= 1
    if _users:
        return
    while _before:
        host_class, name, own = _before.pop()
        if own is None:
            delattr(host_class, name)
        else:
            setattr(host_class, name, own)


@contextmanager
def installed() -> Iterator[None]:
    """Our bounds for a while, whether or not they are installed for good."""
    install()
    try:
        yield
    finally:
        uninstall()


def _put(host_class: type, name: str, value: Any) -> None:
    _before.append((host_class, name, vars(host_class).get(name)))
    setattr(host_class, name, value)


def _method(host_class: type, name: str) -> Any:
    original = getattr(host_class, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        treatment = treatment_of(self) if type(self) is host_class else None
        if name == "init_opt_parameters":
            vars(self)[_OPTIMISED] = treatment
        if name in ("clip_alpha", "clip_alpha_"):  # between two runs, when nothing is marked as perturbed
            treatment = vars(self).get(_OPTIMISED)
        ours = getattr(treatment, _SAME_AS.get(name, name), None)
        if IS_03 and name == "bound_backward":
            _give_values(self)
        if ours is None:
            return original(self, *args, **kwargs)
        return ours(self, *args, **kwargs)

    return method


def _give_values(node: Any) -> None:
    """Bounds of the constants that a node reads, which 0.3 has of parameters, but not of what is computed of them."""
    for source in node.inputs:
        if source.inputs and not source.perturbed and getattr(source, "lower", None) is None:
            source.lower = source.upper = value_of(source)


def _stopping(own: Any) -> Any:
    """CROWN that ends at nodes without a rule and when the time is over, and that says where it failed."""

    @functools.wraps(own)
    def bound_backward(self: Any, *args: Any, **kwargs: Any) -> Any:
        require_time()
        if stopping.ends_at(self, own is not stopping.RULE):
            return stopping.bound_backward(self, *args, **kwargs)
        try:
            return own(self, *args, **kwargs)
        except (*HOST_FAILURES, UnsupportedError) as error:
            stopping.blame(error, self)
            raise

    return bound_backward


def _intermediate(self: Any, node: Any) -> bool:
    """Bounds of a ReLU, a negation or a transpose by intervals from what has bounds before it, whether there is any.

    0.3 writes the intervals that it finds on the way to that node instead, from where the next reader takes them.
    """
    chain = []
    while not hasattr(node, "lower") or not hasattr(node, "upper"):
        if type(node) not in self.ibp_intermediate:
            return False
        chain.append(node)
        node = node.inputs[0]
    node.interval = node.lower, node.upper
    for each in reversed(chain):
        each.interval = self.IBP_general(each)
    return True


def _extreme(best: Any) -> Any:
    """Largest or smallest values along axes; the host asks for their positions, which its perturbed tensors lack."""

    def forward(self: Any, x: Tensor, *axes: Any) -> Any:
        given = axes[0].tolist() if axes else self.axis
        given = list(range(x.dim())) if given is None else given
        several = [given] if isinstance(given, int) else list(given)
        self.axis = tuple(sorted(int(axis) % x.dim() for axis in several))
        self.axis = self.axis[0] if len(self.axis) == 1 else self.axis
        return best(x.as_subclass(Tensor), dim=self.axis, keepdim=self.keepdim)

    return forward


def _leaky(original: Any) -> Any:
    """Leaky ReLUs of any slope; 0.7.1 evaluates those of a negative slope as ReLU."""

    @functools.wraps(original)
    def forward(self: Any, x: Tensor) -> Any:
        slope = vars(self).get("leaky_alpha", 0.0)
        return functional.leaky_relu(x, slope) if slope < 0 else original(self, x)

    return forward


def _batch_of_alpha() -> property:
    """Where the batch stands in the shape of `alpha`: in ours behind the sides and the rows."""

    def get(self: Any) -> Any:
        return vars(self).get("alpha_batch_dim") if vars(self).get(_OPTIMISED) is None else 2

    def put(self: Any, value: Any) -> None:
        vars(self)["alpha_batch_dim"] = value

    return property(get, put)


def _required(host_class: type) -> property:
    """A property in place of the attribute: it holds in models that were built before, too."""

    def get(self: Any) -> Any:
        own = vars(self).get("requires_input_bounds", [])
        if stopping.ends_at(self, type(self).bound_backward is not Bound.bound_backward):
            return stopping.required(self)
        treatment = treatment_of(self) if type(self) is host_class else None
        return own if treatment is None else treatment.requires_input_bounds(self)

    def put(self: Any, value: Any) -> None:
        vars(self)["requires_input_bounds"] = value

    return property(get, put)


def _mode(host_class: type, name: str) -> property:
    """No windows (`patches`) for what is no image, nor where a convolution is bounded by its transposed operator."""

    def get(self: Any) -> Any:
        own = vars(self).get("mode", "matrix")
        image = len(vars(self).get("output_shape") or ()) in (0, 4)  # 0: it has not been evaluated yet
        if name in ("BoundAdd", "BoundSub"):
            image = image and all(type(source).__name__ in _IMAGES for source in self.inputs if source.perturbed)
        whole = type(self) is not host_class or treatment_of(self) is None
        return own if image and whole else "matrix"

    def put(self: Any, value: Any) -> None:
        vars(self)["mode"] = value

    return property(get, put)


def _broadcast_back(original: Any) -> Any:
    """Coefficients of a constant operand with an axis of length 1 for the batch, as in ``x + c``, c (1, n, d).

    0.3 counts that axis twice, and fails. What is spread over an axis gets the sum of the coefficients there.
    """

    @functools.wraps(original)
    def broadcast_backward(self: Any, A: Any, x: Any) -> Any:
        shape = tuple(x.output_shape)
        if not x.perturbed and len(shape) < len(self.output_shape):
            x.batch_dim = -1  # its first axis is another
        if not isinstance(A, Tensor) or x.batch_dim != -1 or len(shape) != A.dim() - 1 or shape[0] != 1:
            return original(self, A, x)
        spread = [i + 1 for i in range(1, len(shape)) if shape[i] == 1 and A.shape[i + 1] != 1]
        return A.sum(spread, keepdim=True) if spread else A

    return broadcast_backward
