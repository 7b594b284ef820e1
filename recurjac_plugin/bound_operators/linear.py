r"""Linear operators: their exact maps, whatever their attributes are.

For ``f(x) = c + sum_i W_i x_i`` with c, the value at 0, and coefficients A of f's output, CROWN goes on with

.. math:: A f(x) = \sum_i (A W_i) x_i + A c ,

and interval bounds are ``f(m) -+ sum_i |W_i| r_i`` with the middles m and radii r of the intervals, or f at their ends
where no element of a W_i is negative. The maps are those of the operator table, pulled back as the gains are.

Source: Gowal et al., arXiv:1810.12715, for intervals; Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018,
arXiv:1811.00866, for coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.graph.linear_maps import Broadcast, Function, LinearMap, Scale
from recurjac_plugin.graph.steps import LinearStep
from recurjac_plugin.host.library import Patches
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import ELEMENTWISE, eps

from .coefficients import dense
from .part import Part


def maps(part: Part) -> list[tuple[str, LinearMap]]:
    """The inputs that a linear operator adds up, each with its map; one input may occur several times."""
    if not part.graph.steps:  # a constant at most is added: the input stands for the output, as derivatives see it
        shape = tuple(part.node.output_shape[1:])
        return [(part.graph.output, Broadcast(1, shape, shape))]
    (step,) = part.graph.steps
    assert isinstance(step, LinearStep)
    return list(step.sources)


def scaled_patches(part: Part, coefficients: Any) -> Any:
    """Patches of coefficients times a number, where an operator multiplies by one; None otherwise."""
    if not isinstance(coefficients, Patches) or coefficients.identity:
        return None
    ((_, linear), *others) = maps(part)
    if others or not isinstance(linear, Scale) or linear.factor.numel() != 1:
        return None
    return coefficients.create_similar(coefficients.patches * linear.factor.reshape(()))


def pulled(
    linear: LinearMap,
    coefficients: Tensor,  # shape: (rows, b, *output_shape)
) -> Tensor:
    """``A W``, shape (rows, b, *input_shape)."""
    rows, batch = coefficients.shape[:2]
    flat = linear.pull(coefficients.reshape(rows * batch, *linear.output_shape))
    return flat.reshape(rows, batch, *linear.input_shape)


def bias(
    coefficients: Tensor,  # shape: (rows, b, *shape)
    value: Tensor,  # shape: (b or 1, *shape)
) -> Tensor:
    """``A c``, shape (rows, b)."""
    rows, batch = coefficients.shape[:2]
    value = value.expand(coefficients.shape[1:]).reshape(batch, -1)
    return torch.einsum("sbi,bi->sb", coefficients.reshape(rows, batch, -1), value)


def backward(part: Part, coefficients: Any, like: Tensor) -> tuple[dict[str, Any], Any]:
    """CROWN through a linear operator, one side of it: the coefficients of its inputs by name, and the bias.

    Args:
        part: the operator.
        coefficients: A, in one of the host's forms.
        like: a tensor of the batch of one of its inputs, (b, *input_shape).
    """
    A = dense(coefficients, tuple(part.node.output_shape[1:]), like)
    assert A is not None
    # The batch is that of the coefficients: bounds that the host holds of an input may be those of another call.
    origin = part.origin({name: A.new_zeros(A.shape[1], *shape) for name, shape in shapes(part).items()})
    inputs: dict[str, Any] = {}
    kept = scaled_patches(part, coefficients)
    if kept is not None:
        return {maps(part)[0][0]: kept}, 0
    for name, linear in maps(part):
        came = pulled(linear, A)
        inputs[name] = inputs[name] + came if name in inputs else came
    return inputs, bias(A, origin)


def _is_nonnegative(linear: LinearMap) -> bool:
    """Whether a map is known to have no negative element."""
    if isinstance(linear, Function):
        return linear.absolute_function is linear.function
    return linear.absolute() is linear or (isinstance(linear, Broadcast) and linear.sign > 0)


def shapes(part: Part) -> dict[str, tuple[int, ...]]:
    """Shapes per sample of the perturbed inputs by name."""
    return {name: tuple(part.node.input_shapes[position][1:]) for name, position in part.positions.items()}


def interval(part: Part, inputs: Mapping[str, Interval]) -> Interval:
    """Interval bounds of a linear operator, outward by the rounding of their terms.

    Args:
        part: the operator.
        inputs: bounds of its perturbed inputs by name, (b, *input_shape) each.

    Returns:
        Shape (b, *shape) each. Infinite inputs can leave sums without a number: these are unbounded.
    """
    sources = maps(part)
    size = part.origin({name: low for name, (low, _) in inputs.items()}).abs()
    for name, linear in sources:
        low, high = inputs[name]
        size = size + linear.push_absolute(torch.maximum(low.abs(), high.abs()))
    if all(map(_is_nonnegative, (linear for _, linear in sources))):
        lower, upper = (part.value({name: ends[side] for name, ends in inputs.items()}) for side in (0, 1))
    else:
        middle = part.value({name: low / 2 + high / 2 for name, (low, high) in inputs.items()})
        radius = torch.zeros_like(middle)
        for name, linear in sources:
            low, high = inputs[name]
            radius = radius + linear.push_absolute(high / 2 - low / 2)
        lower, upper = middle - radius, middle + radius
    error = (ELEMENTWISE * eps(size) * size).detach()
    return (lower - error).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), (upper + error).nan_to_num(
        nan=torch.inf, posinf=torch.inf, neginf=-torch.inf
    )
