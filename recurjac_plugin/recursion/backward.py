"""RecurJac on the gains of a network, in backward order.

The layers are processed from the output back to the input, the paper's backward order (Zhang, Zhang, Hsieh, AAAI
2019, arXiv:1810.11783, Algorithm 1). The bounds of ``y_m`` (the derivative of every row with respect to the outputs of
the undetermined neurons of layer m) come from one pass forwards over the later layers: with coefficients ``c`` of the
columns at layer l, every product ``c d y`` is replaced by a line of the rule (`rules`), its slope is pushed on through
the gains to the layers behind, its constant is added up. Lower bounds are ``-upper(-c)``: the pass is written for the
upper bound and runs on ``c`` and ``-c`` together. The last pass has the input coordinates as its columns.

Where derivatives are known as functions of the pre-activations (`expansion`), every source is passed a second time with
planes instead of lines. Their factors of the pre-activations are collected over all layers and bounded together at the
end; of both bounds the tighter is kept.

The paper's forward order is this recursion on the transposed gains, see `forward`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import INPUT, ROWS, Gains
from recurjac_plugin.numerics.intervals import intersection, require_numbers
from recurjac_plugin.numerics.memory import each_chunk

from .mccormick import Expansion, mccormick
from .rules import Lines, UpperLine, both_lines

# Cutting neurons out of both sides of a product copies what remains: not worth it where most of them remain.
_WORTH_CUTTING = 0.75


class _Layer(NamedTuple):
    """The lines of one layer, and what `_carriers` says of them, once for all chunks: it is read from the device.

    None also where no later layer is reached.
    """

    lines: Lines
    carriers: Tensor | None


@dataclass(frozen=True, eq=False)
class _Pass:
    """One way of replacing the products ``d y``.

    Attributes:
        gains: the exact part.
        layers: what replaces the products of each layer that has been reached; it grows on the way back.
        expansion: what bounds the lines' forms; None where they have none.
        memory_budget: largest number of bytes for one chunk of columns.
    """

    gains: Gains
    layers: dict[str, _Layer]
    expansion: Expansion | None
    memory_budget: int

    def add(self, layer: str, lines: Lines) -> None:
        """Replace the products of the next layer on the way back."""
        position = self.gains.layers.index(layer)
        leads_on = any((later, layer) in self.gains.blocks for later in self.gains.layers[position + 1 :])
        self.layers[layer] = _Layer(lines, _carriers(lines) if leads_on else None)

    def bounds(self, source: str) -> tuple[Tensor, Tensor]:
        """Bounds of the derivative of the rows with respect to every neuron of one source, each (b, k, u)."""
        gains = self.gains
        later = [layer for layer in gains.layers if layer in self.layers and (layer, source) in gains.blocks]
        exact = gains.block(ROWS, source)
        if not later:  # nothing uncertain lies ahead: the exact gain is the derivative
            exact = exact.expand(gains.batch, -1, -1)
            return exact, exact
        width = sum(gains.count(layer) for layer in gains.layers if layer in self.layers)
        if self.expansion is not None:
            width += self.expansion.width
        per_column = 6 * gains.batch * gains.rows * max(width, 1) * gains.reference.element_size()

        def bounded(chosen: slice) -> Tensor:
            # (b, 1 row, 2 sides, columns, neurons): the same columns start for all rows.
            columns = {layer: _both_signs(gains.blocks[layer, source][:, None, None, :, chosen].mT) for layer in later}
            return self.upper(columns, _both_signs(exact[:, :, None, chosen]))

        total = gains.count(source)
        chunks = list(_chunks(total, max(1, self.memory_budget // per_column)))
        share = self.memory_budget // (len(gains.layers) + 1)  # of one source: the input or a layer
        both = torch.cat(each_chunk(bounded, chunks, total * per_column, share), 3)
        return -both[:, :, 1], both[:, :, 0]

    def upper(
        self,
        columns: dict[str, Tensor],  # layer -> (b or 1, k or 1, side, r, u); consumed
        exact: Tensor,  # shape: (b or 1, k, side, r)
    ) -> Tensor:
        """Upper bounds of ``exact + sum over layers of columns d y``, the products replaced layer by layer.

        Returns:
            Shape (b, k, side, r).
        """
        gains = self.gains
        total = exact.expand(gains.batch, -1, -1, -1)
        forms: dict[str, Tensor] = {}
        for position, layer in enumerate(gains.layers):
            c = columns.pop(layer, None)
            if c is None:
                continue
            (line, carriers), rows = self.layers[layer], gains.block(ROWS, layer)
            # The line's constant is final, and so is what its slope meets on the exact way to the rows.
            positive = c.clamp(min=0)
            negative = c - positive
            total = total + _contracted(positive, line.upper_slope * rows + line.upper_constant)
            total = total + _contracted(negative, line.lower_slope * rows + line.lower_constant)
            if line.upper_form is not None and line.lower_form is not None:
                upper, lower = line.upper_form[:, :, None, None, :], line.lower_form[:, :, None, None, :]
                forms[layer] = (c * lower).addcmul(positive, upper - lower).flatten(1, 3)
            if carriers is None:
                continue
            pushed = _pushed(c, line, carriers)
            for later in gains.layers[position + 1 :]:
                if (later, layer) not in gains.blocks:
                    continue
                step = _propagated(pushed, gains.blocks[later, layer], carriers)
                columns[later] = columns[later] + step if later in columns else step
        if not forms or self.expansion is None:
            return total
        return total + self.expansion.upper(forms).reshape(total.shape)


@dataclass(frozen=True, eq=False)
class BackwardOrder:
    """Bounds of the gradients at every undetermined neuron, ready for passes from any source.

    Attributes:
        gains: the exact part.
        rule: what happens at an undetermined neuron.
        expansion: what is known of the derivatives beyond their ranges; None for nothing.
        gradients: for each layer, the bounds of y, both of shape (b, k, u).
        passes: the rule's lines, and the planes if there is an expansion.
        memory_budget: largest number of bytes for one chunk of columns.
    """

    gains: Gains
    rule: UpperLine
    expansion: Expansion | None
    gradients: Mapping[str, tuple[Tensor, Tensor]]
    passes: tuple[_Pass, ...]
    memory_budget: int

    def jacobian(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the Jacobian, both of shape (b, k, columns)."""
        return _bounds(self.passes, INPUT)

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k, as one column pushed once.

        Tighter than summing the bounds of the entries, because the neurons' derivatives are shared by all entries.

        Returns:
            Shape (b, k).
        """
        start = {
            layer: torch.einsum("bkr,bur->bku", weights, self.gains.block(layer, INPUT).expand(len(weights), -1, -1))
            for layer in self.gains.layers
            if (layer, INPUT) in self.gains.blocks
        }
        exact = (weights * self.gains.block(ROWS, INPUT)).sum(2)
        found = [
            each.upper({layer: value[:, :, None, None, :] for layer, value in start.items()}, exact[:, :, None, None])
            for each in self.passes
        ]
        return _smallest(found)[:, :, 0, 0]

    def planes(self, layer: str) -> UpperLine | None:
        """What replaces the products of one layer, if its derivatives are known beyond their ranges."""
        return _planes(self.expansion, layer)


def backward_order(
    gains: Gains, rule: UpperLine, memory_budget: int, expansion: Expansion | None = None
) -> BackwardOrder:
    """Bound the gradients at all undetermined neurons, from the output back to the first layer."""
    gradients: dict[str, tuple[Tensor, Tensor]] = {}
    passes: tuple[_Pass, ...] = (_Pass(gains, {}, None, memory_budget),)
    if expansion is not None:
        passes = (*passes, _Pass(gains, {}, expansion, memory_budget))
    for layer in reversed(gains.layers):
        lower, upper = gradients[layer] = _bounds(passes, layer)
        derivative = gains.derivatives[layer]
        known = derivative.lower.unsqueeze(1), derivative.upper.unsqueeze(1), lower, upper
        for each in passes:
            each.add(layer, both_lines(_planes(each.expansion, layer) or rule, *known))
    return BackwardOrder(gains, rule, expansion, gradients, passes, memory_budget)


def _planes(expansion: Expansion | None, layer: str) -> UpperLine | None:
    curve = None if expansion is None else expansion.curves.get(layer)
    return None if curve is None else partial(mccormick, derivative=curve.lines, middle=curve.middle)


def _bounds(passes: Sequence[_Pass], source: str) -> tuple[Tensor, Tensor]:
    """The tightest bounds of the derivative of the rows with respect to every neuron of one source, each (b, k, u)."""
    found = passes[0].bounds(source)
    require_numbers(torch.stack(found))
    for other in passes[1:]:
        # Sums of large numbers of both signs can overflow there where they do not with lines.
        lower, upper = (torch.where(its.isnan(), mine, its) for mine, its in zip(found, other.bounds(source)))
        found = intersection(found, (lower, upper))
    return found


def _smallest(values: Sequence[Tensor]) -> Tensor:
    return reduce(torch.fmin, values)


def _both_signs(value: Tensor) -> Tensor:
    """Stack c and -c along the side dimension (2): the upper bound of the second is minus the lower bound."""
    return torch.cat((value, -value), 2)


def _chunks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, total, size))


def _carriers(line: Lines) -> Tensor | None:
    """Neurons whose line has a slope in some region and row; the others became constants and carry nothing on."""
    carries = ((line.upper_slope != 0) | (line.lower_slope != 0)).flatten(0, 1).any(0)
    index = carries.nonzero().squeeze(1)
    if len(index) > _WORTH_CUTTING * len(carries):
        index = torch.arange(len(carries), device=carries.device)
    return index if len(index) else None


def _pushed(c: Tensor, line: Lines, carriers: Tensor) -> Tensor:
    """Slope times coefficient at the carriers: the upper line's for c >= 0, the lower line's for c < 0.

    Returns:
        Shape (b, k, side, r, carriers).
    """
    upper, lower = line.upper_slope, line.lower_slope
    if len(carriers) < c.shape[-1]:
        c, upper, lower = (value.index_select(-1, carriers) for value in (c, upper, lower))
    return c * torch.where(c >= 0, upper[:, :, None, None, :], lower[:, :, None, None, :])


def _propagated(
    pushed: Tensor,  # shape: (b, k, side, r, carriers)
    block: Tensor,  # shape: (b or 1, u_later, u)
    carriers: Tensor,  # shape: (carriers,)
) -> Tensor:
    """Columns arriving at a later layer: (b, k, side, r, u_later)."""
    if len(carriers) < block.shape[2]:
        block = block.index_select(2, carriers)
    flat = pushed.flatten(0, 3) if len(block) == 1 else pushed.flatten(1, 3)
    return (flat @ (block[0] if len(block) == 1 else block).mT).reshape(*pushed.shape[:4], -1)


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
