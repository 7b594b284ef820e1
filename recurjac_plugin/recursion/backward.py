r"""RecurJac on the gains of a network, in backward order.

The layers are processed from the output back to the input, the paper's backward order (Zhang, Zhang, Hsieh, AAAI
2019, arXiv:1810.11783, Algorithm 1). With the gains G (`recurjac_plugin.gains.gains`), ``d_l`` the uncertain
derivatives of layer l and ``y_l`` the derivatives of the rows with respect to that layer's outputs, the chain rule is

.. math:: y_m = G_{\text{rows},m} + \sum_{l > m} G_{l,m}^T (d_l y_l),

and for the input in place of m it is the Jacobian. Bounds of ``y_m`` come from one pass forwards over the later layers
(`push_columns`): with coefficients c of the columns at layer l, every product ``c d y`` is replaced by a line of the
rule (`rules`), its slope is pushed on through the gains to the layers behind, its constant is added up. Lower bounds
are ``-upper(-c)``: the pass is written for the upper bound and runs on c and -c together. The last pass has the input
coordinates as its columns.

Where derivatives are known as functions of the pre-activations (`mccormick`), there is a second pass from every source,
with planes instead of lines. Their slopes in the pre-activations are collected over all layers and bounded together at
the end; of both bounds the tighter is kept.

The paper's forward order is this recursion on the transposed gains, see `forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.gains.gains import INPUT, Gains
from recurjac_plugin.numerics.intervals import Interval, intersection, require_numbers
from recurjac_plugin.numerics.memory import recomputed

from .mccormick import NetworkRelaxation
from .rules import Rule, relax_products

# Cutting neurons out of both sides of a product copies what remains: not worth it where most of them remain.
_WORTH_CUTTING = 0.75


class Replacement(NamedTuple):
    """An upper bound of the products of one layer: ``sum c d y <= sum constants + pushed (y - G_rows) + t_slopes t``.

    ``y - G_rows`` is what lies between the layer and the rows through later layers; the exact rest is in the constants.

    Attributes:
        constants: what is final, to be added to the bound one after the other, each in the bound's shape.
        pushed: coefficients of y, shape (b, *any, carriers); None where no later layer is reached.
        carriers: positions of the neurons that `pushed` belongs to, in order; None for all of them.
        t_slopes: coefficients of the pre-activations' distances t, shape (b, m, u), one of the m for each element of
            the bound of a region; None if there are none.
    """

    constants: tuple[Tensor, ...]
    pushed: Tensor | None
    carriers: Tensor | None = None
    t_slopes: Tensor | None = None


def push_columns(
    gains: Gains,
    columns: dict[str, Tensor],  # layer -> (b or 1, *any, u); consumed
    exact: Tensor,  # shape: (b, *any)
    replace_products: Callable[[str, Tensor], Replacement],
    relaxation: NetworkRelaxation | None,
) -> Tensor:
    r"""Upper bounds of ``exact + sum over layers of columns d y``, the products replaced layer by layer.

    With the columns ``c_l`` that arrive at layer l and what replaces its products there,

    .. math:: c_l = \text{columns}_l + \sum_{m < l} \text{pushed}_m G_{l,m}^T, \qquad
        \text{bound} = \text{exact} + \sum_l \text{constants}_l + U\Big(\sum_l \text{t\_slopes}_l t_l\Big),

    U being the upper bound of a sum over the region, `NetworkRelaxation.concretize`.

    Source: RecurJac, arXiv:1810.11783, Algorithm 1, on gains; the slopes in t are own.

    Args:
        gains: the exact part.
        columns: coefficients with which columns arrive at the layers from their source.
        exact: what they meet at the rows without passing a layer.
        replace_products: ``(layer, all coefficients that arrive there) -> Replacement``.
        relaxation: what bounds slopes in t; None where there are none.

    Returns:
        Shaped like `exact`.
    """
    total = exact
    t_slopes: dict[str, Tensor] = {}
    for position, layer in enumerate(gains.layers):
        c = columns.pop(layer, None)
        if c is None:
            continue
        replacement = replace_products(layer, c)
        for constant in replacement.constants:
            total = total + constant
        if replacement.t_slopes is not None:
            t_slopes[layer] = replacement.t_slopes
        if replacement.pushed is None:
            continue
        for later in gains.layers[position + 1 :]:
            if (later, layer) in gains.blocks:
                step = _propagated(replacement.pushed, gains.blocks[later, layer], replacement.carriers)
                columns[later] = columns[later] + step if later in columns else step
    if not t_slopes or relaxation is None:
        return total
    return total + relaxation.concretize(t_slopes).reshape(total.shape)


def _propagated(
    pushed: Tensor,  # shape: (b, *any, carriers)
    block: Tensor,  # shape: (b or 1, u_later, u)
    carriers: Tensor | None,  # shape: (carriers,)
) -> Tensor:
    """Columns arriving at a later layer: (b, *any, u_later)."""
    if carriers is not None and len(carriers) < block.shape[2]:
        block = block.index_select(2, carriers)
    flat = pushed.flatten(0, -2) if len(block) == 1 else pushed.flatten(1, -2)
    return (flat @ (block[0] if len(block) == 1 else block).mT).reshape(*pushed.shape[:-1], -1)


class _Layer(NamedTuple):
    """What replaces the products of one layer, prepared once for all chunks and sources.

    Attributes:
        lines: of ``d y``, shape (b, k, u).
        carriers: see `_carriers`; None also where no later layer is reached.
    """

    lines: Relaxation
    carriers: Tensor | None


@dataclass(frozen=True, eq=False)
class Pass:
    """One way of replacing the products ``d y``, the same for every source: between two lines in y, or planes.

    Source: RecurJac, arXiv:1810.11783, Algorithm 1.

    Attributes:
        gains: the exact part.
        rule: what lies above a product at an undetermined neuron.
        relaxation: what is known of derivatives beyond their ranges, where planes take the rule's place; None for
            nothing.
        memory_budget: largest number of bytes for one chunk of columns.
        layers: what replaces the products of each layer that has been reached; it grows on the way back.
    """

    gains: Gains
    rule: Rule
    relaxation: NetworkRelaxation | None
    memory_budget: int
    layers: dict[str, _Layer] = field(default_factory=dict)

    def rule_of(self, layer: str) -> Rule:
        """The planes of a layer if its derivatives are known as functions of the pre-activation, the rule otherwise."""
        planes = None if self.relaxation is None else self.relaxation.planes(layer)
        return planes or self.rule

    def add(
        self,
        layer: str,
        lower: Tensor,  # shape: (b, k, u)
        upper: Tensor,  # shape: (b, k, u)
    ) -> None:
        """Replace the products of the next layer on the way back, where y is in [lower, upper], by `relax_products`."""
        gains, derivative = self.gains, self.gains.derivatives[layer]
        dl, du = derivative.lower.unsqueeze(1), derivative.upper.unsqueeze(1)
        lines = relax_products(self.rule_of(layer), dl, du, lower, upper)
        later = gains.layers[gains.layers.index(layer) + 1 :]
        leads_on = any((behind, layer) in gains.blocks for behind in later)
        self.layers[layer] = _Layer(lines, _carriers(lines) if leads_on else None)

    def bounds(self, source: str) -> Interval:
        """Bounds of the derivative of the rows with respect to every neuron of one source, each (b, k, u).

        ``[-upper(-c, -g), upper(c, g)]`` with the columns ``c_l = G_l,source^T`` and ``g = G_rows,source``; both are g
        where no column reaches a layer.
        """
        gains = self.gains
        later = [layer for layer in gains.layers if layer in self.layers and (layer, source) in gains.blocks]
        exact = gains.to_rows[source]
        if not later:  # nothing uncertain lies ahead: the exact gain is the derivative
            exact = exact.expand(gains.batch, -1, -1)
            return exact, exact
        width = sum(layer.lines.upper_slope.shape[2] for layer in self.layers.values())
        if self.relaxation is not None:
            width += self.relaxation.width
        per_column = 6 * gains.batch * gains.rows * max(width, 1) * gains.reference.element_size()

        def bounded(chosen: slice) -> Tensor:
            # (b, 1 row, 2 sides, columns, neurons): the same columns start for all rows.
            columns = {layer: _both_signs(gains.blocks[layer, source][:, None, None, :, chosen].mT) for layer in later}
            return self.upper(columns, _both_signs(exact[:, :, None, chosen]))

        total = exact.shape[2]
        share = self.memory_budget // (len(gains.layers) + 1)  # of one source: the input or a layer
        bound_chunk = recomputed(bounded, total * per_column, share)
        both = torch.cat([bound_chunk(part) for part in _chunks(total, max(1, self.memory_budget // per_column))], 3)
        return -both[:, :, 1], both[:, :, 0]

    def upper(
        self,
        columns: dict[str, Tensor],  # layer -> (b or 1, k or 1, side, r, u); consumed
        exact: Tensor,  # shape: (b or 1, k, side, r)
    ) -> Tensor:
        """Upper bounds of ``exact + sum over layers of columns d y``, row by row, by `push_columns`: (b, k, side, r).

        A product ``c d y`` becomes ``c (s y + s_t t + a)``, by the upper line or plane if ``c > 0``, else by the lower.
        """
        exact = exact.expand(self.gains.batch, -1, -1, -1)
        return push_columns(self.gains, columns, exact, self._replaced, self.relaxation)

    def _replaced(
        self,
        layer: str,
        c: Tensor,  # shape: (b or 1, k or 1, side, r, u)
    ) -> Replacement:
        """The products of a layer, each by the upper line where its coefficient is positive, else by the lower one."""
        lines, carriers = self.layers[layer]
        positive = c.clamp(min=0)
        # What a coefficient adds to the row's bound at once: on the exact way to the rows, and as a constant.
        rows = self.gains.to_rows[layer]
        above = lines.upper_slope * rows + lines.upper_constant
        below = lines.lower_slope * rows + lines.lower_constant
        constants = _contracted(positive, above), _contracted(c - positive, below)
        t_slopes = None
        if lines.upper_t_slope is not None and lines.lower_t_slope is not None:
            upper, lower = lines.upper_t_slope[:, :, None, None, :], lines.lower_t_slope[:, :, None, None, :]
            t_slopes = (c * lower).addcmul(positive, upper - lower).flatten(1, 3)
        return Replacement(constants, None if carriers is None else _pushed(c, lines, carriers), carriers, t_slopes)


@dataclass(frozen=True, eq=False)
class BackwardOrder:
    """Bounds of the gradients at every undetermined neuron, ready for passes from any source.

    Source: RecurJac, arXiv:1810.11783, Algorithm 1 and section 3.3.

    Attributes:
        gains: the exact part.
        gradients: for each layer, the bounds of y, both of shape (b, k, u).
        passes: one with the rule's lines, and one with planes if derivatives are known beyond their ranges.
    """

    gains: Gains
    gradients: Mapping[str, Interval]
    passes: tuple[Pass, ...]

    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, the tightest of all passes' from the input: (b, k, columns) each.

        Raises:
            InputError: they overflow the number type.
            RecurJacError: two passes contradict each other.
        """
        lower, upper = _bounds(self.passes, INPUT)
        require_numbers(lower, upper)
        return lower, upper

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k, as one column pushed once: (b, k).

        The column is ``c_l = weights G_l,input^T``, the exact part ``sum_r weights_r G_rows,r``. Mostly tighter than
        the sum of the entries' bounds, because the entries share the neurons' derivatives.

        Source: RecurJac, arXiv:1810.11783, section 3.4, the improved constant for the l_inf norm.
        """
        start = {
            layer: torch.einsum("bkr,bur->bku", weights, self.gains.blocks[layer, INPUT].expand(len(weights), -1, -1))
            for layer in self.gains.layers
            if (layer, INPUT) in self.gains.blocks
        }
        exact = (weights * self.gains.to_rows[INPUT]).sum(2)[:, :, None, None]
        uppers = [
            each.upper({layer: column[:, :, None, None, :] for layer, column in start.items()}, exact)
            for each in self.passes
        ]
        return reduce(torch.fmin, uppers)[:, :, 0, 0]


def backward_order(
    gains: Gains, rule: Rule, memory_budget: int, relaxation: NetworkRelaxation | None = None
) -> BackwardOrder:
    """Bound the gradients at all undetermined neurons, from the output back to the first layer.

    For each layer m the bounds of ``y_m = G_rows,m + sum_{l > m} G_lm^T (d_l y_l)`` are the tightest of all passes',
    in which every ``d_l y_l`` is replaced by lines, or planes, on the bounds of ``y_l`` found before.

    Source: RecurJac, arXiv:1810.11783, Algorithm 1, backward order of section 3.3.

    Args:
        gains: the exact part.
        rule: what lies above a product at an undetermined neuron.
        memory_budget: largest number of bytes for one chunk of columns; the result does not depend on it.
        relaxation: what is known of the derivatives beyond their ranges; None for nothing.

    Raises:
        InputError: the gradients overflow the number type.
        RecurJacError: two passes contradict each other.
    """
    passes: tuple[Pass, ...] = (Pass(gains, rule, None, memory_budget),)
    if relaxation is not None:
        passes = (*passes, Pass(gains, rule, relaxation, memory_budget))
    gradients: dict[str, Interval] = {}
    for layer in reversed(gains.layers):
        lower, upper = gradients[layer] = _bounds(passes, layer)
        for each in passes:
            each.add(layer, lower, upper)
    require_numbers(*(bound for bounds in gradients.values() for bound in bounds))
    return BackwardOrder(gains, gradients, passes)


def _bounds(passes: Sequence[Pass], source: str) -> Interval:
    """The tightest bounds of the derivative of the rows with respect to every neuron of one source, each (b, k, u)."""
    tightest = passes[0].bounds(source)
    for other in passes[1:]:
        # Sums of large numbers of both signs can overflow there where they do not with lines.
        lower, upper = (torch.where(its.isnan(), mine, its) for mine, its in zip(tightest, other.bounds(source)))
        tightest = intersection(tightest, (lower, upper))
    return tightest


def _both_signs(value: Tensor) -> Tensor:
    """Stack c and -c along the side dimension (2): the upper bound of the second is minus the lower bound."""
    return torch.cat((value, -value), 2)


def _chunks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, total, size))


def _carriers(lines: Relaxation) -> Tensor | None:
    """Neurons whose line has a slope in some region and row; the others became constants and carry nothing on.

    Returns:
        Their positions, shape (carriers,); None if there are none. Read from the device, so once for all chunks.
    """
    carries = ((lines.upper_slope != 0) | (lines.lower_slope != 0)).flatten(0, 1).any(0)
    index = carries.nonzero().squeeze(1)
    if len(index) > _WORTH_CUTTING * len(carries):
        index = torch.arange(len(carries), device=carries.device)
    return index if len(index) else None


def _pushed(
    c: Tensor,  # shape: (b or 1, k or 1, side, r, u)
    lines: Relaxation,  # shape: (b, k, u)
    carriers: Tensor,  # shape: (carriers,)
) -> Tensor:
    """Slope times coefficient at the carriers: the upper line's for c >= 0, the lower line's for c < 0.

    Returns:
        Shape (b, k, side, r, carriers).
    """
    upper, lower = lines.upper_slope, lines.lower_slope
    if len(carriers) < c.shape[-1]:
        c, upper, lower = (value.index_select(-1, carriers) for value in (c, upper, lower))
    return c * torch.where(c >= 0, upper[:, :, None, None, :], lower[:, :, None, None, :])


def _contracted(
    c: Tensor,  # shape: (b or 1, k or 1, side, r, u)
    weights: Tensor,  # shape: (b, k, u)
) -> Tensor:
    """``sum_j c_j weights_j`` for every row: (b, k, side, r)."""
    side, count = c.shape[2:4]
    if c.shape[1] == weights.shape[1]:
        return (c.flatten(2, 3) @ weights.unsqueeze(3)).reshape(-1, weights.shape[1], side, count)
    # The columns are still the same for all rows: one product of (columns, u) and (u, k).
    flat = c[:, 0].flatten(1, 2)
    if len(flat) == 1:
        product = (weights.flatten(0, 1) @ flat[0].T).reshape(*weights.shape[:2], -1)
    else:
        product = weights @ flat.mT
    return product.reshape(*weights.shape[:2], side, count)
