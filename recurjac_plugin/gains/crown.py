r"""CROWN's substitution on the gains: linear bounds of activations and pre-activations in terms of the input.

Let ``t_l = z_l(x) - z_l(x0)`` be the pre-activations of the undetermined neurons of layer l, and ``a_m(x) - a_m(x0)``
the activations of those of layer m, both counted from their values at the centre x0 of the region. Between layers
everything is linear, so with the gains G (see `gains`)

.. math:: t_l = G_{l,\text{input}} (x - x_0) + \sum_{m < l} G_{l,m} (a_m(x) - a_m(x_0)),

which is exact. A sum with coefficients A is bounded from above by taking, neuron by neuron, the upper line of the
activation's relaxation where A is positive, and the lower one where it is negative:

.. math:: A (a - a(x_0)) \le A^+ (\overline{s} t + \overline{c}) + A^- (\underline{s} t + \underline{c}) .

This is done from the last layer to the first, until only ``x - x0`` is left. What several terms have in common is added
up on the way, before it is bounded. A lower bound is minus the upper bound of the coefficients' negatives.

Source: Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2, there on the weights of a
network without skip connections.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.numerics.deadline import product

from .gains import Gains
from .pull import INPUT


def linear_upper_bound(
    gains: Gains,
    relaxations: Mapping[str, Relaxation],
    count: int,
    *,
    on_activations: Mapping[str, Tensor] | None = None,  # layer or `INPUT` -> (b or 1, m, u)
    on_preactivations: Mapping[str, Tensor] | None = None,  # layer -> (b, m, u)
    met: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""A bound of m sums over the network, linear in the input: ``sum <= slope (x - x0) + constant``.

    With A the coefficients of the activations' changes and P those of t, the sums are

    .. math:: A_\text{input} (x - x_0) + \sum_l \big(A_l (a_l(x) - a_l(x_0)) + P_l t_l\big) .

    Layer by layer, from the last one to the first, ``A+ upper_constant + A- lower_constant`` is added to the constant,
    and ``B = P + A+ upper_slope + A- lower_slope``, the coefficient of ``t_l``, is passed on through the gains:
    ``A_m += B G_lm`` for every earlier layer m and for the input, where A in the end is the slope.

    Source: CROWN, arXiv:1811.00866, Theorem 3.2, on gains in place of weights.

    Args:
        gains: the exact part; blocks with `ROWS` as their later end are not read.
        relaxations: lines of ``a(x) - a(x0)`` in t for each layer, each of shape (b, u), or (b, m, u) where every sum
            has its own.
        count: the number of sums, m.
        on_activations: coefficients of ``a(x) - a(x0)``, and of ``x - x0`` under `INPUT`.
        on_preactivations: coefficients of t.
        met: where to note the coefficients A that arrive at the layers, (b, m, u).

    Returns:
        The slope, shape (b, m, columns), and the constant, shape (b, m).

    Raises:
        OverTime: the time is over (`numerics.deadline`).
    """
    pending = dict(on_activations or {})
    constant = gains.reference.new_zeros(gains.batch, count)
    for position, layer in reversed([*enumerate(gains.layers)]):
        on_t = (on_preactivations or {}).get(layer)
        A = pending.pop(layer, None)
        if A is not None:
            if met is not None:
                met[layer] = A
            lines = relaxations[layer]
            positive = A.clamp(min=0)
            negative = A - positive
            constant = constant + _met(negative, lines.lower_constant) + _met(positive, lines.upper_constant)
            through = (positive * _for_sums(lines.upper_slope)).addcmul(negative, _for_sums(lines.lower_slope))
            on_t = through if on_t is None else on_t + through
        if on_t is None:
            continue
        for earlier in (*gains.layers[:position], INPUT):
            gain = gains.blocks.get((layer, earlier))
            if gain is not None:
                # One gain for all regions is one product; torch would make one for each region of it.
                one = len(gain) == 1
                step = product(on_t.flatten(0, 1), gain[0]).unflatten(0, on_t.shape[:2]) if one else product(on_t, gain)
                pending[earlier] = pending[earlier] + step if earlier in pending else step
    slope = pending.get(INPUT)
    if slope is None:
        slope = gains.reference.new_zeros(1, count, gains.columns)
    return slope.expand(gains.batch, -1, -1), constant


def _for_sums(
    line: Tensor,  # shape: (b, u), or (b, m, u)
) -> Tensor:
    """What is the same for all sums, or is not, as (b, 1 or m, u)."""
    return line.unsqueeze(1) if line.dim() == 2 else line


def _met(
    A: Tensor,  # shape: (b, m, u)
    constants: Tensor,  # shape: (b, u), or (b, m, u)
) -> Tensor:
    """``sum_j A_j constants_j``, (b, m)."""
    return (A @ constants.unsqueeze(2)).squeeze(2) if constants.dim() == 2 else (A * constants).sum(2)
