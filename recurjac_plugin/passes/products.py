r"""One pass of the recursion: products replaced by lines or planes of a rule, the same for every source.

With coefficients c of the columns at a layer, every product ``c d y`` is replaced by a line or plane of the rule
(`rules`, `mccormick`): its slope is pushed on through the gains to the layers behind, its constant is added up
(`columns`). Lower bounds are ``-upper(-c)``: the pass is written for the upper bound and runs on c and -c together.

Source: Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.windows import Windows
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.region import concretized

from .columns import Replacement, Within, chunked, contracted, for_columns, push_columns, windowed
from .mccormick import NetworkRelaxation
from .rules import Rule, relax_products
from .strips import Form, with_strips

# Cutting neurons out of both sides of a product copies what remains: not worth it where most of them remain.
_WORTH_CUTTING = 0.75


class _Layer(NamedTuple):
    """What replaces the products of one layer, prepared once for all chunks and sources.

    Attributes:
        lines: of ``d y``, shape (b, k, u), or (n, b, k, u) in windows.
        rows: the exact way from the layer to the rows, (b or 1, k, u), or (n, b or 1, k, u) in windows.
        leads_on: whether a later layer is reached.
        carriers: see `_carriers`; None for all neurons.
    """

    lines: Relaxation
    rows: Tensor
    leads_on: bool
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
        strips: whether planes are looked for over strips, too (`strips`); the relaxation has them then.
        layers: what replaces the products of each layer that has been reached; it grows on the way back.
        forms: linear bounds of the gradients at layers that have been bounded, if there are strips.
    """

    gains: Gains
    rule: Rule
    relaxation: NetworkRelaxation | None
    memory_budget: int
    strips: bool = False
    layers: dict[str, _Layer] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)

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
        if layer in self.forms and self.relaxation is not None and layer in self.relaxation.derivatives:
            lines = with_strips(self.relaxation, layer, lines, self.forms[layer], lower, upper)
        carriers = _carriers(lines)
        leads_on = len(carriers) > 0 and bool(self.reached(layer))
        self.layers[layer] = _Layer(lines, gains.to_rows[layer], leads_on, carriers)

    def reached(self, source: str) -> list[str]:
        """The layers that have been added and that a source, a layer or the input, leads to at once."""
        return [layer for layer in self.gains.layers if layer in self.layers and (layer, source) in self.gains.blocks]

    def bounds(self, source: str, windows: Windows | None) -> Interval:
        """Bounds of the derivative of the rows with respect to every neuron of one source, each (b, k, u).

        ``[-upper(-c, -g), upper(c, g)]`` with the columns ``c_l = G_l,source^T`` and ``g = G_rows,source``; both are g
        where no column reaches a layer.

        Args:
            source: a layer, or `INPUT`.
            windows: what its columns meet, if that is little.
        """
        gains, reached = self.gains, self.reached(source)
        exact = gains.to_rows[source]
        if not reached:  # nothing uncertain lies ahead: the exact gain is the derivative
            exact = exact.expand(gains.batch, -1, -1)
            return exact, exact
        if windows is not None:
            return self._bounds_in_windows(source, windows)

        # Large blocks are kept as lists: they become matrices once for all chunks.
        within, starts = Within.everything(gains), {layer: gains.blocks[layer, source] for layer in reached}

        def bounded(chosen: slice) -> Tensor:
            # (1, b, 1 row, 2 sides, columns, neurons): the same columns start for all rows.
            columns = {layer: _both_signs(block[None, :, None, None, :, chosen].mT) for layer, block in starts.items()}
            start = _both_signs(exact[None, :, :, None, chosen])
            return self._linear_upper(columns, start, within) if self.strips else self.upper(columns, start, within)[0]

        width = sum(layer.lines.upper_slope.shape[2] for layer in self.layers.values())
        total, per_column = exact.shape[2], self._elements(width)
        both = torch.cat([*chunked(bounded, total, per_column, self.memory_budget, len(gains.layers), exact)], 3)
        if self.strips:
            both = self._concretized(source, both)
        return -both[:, :, 1], both[:, :, 0]

    def _bounds_in_windows(self, source: str, windows: Windows) -> Interval:
        """What `bounds` gives, group by group."""
        gains, exact = self.gains, self.gains.to_rows[source]

        def bounded(chosen: slice) -> Tensor:
            part = windows.part(chosen)
            columns = {layer: _both_signs(c[:, :, None, None]) for layer, c in part.starts(gains, source).items()}
            start = _both_signs(windowed(exact, part.columns).unsqueeze(3))
            within = Within.windows(gains, part)
            return self.upper(columns, start, within).movedim(0, 3)  # shape: (b, k, side, n, r)

        size = windows.columns.shape[1]
        each = size * self._elements(windows.width) + windows.elements(gains)
        both = torch.cat([*chunked(bounded, len(windows), each, self.memory_budget, len(gains.layers), exact)], 3)
        both = both.flatten(3).index_select(3, windows.place)
        return -both[:, :, 1], both[:, :, 0]

    def _elements(self, width: int) -> int:
        """How many numbers there are for one column that meets `width` neurons."""
        gains = self.gains
        if self.relaxation is not None:
            width += self.relaxation.width
        return 6 * gains.batch * gains.rows * max(width, 1)

    def upper(
        self,
        columns: dict[str, Tensor],  # layer -> (n, b or 1, k or 1, side, r, u); consumed
        exact: Tensor,  # shape: (n, b or 1, k, side, r)
        within: Within,
    ) -> Tensor:
        """Upper bounds of ``exact + sum over layers of columns d y``, row by row: (n, b, k, side, r).

        A product ``c d y`` becomes ``c (s y + s_t t + a)``, by the upper line or plane if ``c > 0``, else by the lower.
        """
        gains = self.gains
        exact = exact.expand(-1, gains.batch, -1, -1, -1)

        def replaced(name: str, c: Tensor) -> Replacement:
            met = None if within.met is None else within.met[name]
            return _replaced(self._layer(name, within), c, met, gains.count(name))

        total, t_slopes = push_columns(within, columns, exact, replaced)
        if not t_slopes or self.relaxation is None:
            return total
        # (n, b, k, side, r) -> one sum for each element of a region
        added = self.relaxation.concretize(t_slopes)
        return total + added.reshape(gains.batch, len(total), *total.shape[2:]).transpose(0, 1)

    def _linear_upper(self, columns: dict[str, Tensor], exact: Tensor, within: Within) -> Tensor:
        """What `upper` gives before it is bounded over the region: a constant and slopes in ``x - x0`` side by side.

        Returns:
            Shape (b, k, side, r, 1 + input coordinates).
        """
        gains, relaxation = self.gains, self.relaxation
        assert relaxation is not None
        exact = exact.expand(-1, gains.batch, -1, -1, -1)

        def replaced(name: str, c: Tensor) -> Replacement:
            return _replaced(self._layer(name, within), c, None, gains.count(name))

        (total,), t_slopes = push_columns(within, columns, exact, replaced)
        slope, constant = relaxation.linear(t_slopes, total[0].numel())
        constant = total + constant.reshape(total.shape)
        return torch.cat((constant.unsqueeze(4), slope.reshape(*total.shape, -1)), 4)

    def _concretized(self, source: str, both: Tensor) -> Tensor:
        """Keep linear bounds of all gradients of a source, and bound them over the region: (b, k, side, r)."""
        assert self.relaxation is not None
        constant, slope = both[..., 0], both[..., 1:]
        self.forms[source] = Form(-slope[:, :, 1], -constant[:, :, 1], slope[:, :, 0], constant[:, :, 0])
        return constant + concretized(self.relaxation.inputs, slope.flatten(1, 3)).reshape(constant.shape)

    def _layer(self, name: str, within: Within) -> _Layer:
        """What replaces the products of a layer, at the neurons that are met."""
        layer = self.layers[name]
        if within.met is None:
            return layer
        lines = layer.lines.mapped(lambda line: within.neurons(name, line))
        return _Layer(lines, within.neurons(name, layer.rows), layer.leads_on, None)


def _replaced(
    layer: _Layer,
    c: Tensor,  # shape: (n, b or 1, k or 1, side, r, u)
    neurons: Tensor | None,  # shape: (n, u)
    count: int,
) -> Replacement:
    """The products of a layer, each by the upper line where its coefficient is positive, else by the lower one.

    Args:
        layer: the layer.
        c: what arrives there.
        neurons: which of its neurons these are, for each group; None for all.
        count: how many neurons it has.
    """
    lines = layer.lines
    positive = c.clamp(min=0)
    # What a coefficient adds to the row's bound at once: on the exact way to the rows, and as a constant.
    above = lines.upper_slope * layer.rows + lines.upper_constant
    below = lines.lower_slope * layer.rows + lines.lower_constant
    constants = contracted(positive, above), contracted(c - positive, below)
    t_slopes = None
    if lines.upper_t_slope is not None and lines.lower_t_slope is not None:
        upper, lower = (for_columns(slope) for slope in (lines.upper_t_slope, lines.lower_t_slope))
        t_slopes = _by_region((c * lower).addcmul(positive, upper - lower), neurons, count)
    pushed = _pushed(c, lines, layer.carriers) if layer.leads_on else None
    return Replacement(constants, pushed, layer.carriers, t_slopes)


def _by_region(
    slopes: Tensor,  # shape: (n, b, k, side, r, u)
    neurons: Tensor | None,  # shape: (n, u)
    count: int,
) -> Tensor:
    """One row for each element of a region's bound, n k side r in this order, over all neurons: (b, m, count)."""
    groups, batch = slopes.shape[:2]
    slopes = slopes.transpose(0, 1).flatten(2, 4)  # shape: (b, n, k side r, u)
    if neurons is not None:
        index = neurons[None, :, None, :].expand(batch, -1, slopes.shape[2], -1)
        # What fills up a list has slopes of 0.
        slopes = slopes.new_zeros(batch, groups, slopes.shape[2], count).scatter_add(3, index, slopes)
    return slopes.flatten(1, 2)


def _both_signs(value: Tensor) -> Tensor:
    """Stack c and -c along the side dimension (3): the upper bound of the second is minus the lower bound."""
    return torch.cat((value, -value), 3)


def _carriers(lines: Relaxation) -> Tensor:
    """Neurons whose line has a slope in some region and row; the others became constants and carry nothing on.

    Returns:
        Their positions, shape (carriers,). Read from the device, so once for all chunks.
    """
    carries = ((lines.upper_slope != 0) | (lines.lower_slope != 0)).flatten(0, 1).any(0)
    index = carries.nonzero().squeeze(1)
    if len(index) > _WORTH_CUTTING * len(carries):
        index = torch.arange(len(carries), device=carries.device)
    return index


def _pushed(
    c: Tensor,  # shape: (n, b or 1, k or 1, side, r, u)
    lines: Relaxation,  # shape: (b, k, u), or (n, b, k, u)
    carriers: Tensor | None,  # shape: (carriers,)
) -> Tensor:
    """Slope times coefficient at the carriers: the upper line's for c >= 0, the lower line's for c < 0.

    Returns:
        Shape (n, b, k, side, r, carriers).
    """
    upper, lower = lines.upper_slope, lines.lower_slope
    if carriers is not None and len(carriers) < c.shape[-1]:
        c, upper, lower = (value.index_select(value.dim() - 1, carriers) for value in (c, upper, lower))
    return c * torch.where(c >= 0, for_columns(upper), for_columns(lower))
