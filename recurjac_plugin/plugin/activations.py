"""Activations for the host that it has no sound operator for: IBP and CROWN from the function and its derivative range.

The lines that CROWN needs on ``[l, u]`` follow from the derivative ranges of `activations` on 32 pieces of the
interval: with slope s, ``g(z) = f(z) - s z`` has derivatives in ``[p, q]`` on a piece ``[a, b]``, hence stays below the
lines ``g(a) + q (z - a)`` and ``g(b) - p (b - z)``; where they meet is the largest height it can reach. This intercept
is exact where f is linear or has one kink in a piece, and off by ``f'' w^2 / 8`` on a smooth piece of width w.

Of all lines above f the one that leaves the smallest area touches the concave hull of f at the middle of the interval;
the slope is that of the hull's edge there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.activations.table import ACTIVATIONS, Activation
from recurjac_plugin.host.library import BoundActivation, bound_op_map, bound_ops
from recurjac_plugin.numerics.rounding import ELEMENTWISE, eps
from recurjac_plugin.preactivations.defects import TAUGHT

_PIECES = 32
_EDGE_STEPS = 8  # finds the edge of the hull of 33 points; fewer would still be sound


@dataclass(frozen=True)
class Operator:
    """One operator for the host.

    Attributes:
        function: ``(x, **parameters) -> f(x)``.
        row: key of the activation table.
        attributes: parameters that are attributes of the ONNX node, with their defaults.
        constants: parameters that are further inputs, in order; they must not be perturbed.
    """

    function: Callable[..., Tensor]
    row: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[str, ...] = ()


OPERATORS: dict[str, Operator] = {
    "PRelu": Operator(lambda x, slope: torch.where(x >= 0, x, slope * x), "BoundPRelu", constants=("slope",)),
    "Elu": Operator(lambda x, alpha: functional.elu(x, alpha), "BoundElu", {"alpha": 1.0}),
    "Celu": Operator(lambda x, alpha: functional.celu(x, alpha), "BoundCelu", {"alpha": 1.0}),
    "Selu": Operator(
        lambda x, alpha, gamma: gamma * functional.elu(x, alpha),
        "BoundSelu",
        {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
    ),
    "Softplus": Operator(lambda x: torch.logaddexp(x, torch.zeros_like(x)), "BoundSoftplus"),
    "Erf": Operator(torch.erf, "BoundErf"),
    "Gelu": Operator(
        lambda x, approximate: functional.gelu(x, approximate=approximate), "BoundGelu", {"approximate": "none"}
    ),
    "HardSigmoid": Operator(
        lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), "BoundHardSigmoid", {"alpha": 0.2, "beta": 0.5}
    ),
    "HardSwish": Operator(functional.hardswish, "BoundHardSwish"),
    "Softsign": Operator(functional.softsign, "BoundSoftsign"),
    "Mish": Operator(functional.mish, "BoundMish"),
    "Sin": Operator(torch.sin, "BoundSin"),
    "Cos": Operator(torch.cos, "BoundCos"),
    "Tan": Operator(torch.tan, "BoundTan"),
    "Clip": Operator(torch.clamp, "HardTanh", constants=("min", "max")),
}
"""ONNX name of the operator -> what the host is taught if it has none that works."""

# In the hosts' CROWN, see `host_defects`; 0.3's Tan knows torch's default type only.
_WRONG = {"onnx::Sin", "onnx::Cos", "onnx::Tan"}
_CLASS_NAMES = {"Clip": "BoundHardTanh"}


class BoundElementwise(BoundActivation):
    """The host's node of one of `OPERATORS`, named by its subclasses."""

    operator: Operator

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0, options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        setattr(self, TAUGHT, True)
        for name, default in self.operator.attributes.items():
            setattr(self, name, (attr or {}).get(name, default))

    @property
    def activation(self) -> Activation:
        """Its derivative ranges."""
        return ACTIVATIONS[self.operator.row]

    def _arguments(self, constants: tuple[Any, ...]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.operator.attributes} | dict(
            zip(self.operator.constants, constants)
        )

    def forward(self, x: Tensor, *constants: Any) -> Tensor:
        """The function itself."""
        return self.operator.function(x, **self._arguments(constants))

    def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
        """IBP: the values at the ends where f is monotone, the horizontal lines around it elsewhere."""
        (low, high), *constants = v
        parameters = self._arguments(tuple(constant[0] for constant in constants))
        self._require_domain(low, high, parameters)
        at_low, at_high = (self.operator.function(end, **parameters) for end in (low, high))
        smallest, largest = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
        dl, du = self.activation.derivative_range(low, high, parameters)
        error = _rounding(torch.maximum(at_low.abs(), at_high.abs()), None, torch.maximum(low.abs(), high.abs()))
        smallest, largest = smallest - error, largest + error
        if bool(((dl < 0) & (du > 0)).any()):
            pieces = _Pieces.of(self.operator, parameters, low, high)
            zero = torch.zeros_like(low)
            smallest, largest = -pieces.negated().intercept(zero), pieces.intercept(zero)
        return smallest, largest

    def _require_domain(self, lower: Tensor, upper: Tensor, parameters: Mapping[str, Any]) -> None:
        """Refuse intervals that contain a pole: the function has no bounds there, whatever its values at the ends."""
        ordered = torch.minimum(lower, upper), torch.maximum(lower, upper)
        self.activation.within_domain(str(self.name), ordered, ordered, parameters)

    def bound_backward(self, last_lA: Any, last_uA: Any, x: Any, *constants: Any, **kwargs: Any) -> Any:
        """CROWN, by the host's way for activations of one input."""
        self._constants = tuple(map(_value, constants))
        inputs, lower, upper = super().bound_backward(last_lA, last_uA, x, **kwargs)
        return [*inputs, *((None, None) for _ in constants)], lower, upper

    def bound_forward(self, dim_in: int, x: Any, *constants: Any) -> Any:
        """Forward-mode linear bounds, likewise."""
        self._constants = tuple(constant.lb for constant in constants)
        return super().bound_forward(dim_in, x)

    def bound_relax(self, x: Any, init: bool = False, dim_opt: Any = None) -> None:
        """Lines ``lw z + lb <= f(z) <= uw z + ub`` on the bounds of x."""
        parameters = self._arguments(self._constants)
        self._require_domain(x.lower, x.upper, parameters)
        pieces = _Pieces.of(self.operator, parameters, x.lower, x.upper)
        self.uw = pieces.slope()
        self.ub = pieces.intercept(self.uw)
        below = pieces.negated()
        slope = below.slope()
        self.lw, self.lb = -slope, -below.intercept(slope)


def _value(constant: Any) -> Any:
    """The value of one of the host's nodes that is not perturbed: what holds it depends on its kind and the version."""
    for name in ("lower", "forward_value", "value"):
        held = getattr(constant, name, None)
        if held is not None:
            return held
    return constant.forward(*[_value(source) for source in constant.inputs])


@torch.no_grad()
def _rounding(value: Tensor, slope: Tensor | None, argument: Tensor) -> Tensor:
    """Error of computed values and intercepts: functions are off by the rounding of their argument, too."""
    size = value + (1 if slope is None else 1 + slope.abs()) * argument
    return ELEMENTWISE * eps(size) * size + torch.finfo(size.dtype).tiny


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A function on intervals cut into pieces; shapes (pieces + 1, *shape) and (pieces, *shape).

    Attributes:
        knots: where the pieces meet.
        values: the function there.
        least, most: its derivative range on each piece.
    """

    knots: Tensor
    values: Tensor
    least: Tensor
    most: Tensor

    @classmethod
    def of(cls, operator: Operator, parameters: Mapping[str, Any], lower: Tensor, upper: Tensor) -> _Pieces:
        fraction = torch.linspace(0, 1, _PIECES + 1, dtype=lower.dtype, device=lower.device)
        fraction = fraction.reshape(-1, *(1,) * lower.dim())
        knots = lower * (1 - fraction) + upper * fraction
        values = operator.function(knots, **parameters)
        least, most = ACTIVATIONS[operator.row].derivative_range(knots[:-1], knots[1:], parameters)
        return cls(knots, values, least, most)

    def negated(self) -> _Pieces:
        """The same for -f."""
        return _Pieces(self.knots, -self.values, -self.most, -self.least)

    def slope(self) -> Tensor:
        """Slope of the concave hull's edge over the middle of the interval, shape (*shape)."""
        left, right = self._edge()
        return self._chord(left, right)[0]

    def _chord(self, left: Tensor, right: Tensor) -> Tensor:
        """Slope between two knots, by position: all of shape (1, *shape)."""
        width = self.knots.gather(0, right) - self.knots.gather(0, left)
        rise = self.values.gather(0, right) - self.values.gather(0, left)
        flat = width <= 0  # a point: any slope is right, that of f is the best
        return torch.where(flat, self.most[:1], rise / torch.where(flat, 1.0, width))

    @torch.no_grad()
    def _edge(self) -> tuple[Tensor, Tensor]:
        """Positions of the knots between which the hull's edge over the middle lies, shape (1, *shape)."""
        knots, values = self.knots, self.values
        middle = (knots[:1] + knots[-1:]) / 2
        left, right = (torch.full_like(knots[:1], end, dtype=torch.long) for end in (0, _PIECES))
        for _ in range(_EDGE_STEPS):
            highest = (values - self._chord(left, right) * knots).argmax(0, keepdim=True)
            before = knots.gather(0, highest) <= middle
            left, right = torch.where(before, highest, left), torch.where(before, right, highest)
        return left, right

    def intercept(self, slope: Tensor) -> Tensor:
        """The least b found for which ``f(z) <= slope z + b`` on the interval, widened by rounding; shape (*shape)."""
        heights = self.values - slope * self.knots
        first, last = heights[:-1], heights[1:]
        falling, rising = self.least - slope, self.most - slope
        width = self.knots[1:] - self.knots[:-1]
        peak = (falling < 0) & (rising > 0)
        spread = torch.where(peak, rising - falling, 1.0)
        # Where the line up from the first knot meets the line down to the last.
        meeting = ((last - first - falling * width) / spread).clamp(min=0).minimum(width)
        highest = torch.where(peak, first + rising * meeting, torch.maximum(first, last)).amax(0)
        # Knots are rounded, too, which moves the values there by that times the derivative.
        steepest = torch.maximum(slope.abs(), torch.maximum(self.least.abs(), self.most.abs()).amax(0))
        return highest + _rounding(self.values.abs().amax(0), steepest, self.knots.abs().amax(0))


CLASSES: dict[str, type] = {
    f"onnx::{name}": type(
        _CLASS_NAMES.get(name, f"Bound{name}"), (BoundElementwise,), {"operator": operator, "__doc__": f"ONNX {name}."}
    )
    for name, operator in OPERATORS.items()
}
"""Name of the operator in the host's traced graph -> class of its node."""


def missing() -> dict[str, type]:
    """Those of `CLASSES` that the host does not have, or has without a CROWN that holds."""
    return {name: ours for name, ours in CLASSES.items() if not _works(name)}


def _works(name: str) -> bool:
    theirs = bound_op_map.get(name) or getattr(bound_ops, f"Bound{name.removeprefix('onnx::')}", None)
    if theirs is None or (name in _WRONG and not issubclass(theirs, BoundElementwise)):
        return False
    return getattr(theirs, "bound_relax", None) is not BoundActivation.bound_relax


_added: dict[str, Any] = {}


def add_to_host() -> None:
    """Make the host's models understand the operators it lacks. Doing it again changes nothing."""
    for name, ours in missing().items():
        _added[name] = bound_op_map.get(name)
        bound_op_map[name] = ours


def remove_from_host() -> None:
    """Undo `add_to_host`."""
    for name, before in _added.items():
        if before is None:
            bound_op_map.pop(name, None)
        else:
            bound_op_map[name] = before
    _added.clear()
