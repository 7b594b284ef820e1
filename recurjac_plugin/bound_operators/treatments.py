"""What our bounds of a node of the host are, as methods that take the place of its own.

There are four kinds of nodes: activations, linear operators, operators that multiply or choose, and jumps (`kinds`).
`treatment_of` says which a node is, or None where the host's own bounds are kept: those of ReLU, of dense layers and
ordinary convolutions, and of what only adds, moves or reshapes.
"""

from __future__ import annotations

import abc
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.jumps import JUMPS
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host.library import IS_03, Patches
from recurjac_plugin.numerics.intervals import Interval, Intervals

from . import elementwise, linear, products
from .coefficients import dense
from .kinds.jumps import JumpTreatment
from .kinds.local import box, narrowed, tighten
from .kinds.treatment import Treatment
from .part import Part, value_of
from .softmax import RelaxedSoftmax


class _Activation(Treatment):
    """See `elementwise`."""

    def requires_input_bounds(self, node: Any) -> list[int]:
        return [0]

    def interval_propagate(self, node: Any, *v: Any, **kwargs: Any) -> Interval:
        given = box(v[0])
        try:
            return elementwise.interval_propagate(node, given)
        except UnsupportedError:
            return elementwise.interval_propagate(node, narrowed(node.inputs[0], given))

    def bound_backward(self, node: Any, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        _remember_windows(node, last_lA if last_lA is not None else last_uA, kwargs.get("start_node"))
        return elementwise.bound_backward(node, last_lA, last_uA, *x, **kwargs)

    def bound_relax(self, node: Any, x: Any, init: bool = False, dim_opt: Any = None) -> None:
        elementwise.bound_relax(node, x)

    def init_opt_parameters(self, node: Any, start_nodes: Sequence[Any]) -> None:
        elementwise.init_opt_parameters(node, start_nodes)


class _Steps(Treatment):
    """What linear and other operators have in common: their inputs by name."""

    @abc.abstractmethod
    def _interval(self, part: Part, inputs: dict[str, Interval]) -> Interval: ...

    def interval_propagate(self, node: Any, *v: Any, **kwargs: Any) -> Interval:
        part = Part.of(node)
        inputs = {name: box(v[position]) for name, position in part.positions.items()}
        try:
            bounds = self._interval(part, inputs)
        except UnsupportedError:
            sources = {name: node.inputs[position] for name, position in part.positions.items()}
            bounds = self._interval(part, {name: narrowed(sources[name], each) for name, each in inputs.items()})
        rows = kwargs.get("C")  # shape: (b, k, *shape), where the host takes what its dense layers take
        return bounds if rows is None else specified(rows, bounds)

    @staticmethod
    def _by_position(part: Part, lower: dict[str, Any], upper: dict[str, Any]) -> list[tuple[Any, Any]]:
        first = {position: name for name, position in part.positions.items()}
        names = [first.get(position) for position in range(len(part.node.inputs))]
        return [(lower.get(name or ""), upper.get(name or "")) for name in names]


class _Linear(_Steps):
    """See `linear`."""

    def requires_input_bounds(self, node: Any) -> list[int]:
        return []

    def _interval(self, part: Part, inputs: dict[str, Interval]) -> Interval:
        return linear.interval(part, inputs)

    def bound_backward(self, node: Any, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        part = Part.of(node)
        batch = next(part.node.input_shapes[position][0] for position in part.positions.values())
        like = _like(last_lA if last_lA is not None else last_uA, node).new_empty(batch)
        sides = [
            ({}, 0) if coefficients is None else linear.backward(part, coefficients, like)
            for coefficients in (last_lA, last_uA)
        ]
        (lower, lower_bias), (upper, upper_bias) = sides
        return self._by_position(part, lower, upper), lower_bias, upper_bias

    def init_opt_parameters(self, node: Any, start_nodes: Sequence[Any]) -> None:
        node.alpha = OrderedDict()


def _like(coefficients: Any, node: Any) -> Tensor:
    """A tensor of the type and on the device of a model."""
    if isinstance(coefficients, Tensor):
        return coefficients
    if isinstance(coefficients, Patches) and coefficients.patches is not None:
        patches: Tensor = coefficients.patches
        return patches
    return torch.empty(0, dtype=torch.get_default_dtype(), device=coefficients.device)


def _remember_windows(node: Any, coefficients: Any, start_node: Any) -> None:
    """Keep the shape of windows: alpha-CROWN asks the nodes that it optimises whether they were reached by any."""
    if start_node is None or not isinstance(coefficients, Patches) or not hasattr(node, "patch_size"):
        return
    windows = tuple(coefficients.patches.shape)
    if coefficients.unstable_idx is not None:
        channels, *places = coefficients.output_shape[1:]
        windows = (channels, windows[1], *places, *windows[-3:])
    node.patch_size[start_node.name] = windows


class _Product(_Steps):
    """See `products`. alpha-CROWN mixes the lines of an output with the constants between which it lies."""

    def requires_input_bounds(self, node: Any) -> list[int]:
        return [position for position, source in enumerate(node.inputs) if source.perturbed]

    def _interval(self, part: Part, inputs: dict[str, Interval]) -> Interval:
        return products.interval(part, inputs)

    def bound_backward(self, node: Any, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        part = Part.of(node)
        inputs, relaxed = self._relaxed(part, x)
        _remember_windows(node, last_lA if last_lA is not None else last_uA, kwargs.get("start_node"))
        start = getattr(kwargs.get("start_node"), "name", None)
        chosen = getattr(node, "alpha", {}).get(start) if getattr(node, "opt_stage", None) in ("opt", "reuse") else None
        shares = (None, None) if chosen is None or len(chosen) != 2 else (chosen[0], chosen[1])
        lower: tuple[dict[str, Any], Any] = ({}, 0)
        upper: tuple[dict[str, Any], Any] = ({}, 0)
        shape = tuple(part.node.output_shape[1:])
        like = next(iter(inputs.values()))[0]
        if last_lA is not None:
            lower = self._lower(relaxed, inputs, dense(last_lA, shape, like), shares[0])
        if last_uA is not None:
            A = dense(last_uA, shape, like)
            assert A is not None
            rows, constant = self._lower(relaxed, inputs, -A, shares[1])
            upper = {name: -value for name, value in rows.items()}, -constant
        return self._by_position(part, lower[0], upper[0]), lower[1], upper[1]

    @staticmethod
    def _relaxed(part: Part, x: Sequence[Any]) -> tuple[Intervals, products.Relaxed | RelaxedSoftmax]:
        """Bounds of the inputs by name, and the operator on them; better bounds where it is not defined on these."""
        for again in (False, True):
            inputs = {name: (x[position].lower, x[position].upper) for name, position in part.positions.items()}
            try:
                softmax = part.kind == "BoundSoftmax"
                return inputs, RelaxedSoftmax(part, inputs) if softmax else products.Relaxed(part, inputs)
            except UnsupportedError:
                if again:
                    raise
                for position in part.positions.values():
                    tighten(x[position])
        raise AssertionError

    @staticmethod
    def _lower(
        relaxed: products.Relaxed | RelaxedSoftmax, inputs: Intervals, A: Tensor | None, share: Tensor | None
    ) -> tuple[dict[str, Any], Any]:
        assert A is not None
        if share is None:
            return relaxed.lower(A)
        rows, constant = relaxed.lower(A * share)
        rest = A * (1 - share)
        low, high = products.interval(relaxed.part, inputs)
        return rows, constant + linear.bias(rest.clamp(min=0), low) + linear.bias(rest.clamp(max=0), high)

    def clip_alpha(self, node: Any) -> None:
        elementwise.clip_alpha(node, 1.0)

    def init_opt_parameters(self, node: Any, start_nodes: Sequence[Any]) -> None:
        shape = tuple(node.output_shape)
        like = next(source.lower for source in node.inputs if source.perturbed)
        node.alpha = OrderedDict((start[0], like.new_ones(2, 1, *shape)) for start in start_nodes)


def specified(
    rows: Tensor,  # shape: (b, k, *shape)
    bounds: Interval,
) -> Interval:
    """Interval bounds of ``C z``, (b, k) each."""
    lower, upper = (bound.reshape(len(bound), -1, 1) for bound in bounds)
    rows = rows.reshape(*rows.shape[:2], -1)
    positive, negative = rows.clamp(min=0), rows.clamp(max=0)
    return (positive @ lower + negative @ upper).squeeze(2), (positive @ upper + negative @ lower).squeeze(2)


ACTIVATION, LINEAR, PRODUCT, JUMP = _Activation(), _Linear(), _Product(), JumpTreatment()


def _function(node: Any) -> Treatment | None:
    return ACTIVATION if type(node).__name__ in ACTIVATIONS else None


def _with_constants(node: Any) -> Treatment | None:
    """Powers with one exponent, clips with two ends: others have no row in the table."""
    return ACTIVATION if Part.of(node).kind in ACTIVATIONS else None


def _beyond_leaky(node: Any) -> Treatment | None:
    """The host takes a leaky ReLU for monotone and convex."""
    slope = vars(node).get("leaky_alpha", vars(node).get("alpha", 0.0))
    return None if not isinstance(slope, (int, float)) or 0 <= slope <= 1 else ACTIVATION


def _convolution(node: Any) -> Treatment | None:
    """The host's windows do not know groups, dilation, or other dimensions than two."""
    plain = len(node.stride) == 2 and node.groups == 1 and all(step == 1 for step in node.dilation)
    return None if plain else _alone(node)


def _matrix_product(node: Any) -> Treatment | None:
    """A constant from the right is a dense layer, which the host is right about."""
    if _several(node):
        return PRODUCT if IS_03 else None
    constant = next(value_of(source) for source in node.inputs if not source.perturbed)
    if constant.dim() > 2 and constant.shape[0] > 1 and constant.dim() == len(node.output_shape):
        return PRODUCT  # one matrix per sample of the batch: no map that all samples share
    return None if node.inputs[0].perturbed and value_of(node.inputs[1]).dim() == 2 else LINEAR


def _concat(node: Any) -> Treatment | None:
    return None if all(source.perturbed for source in node.inputs) else LINEAR


def _average_pool(node: Any) -> Treatment | None:
    """The host swaps the rows and columns that a pool leaves out; 0.3 wants windows side by side, and more."""
    kernel = tuple(node.kernel_size)
    if IS_03:
        return _alone(node)
    if kernel != tuple(node.stride) or any(node.padding):
        return None
    rests = {size % k for size, k in zip(node.inputs[0].output_shape[2:], kernel)}
    return _alone(node) if len(rests) > 1 else None


def _times_constant(node: Any) -> Treatment | None:
    """The host multiplies windows by constants of as many dimensions as images have, and by no others."""
    (constant,) = (source for source in node.inputs if not source.perturbed)
    return LINEAR if len(node.output_shape) == 4 and value_of(constant).dim() != 4 else None


def _product(node: Any) -> Treatment | None:
    if _several(node):
        square = node.inputs[0] is node.inputs[1] and Part.of(node).kind in ACTIVATIONS
        return ACTIVATION if square else None
    constant = next((value_of(source) for source in node.inputs if not source.perturbed), None)
    if constant is not None and constant.dim() == len(node.output_shape) and len(constant) > 1:
        return PRODUCT  # one number per sample of the batch: no map that all samples share
    return LINEAR if IS_03 and _broadcasts(node) else _times_constant(node)


def _sum(node: Any) -> Treatment | None:
    """0.3 loses shapes where something smaller is added."""
    return LINEAR if IS_03 and len(node.output_shape) != 4 and _broadcasts(node) else None


def _broadcasts(node: Any) -> bool:
    """Whether an input is repeated along an axis."""
    shapes = (source.output_shape if source.perturbed else value_of(source).shape for source in node.inputs)
    return any(tuple(shape) != tuple(node.output_shape) for shape in shapes)


def _dense_layer(node: Any) -> Treatment | None:
    """The host multiplies by the factors of a Gemm what it has not."""
    factors = (vars(node).get(f"{name}_linear", vars(node).get(name, 1.0)) for name in ("alpha", "beta"))
    return _alone(node) if any(isinstance(factor, float) and factor != 1.0 for factor in factors) else None


def _normalisation(node: Any) -> Treatment | None:
    """0.3 looks for its parameters where constants have none."""
    constant = any(type(source).__name__ == "BoundConstant" for source in node.inputs[1:])
    return _alone(node) if IS_03 and constant and not node.training else None


def _quotient(node: Any) -> Treatment | None:
    return PRODUCT if node.inputs[1].perturbed else _alone(node)


def _to_image(node: Any) -> Treatment | None:
    """The host hands windows of an image on to what has fewer dimensions, where nobody can read them."""
    return LINEAR if len(node.output_shape) == 4 and not IS_03 else None


def _alone(node: Any) -> Treatment | None:
    """Only its first input is perturbed."""
    return LINEAR if node.inputs[0].perturbed and not _several(node) else None


def _several(node: Any) -> bool:
    return sum(source.perturbed for source in node.inputs) > 1


TREATMENTS: dict[str, Callable[[Any], Treatment | None]] = {
    **dict.fromkeys(
        (
            "BoundTanh", "BoundSigmoid", "BoundAtan", "BoundTan", "BoundExp", "BoundLog", "BoundSqrt",
            "BoundReciprocal", "BoundSin", "BoundCos", "BoundGelu",
        ),
        _function,
    ),
    "BoundPow": _with_constants,
    "BoundHardTanh": _with_constants,
    "BoundRelu": _beyond_leaky,
    "BoundLeakyRelu": _beyond_leaky,
    "BoundConv": _convolution,
    "BoundConvTranspose": _alone,
    "BoundUnsqueeze": _to_image,
    "BoundMatMul": _matrix_product,
    "BoundGather": _alone,
    "BoundPad": _alone,
    "BoundConcat": _concat,
    "BoundAveragePool": _average_pool,
    "BoundAdd": _sum,
    "BoundSub": _sum,
    "BoundLinear": _dense_layer,
    "BoundBatchNormalization": _normalisation,
    "BoundMul": _product,
    "BoundDiv": _quotient,
    **dict.fromkeys(
        (
            "BoundMax", "BoundMin", "BoundReduceMax", "BoundReduceMin", "BoundReduceLogSumExp", "BoundMaxPool",
            "BoundSoftmax",
        ),
        lambda node: PRODUCT,
    ),
    **dict.fromkeys(JUMPS, lambda node: JUMP),
}  # fmt: skip
"""Exact class name of the host's node -> how it is bounded, None where by the host."""


def treatment_of(node: Any) -> Treatment | None:
    """How a node is bounded: ours, or None where the host's own bounds are kept."""
    rule = TREATMENTS.get(type(node).__name__)
    if rule is None or not node.perturbed or node.output_shape is None:  # the last: it has not been evaluated yet
        return None
    return rule(node)
