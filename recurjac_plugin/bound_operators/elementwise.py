r"""Activations of the host's graph: IBP, CROWN and alpha-CROWN from a function and the range of its derivative.

The lines are those of `activations.pieces`, for every activation that has a `function` in the table. alpha-CROWN
chooses other slopes, between the ends of the derivative's range,

.. math:: s = \underline{d} + \alpha (\overline{d} - \underline{d}), \qquad 0 \le \alpha \le 1,

one for each side of the line and of the bound, neuron by neuron, and for every row by itself unless there are many; the
intercept of any slope holds.

Source: own; optimising slopes is alpha-CROWN's (Xu et al., ICLR 2021, arXiv:2011.13824).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.activation import Activation, Operator, Parameters
from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.activations.pieces import Pieces, lines_around
from recurjac_plugin.activations.pieces import interval as interval_of
from recurjac_plugin.errors import UnsupportedError, counted
from recurjac_plugin.host.library import (
    BoundActivation,
    Patches,
    maybe_unfold_patches,
    multiply_by_signs,
)
from recurjac_plugin.numerics.intervals import Interval

from .coefficients import dense
from .kinds.local import tighten
from .part import Part, value_of

_SCALE = 10.0  # of alpha: the steps of the host are made for ReLUs, whose best slopes are at the ends of their range
_DRAWN = "recurjac_lines"  # attribute of a node
_MOST_SLOPES = 2**19  # of an activation for every row by itself; beyond, all rows share them


def _function_of(node: Any) -> tuple[Activation, Parameters]:
    """The row of the table, with a `function`, and the parameters of an activation, for a node of the host."""
    found = (node.activation, node.parameters()) if isinstance(node, BoundElementwise) else Part.of(node).activation
    assert found is not None
    return found


def interval_propagate(node: Any, *v: Any) -> Interval:
    """IBP of an activation.

    Args:
        node: of the host.
        *v: lower and upper bounds of every input, the first of shape (b, *shape).

    Raises:
        UnsupportedError: the function is not defined on an interval.
    """
    activation, parameters = _function_of(node)
    lower, upper = _ordered(*v[0])
    _require_domain(node, activation, parameters, lower, upper)
    return interval_of(activation, lower, upper, parameters)


def bound_backward(node: Any, last_lA: Any, last_uA: Any, x: Any, *constants: Any, **kwargs: Any) -> Any:
    """CROWN through an activation: coefficients of its inputs, and the two constants, as the host has them.

    Args:
        node: of the host.
        last_lA: coefficients of the lower bound, (rows, b, *shape), in one of the host's forms, or None.
        last_uA: likewise of the upper bound.
        x: the node's input, whose bounds are known.
        *constants: its other inputs.
        **kwargs: of which `start_node` is the node that is being bounded.

    Raises:
        UnsupportedError: the function is not defined on an interval.
    """
    start = getattr(kwargs.get("start_node"), "name", None)
    _tightened(node, x)
    below, above = lines(node, x.lower, x.upper, start)
    lA, lower = one_side(node, last_lA, below, positive_below=True)
    uA, upper = one_side(node, last_uA, above, positive_below=False)
    return [(lA, uA), *((None, None) for _ in constants)], lower, upper


def bound_relax(node: Any, x: Any, init: bool = False, dim_opt: Any = None) -> None:
    """Lines ``lw z + lb <= f(z) <= uw z + ub`` on the bounds of x, all of shape (b, *shape), for the host's own use.

    Raises:
        UnsupportedError: the function is not defined on an interval.
    """
    relaxation, _ = lines(node, x.lower, x.upper, None)
    node.lw, node.lb = relaxation.lower_slope, relaxation.lower_constant
    node.uw, node.ub = relaxation.upper_slope, relaxation.upper_constant


def lines(
    node: Any,
    lower: Tensor,  # shape: (b, *shape)
    upper: Tensor,  # shape: (b, *shape)
    start: str | None,
) -> tuple[Relaxation, Relaxation]:
    """Lines for the lower and for the upper bound of a node: the same, unless their slopes are being optimised.

    Returns:
        Shape (b, *shape) each, or (rows or 1, b, *shape) with slopes of alpha-CROWN for the node `start`.

    Raises:
        UnsupportedError: the function is not defined on an interval.
    """
    activation, parameters = _function_of(node)
    chosen = getattr(node, "alpha", {}).get(start) if getattr(node, "opt_stage", None) in ("opt", "reuse") else None
    optimised = chosen is not None and len(chosen) == 4
    version, given = _version(lower, upper, parameters), (lower, upper)
    drawn: _Drawn | None = None if optimised or version is None else vars(node).get(_DRAWN)
    if drawn and drawn.of(activation, given) and drawn.version == version:
        return drawn.lines, drawn.lines
    lower, upper = _ordered(lower, upper)
    _require_domain(node, activation, parameters, lower, upper)
    if not optimised:
        both = _bounded(lines_around(activation, lower, upper, parameters))
        if version is not None and not both.lower_slope.requires_grad and not both.upper_slope.requires_grad:
            vars(node)[_DRAWN] = _Drawn(activation, given, version, both)
        return both, both
    assert chosen is not None
    pieces = Pieces.over(activation, lower, upper, parameters)
    least, width = _slope_range(pieces)
    slopes = least + chosen / _SCALE * width
    negated = pieces.negated()
    below, above = (
        _bounded(Relaxation(slopes[i], -negated.intercept(-slopes[i]), slopes[i + 1], pieces.intercept(slopes[i + 1])))
        for i in (0, 2)
    )
    return below, above


@dataclass(frozen=True, eq=False)  # no tuple: those count as attributes of a node
class _Drawn:
    """The lines that were drawn last for a node: every layer behind it that the host bounds asks for them again.

    Attributes:
        activation: the very function that they were drawn for, and of
        bounds: these very tensors.
        version: how often these had been written to, and the function's parameters.
        lines: without gradients, so that no graph of autograd is used twice.
    """

    activation: Activation
    bounds: Interval
    version: Any
    lines: Relaxation

    def of(self, activation: Activation, bounds: Interval) -> bool:
        """Whether they are those of a function on bounds, by identity."""
        return self.activation is activation and all(mine is its for mine, its in zip(self.bounds, bounds))


def _version(lower: Tensor, upper: Tensor, parameters: Parameters) -> Any:
    """See `_Drawn`; None where that cannot be compared at no cost."""
    tensors = any(isinstance(value, Tensor) for value in parameters.values())
    if tensors or lower.is_inference() or upper.is_inference():
        return None
    numbers = {
        key: value for key, value in parameters.items() if isinstance(value, (bool, int, float, str, type(None)))
    }
    return lower._version, upper._version, numbers


def _bounded(relaxation: Relaxation) -> Relaxation:
    """Constants instead of lines where no finite line is known."""
    known = torch.ones_like(relaxation.lower_slope, dtype=torch.bool)
    for value in (
        relaxation.lower_slope,
        relaxation.lower_constant,
        relaxation.upper_slope,
        relaxation.upper_constant,
    ):
        known = known & value.isfinite()
    zero = torch.zeros_like(relaxation.lower_slope)
    return relaxation.where(known, Relaxation(zero, zero - torch.inf, zero, zero + torch.inf))


def _slope_range(pieces: Pieces) -> tuple[Tensor, Tensor]:
    """Least derivative on an interval, and how much larger it gets: (b, *shape) each, not differentiated."""
    least, most = pieces.least.amin(0).detach(), pieces.most.amax(0).detach()
    known = least.isfinite() & most.isfinite()
    slope = pieces.slope().detach()
    return torch.where(known, least, slope), torch.where(known, most - least, 0.0)


def one_side(node: Any, coefficients: Any, relaxation: Relaxation, positive_below: bool) -> tuple[Any, Any]:
    """Coefficients through the lines: positive ones take the line below for a lower bound, negative ones the other."""
    if coefficients is None:
        return None, 0
    like = relaxation.lower_slope
    windows = isinstance(coefficients, Patches) and not coefficients.identity
    A: Any = coefficients if windows else dense(coefficients, tuple(node.output_shape[1:]), like)
    below = relaxation.lower_slope, relaxation.lower_constant
    above = relaxation.upper_slope, relaxation.upper_constant
    (positive, added), (negative, also) = (below, above) if positive_below else (above, below)
    if not bool(added.isfinite().all() & also.isfinite().all()):
        return _unbounded(dense(A, tuple(node.output_shape[1:]), like), positive, negative, added, also)
    rows = 1 if windows else len(A)
    spread = []
    for value in (positive, negative, added, also):
        value = value if value.dim() > len(node.output_shape) else value.unsqueeze(0)
        value = value if len(value) == rows else value[:1]  # what holds for one row holds for all
        spread.append(maybe_unfold_patches(value.contiguous(), A))
    return multiply_by_signs(A, *spread)


def _unbounded(A: Any, positive: Tensor, negative: Tensor, added: Tensor, also: Tensor) -> tuple[Tensor, Tensor]:
    """The same with infinite constants, which count only where a coefficient is not 0."""
    above, below = A.clamp(min=0), A.clamp(max=0)
    constant = torch.where(above > 0, above * added, 0.0) + torch.where(below < 0, below * also, 0.0)
    return above * positive + below * negative, constant.reshape(*constant.shape[:2], -1).sum(2)


def _ordered(lower: Tensor, upper: Tensor) -> Interval:
    """Bounds of a point can come inverted by rounding."""
    return torch.minimum(lower, upper), torch.maximum(lower, upper)


def _require_domain(node: Any, activation: Activation, parameters: Parameters, lower: Tensor, upper: Tensor) -> None:
    """Refuse intervals that contain a pole: the function has no bounds there, whatever its values at the ends.

    An end at which the domain ends and the function does not, as that of a root at 0, is none.
    """
    domain = activation.domain(parameters)
    if domain is None:
        return
    assert activation.function is not None
    finite = activation.function(lower, parameters).isfinite() & activation.function(upper, parameters).isfinite()
    first, last = torch.nextafter(lower, upper), torch.nextafter(upper, lower)
    inside = finite & (lower < upper) & domain.contains(first, last)
    cut = torch.where(inside, (first + last) / 2, lower), torch.where(inside, (first + last) / 2, upper)
    activation.within_domain(str(node.name), cut, cut, parameters)


def _tightened(node: Any, x: Any) -> None:
    """Where bounds of an argument reach beyond the domain: those by intervals count, too, as of ``1 + exp(z)``."""
    activation, parameters = _function_of(node)
    try:
        _require_domain(node, activation, parameters, *_ordered(x.lower, x.upper))
    except UnsupportedError:
        tighten(x)


# Alpha-CROWN.


def init_opt_parameters(node: Any, start_nodes: Sequence[Any]) -> None:
    """Start with the slopes of CROWN, for every node that is bounded through this one.

    Args:
        node: of the host, whose input has bounds.
        start_nodes: name and number of rows of every such node, and more.
    """
    node.alpha = OrderedDict()
    activation, parameters = _function_of(node)
    lower, upper = _ordered(node.inputs[0].lower.detach(), node.inputs[0].upper.detach())
    pieces = Pieces.over(activation, lower, upper, parameters)
    least, width = _slope_range(pieces)
    chosen = torch.stack((-pieces.negated().slope(), pieces.slope())).detach()
    share = torch.where(width > 0, (chosen - least) / torch.where(width > 0, width, 1.0), 0.0).clamp(0, 1)
    share = _SCALE * torch.cat((share, share)).unsqueeze(1)  # shape: (4, 1, b, *shape)
    for name, size, *_ in start_nodes:
        # Where windows lead there the rows of one channel share theirs in the host; here all rows do.
        count = size if isinstance(size, int) else torch.Size(size).numel()
        rows = 1 if name in getattr(node, "patch_size", {}) else count
        rows = rows if rows * share.numel() <= _MOST_SLOPES else 1
        node.alpha[name] = share.expand(-1, rows, *share.shape[2:]).clone()


def clip_alpha(node: Any, most: float = _SCALE) -> None:
    """Keep what is optimised between 0 and its largest value, for slopes the ends of the derivative's range."""
    for value in node.alpha.values():
        value.data = value.data.nan_to_num(nan=most / 2).clamp(0, most)  # a root has no gradient at 0


class BoundElementwise(BoundActivation):
    """The host's node of an activation that has a function and an operator; subclasses are named and say which.

    Attributes:
        activation: its row of the table.
        operator: how the row says that networks write it.
    """

    activation: Activation
    operator: Operator

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0, options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        if len(inputs or ()) > 1 + len(self.operator.constants):
            raise UnsupportedError(
                "The network",
                [f"an operator `{self.operator.name}` with {counted(len(inputs), 'input')}"],
                f"The activation that is known by this name takes {1 + len(self.operator.constants)}.",
            )
        for name, default in self.operator.attributes.items():
            setattr(self, name, (attr or {}).get(name, default))

    def parameters(self) -> dict[str, Any]:
        """Its attributes and further inputs, by the names that the row gives them."""
        return self._arguments([value_of(source) for source in self.inputs[1:]])

    def _arguments(self, constants: Sequence[Any]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.operator.attributes} | dict(
            zip(self.operator.constants, constants)
        )

    def forward(self, x: Tensor, *constants: Any) -> Tensor:
        """The function itself."""
        assert self.activation.function is not None
        return self.activation.function(x, self._arguments(constants))

    interval_propagate = interval_propagate
    bound_backward = bound_backward
    bound_relax = bound_relax

    def bound_forward(self, dim_in: int, x: Any, *constants: Any) -> Any:
        """Forward-mode linear bounds, by the host's way for activations of one input."""
        return super().bound_forward(dim_in, x)
