r"""One pass of the recursion: columns pushed from a source to the rows, uncertain products replaced on the way.

With coefficients c of the columns at layer l, every product ``c d y`` is replaced by a line or plane of a rule
(`rules`, `mccormick`), its slope is pushed on through the gains to the layers behind, its constant is added up
(`push_columns`). Lower bounds are ``-upper(-c)``: the pass is written for the upper bound and runs on c and -c together.

Columns that meet few neurons, as those of convolutions do, are pushed in groups through their windows
(`recurjac_plugin.gains.windows`). Axes: n groups, 1 where there are no windows; b regions; k rows; 2 sides; r columns; u
neurons of a layer, or of a window.

Source: Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.gains.gains import Gains, Key
from recurjac_plugin.gains.windows import Windows
from recurjac_plugin.numerics.intervals import Interval
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
        pushed: coefficients of y, shape (*any, carriers); None where no later layer is reached.
        carriers: positions of the neurons that `pushed` belongs to, in order; None for all of them.
        t_slopes: coefficients of the pre-activations' distances t, shape (b, m, u), one of the m for each element of
            the bound of a region; None if there are none.
    """

    constants: tuple[Tensor, ...]
    pushed: Tensor | None
    carriers: Tensor | None = None
    t_slopes: Tensor | None = None


class Between(Protocol):
    """What columns pass through: layers in topological order, and the gains between them, (*lead, u_later, u)."""

    @property
    def layers(self) -> Sequence[str]: ...
    @property
    def blocks(self) -> Mapping[Key, Tensor]: ...


def push_columns(
    between: Between,
    columns: dict[str, Tensor],  # layer -> (*any, u); consumed
    exact: Tensor,  # shape: (*any)
    replace_products: Callable[[str, Tensor], Replacement],
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Upper bounds of ``exact + sum over layers of columns d y``, the products replaced layer by layer.

    With the columns ``c_l`` that arrive at layer l and what replaces its products there,

    .. math:: c_l = \text{columns}_l + \sum_{m < l} \text{pushed}_m G_{l,m}^T, \qquad
        \text{bound} = \text{exact} + \sum_l \text{constants}_l + \sum_l \text{t\_slopes}_l t_l .

    Source: RecurJac, arXiv:1810.11783, Algorithm 1, on gains; the slopes in t are own.

    Args:
        between: the exact part.
        columns: coefficients with which columns arrive at the layers from their source.
        exact: what they meet at the rows without passing a layer.
        replace_products: ``(layer, all coefficients that arrive there) -> Replacement``.

    Returns:
        The bound without its last sum, shaped like `exact`, and the slopes in t by layer.
    """
    total = exact
    t_slopes: dict[str, Tensor] = {}
    for position, layer in enumerate(between.layers):
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
        for later in between.layers[position + 1 :]:
            if (later, layer) in between.blocks:
                step = _propagated(replacement.pushed, between.blocks[later, layer], replacement.carriers)
                columns[later] = columns[later] + step if later in columns else step
    return total, t_slopes


def _propagated(
    pushed: Tensor,  # shape: (*lead, *any, carriers)
    block: Tensor,  # shape: (*lead, u_later, u); 1 where it is the same for all
    carriers: Tensor | None,  # shape: (carriers,)
) -> Tensor:
    """Columns arriving at a later layer: (*lead, *any, u_later)."""
    if carriers is not None and len(carriers) < block.shape[-1]:
        block = block.index_select(block.dim() - 1, carriers)
    while block.dim() > 2 and block.shape[-3] == 1:  # one product instead of many where the matrix is the same
        block = block.squeeze(-3)
    flat = pushed.flatten(block.dim() - 2, -2)
    return (flat @ block.mT).reshape(*pushed.shape[:-1], -1)


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

    def within(self, neurons: Tensor) -> _Layer:
        """The layer in windows, neurons of shape (n, s)."""
        return _Layer(self.lines.mapped(lambda line: _windowed(line, neurons)), _windowed(self.rows, neurons),
                      self.leads_on, None)  # fmt: skip


class _Windowed(NamedTuple):
    """The exact part within windows, as `Between` has it."""

    layers: Sequence[str]
    blocks: Mapping[Key, Tensor]


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

        def bounded(chosen: slice) -> Tensor:
            # (1, b, 1 row, 2 sides, columns, neurons): the same columns start for all rows.
            columns = {
                layer: _both_signs(gains.blocks[layer, source][None, :, None, None, :, chosen].mT) for layer in reached
            }
            return self.upper(columns, _both_signs(exact[None, :, :, None, chosen]))[0]

        width = sum(layer.lines.upper_slope.shape[2] for layer in self.layers.values())
        total, per_column = exact.shape[2], self._bytes(width)
        both = torch.cat([*self._chunks(bounded, total, total * per_column, per_column)], 3)
        return -both[:, :, 1], both[:, :, 0]

    def _bounds_in_windows(self, source: str, windows: Windows) -> Interval:
        """What `bounds` gives, group by group."""
        gains, exact = self.gains, self.gains.to_rows[source]

        def bounded(chosen: slice) -> Tensor:
            part = windows.part(chosen)
            columns = {layer: _both_signs(c[:, :, None, None]) for layer, c in part.starts(gains, source).items()}
            start = _both_signs(_windowed(exact, part.columns).unsqueeze(3))
            return self.upper(columns, start, part).movedim(0, 3)  # shape: (b, k, side, n, r)

        size = windows.columns.shape[1]
        per_group = size * self._bytes(sum(index.shape[1] for index in windows.neurons.values()))
        per_group += 3 * windows.elements * gains.reference.element_size()
        both = torch.cat([*self._chunks(bounded, len(windows), len(windows) * per_group, per_group)], 3)
        both = both.flatten(3).index_select(3, windows.place)
        return -both[:, :, 1], both[:, :, 0]

    def _bytes(self, width: int) -> int:
        """What one column takes that meets `width` neurons."""
        gains = self.gains
        if self.relaxation is not None:
            width += self.relaxation.width
        return 6 * gains.batch * gains.rows * max(width, 1) * gains.reference.element_size()

    def _chunks(self, bounded: Callable[[slice], Tensor], count: int, kept: int, each: int) -> Iterator[Tensor]:
        """Apply a function to chunks of columns, or of groups, each of which takes so many bytes."""
        share = self.memory_budget // (len(self.gains.layers) + 1)  # of one source: the input or a layer
        bound_chunk = recomputed(bounded, kept, share)
        size = max(1, self.memory_budget // each)
        return (bound_chunk(slice(start, start + size)) for start in range(0, count, size))

    def upper(
        self,
        columns: dict[str, Tensor],  # layer -> (n, b or 1, k or 1, side, r, u); consumed
        exact: Tensor,  # shape: (n, b or 1, k, side, r)
        windows: Windows | None = None,
    ) -> Tensor:
        """Upper bounds of ``exact + sum over layers of columns d y``, row by row, by `push_columns`: (n, b, k, side, r).

        A product ``c d y`` becomes ``c (s y + s_t t + a)``, by the upper line or plane if ``c > 0``, else by the lower.
        """
        gains = self.gains
        exact = exact.expand(-1, gains.batch, -1, -1, -1)
        if windows is None:
            between: Between = gains
            layers: Mapping[str, _Layer] = self.layers
        else:
            between = _Windowed([layer for layer in gains.layers if layer in windows.neurons], windows.blocks(gains))
            layers = {name: self.layers[name].within(neurons) for name, neurons in windows.neurons.items()}

        def replaced(name: str, c: Tensor) -> Replacement:
            index = None if windows is None else windows.neurons[name]
            return self._replaced(layers[name], c, index, gains.count(name))

        total, t_slopes = push_columns(between, columns, exact, replaced)
        if not t_slopes or self.relaxation is None:
            return total
        # (n, b, k, side, r) -> one sum for each element of a region
        added = self.relaxation.concretize(t_slopes)
        return total + added.reshape(gains.batch, len(total), *total.shape[2:]).transpose(0, 1)

    def _replaced(
        self,
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
        constants = _contracted(positive, above), _contracted(c - positive, below)
        t_slopes = None
        if lines.upper_t_slope is not None and lines.lower_t_slope is not None:
            upper, lower = (_for_columns(slope) for slope in (lines.upper_t_slope, lines.lower_t_slope))
            t_slopes = _by_region((c * lower).addcmul(positive, upper - lower), neurons, count)
        pushed = _pushed(c, lines, layer.carriers) if layer.leads_on else None
        return Replacement(constants, pushed, layer.carriers, t_slopes)


def _windowed(
    value: Tensor,  # shape: (b or 1, k, u)
    neurons: Tensor,  # shape: (n, s)
) -> Tensor:
    """What each window holds: (n, b or 1, k, s)."""
    return value[:, :, neurons].movedim(2, 0)


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


def _for_columns(value: Tensor) -> Tensor:
    """Something of shape (b, k, u), or (n, b, k, u), for all sides and columns: (..., k, 1, 1, u)."""
    return value[..., None, None, :]


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
    return c * torch.where(c >= 0, _for_columns(upper), _for_columns(lower))


def _contracted(
    c: Tensor,  # shape: (n, b or 1, k or 1, side, r, u)
    weights: Tensor,  # shape: (b, k, u), or (n, b, k, u)
) -> Tensor:
    """``sum_j c_j weights_j`` for every row: (n, b, k, side, r)."""
    side, count = c.shape[3:5]
    if c.shape[2] > 1 or weights.shape[-2] == 1:
        return (c.flatten(3, 4) @ weights.unsqueeze(-1)).reshape(*c.shape[:1], *weights.shape[-3:-1], side, count)
    # The columns are still the same for all rows: products of (k, u) and (u, columns), one if they are for all regions.
    flat = c[:, :, 0].flatten(2, 3)
    if len(flat) == 1 and flat.shape[1] == 1:
        product = weights.flatten(0, -2) @ flat[0, 0].mT
    else:
        product = weights @ flat.mT
    return product.reshape(len(c), *weights.shape[-3:-1], side, count)
