r"""Gains: the exact part of a network between its undetermined neurons.

Once the undetermined neurons are set apart, everything else is linear: with the derivatives of the stable neurons
inserted, the chain rule between two undetermined neurons is a number, their *gain*. With ``d`` the unknown
derivatives, ``y_m`` the derivative of a row with respect to the outputs of the undetermined neurons of layer m, and
layers in topological order,

.. math:: y_m = G_{\text{rows}, m} + \sum_{l > m} G_{l m}^T (d_l \odot y_l),

and the Jacobian is the same expression with the input in place of m. This is the chain rule of the network with
everything certain multiplied out, so the methods (which bound products ``d y``) see only these small matrices, and
share them: they depend neither on the method nor, apart from the last row of blocks, on the output rows.

The gains are computed by pulling the unit rows of each layer's undetermined neurons back towards the input, through
the transposed linear maps. Dead and undetermined neurons pass nothing on, so a row only meets what is certain. How
large they get is known beforehand, and those that no memory holds are refused.

Axes: b regions, k rows, r any rows that are pulled, u undetermined neurons of a layer, n all of its neurons.

Source:
    The chain rule that Algorithm 1 of RecurJac (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783) goes through layer
    by layer; that it may be multiplied out between undetermined neurons is this package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, RoomError
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.sweeps import ancestors
from recurjac_plugin.numerics.memory import chunk_size, memory_of, recomputed

from .blocks import Blocks, RowSparse, compressed, joined
from .paths import on_uncut_paths
from .pull import INPUT, ROWS, Key, Pull
from .undetermined import Layer


@dataclass(frozen=True, eq=False)
class Gains:
    """All gains of a graph over a batch of regions.

    ``G_lm = dz_l / da_m``: the derivative of the pre-activations of the undetermined neurons of layer l (or of the
    rows, ``G_rows,m``) with respect to the outputs of those of layer m (or to the input, ``G_l,input``), with the
    derivatives of the stable neurons between them inserted and those of the undetermined ones set to 0.

    Source: own; the chain rule with everything certain multiplied out.

    Attributes:
        layers: names of the activation steps with undetermined neurons, in topological order.
        derivatives: their derivative ranges.
        blocks: ``(later, earlier) -> (b or 1, u_later, u_earlier)``, where `later` is a layer or `ROWS` and `earlier`
            a layer or `INPUT`; a missing block is zero (no path, or only through dead neurons). Large ones may be kept
            as lists, see `blocks`.
        batch: number of regions b.
        rows: number of output rows k.
        columns: number of input coordinates.
        reference: a tensor of the dtype and device of the gains.
    """

    layers: tuple[str, ...]
    derivatives: Mapping[str, Layer]
    blocks: Blocks
    batch: int
    rows: int
    columns: int
    reference: Tensor

    def count(self, end: str) -> int:
        """Number of undetermined neurons, input coordinates or rows at one end: a layer, `INPUT` or `ROWS`."""
        if end == INPUT:
            return self.columns
        return self.rows if end == ROWS else self.derivatives[end].count

    def block(self, later: str, earlier: str) -> Tensor:
        """The block ``G_later,earlier``, as zeros where there is none: (b or 1, u_later, u_earlier)."""
        block = self.blocks.get((later, earlier))
        return self.reference.new_zeros(1, self.count(later), self.count(earlier)) if block is None else block

    @cached_property
    def to_rows(self) -> Mapping[str, Tensor]:
        """The gains of the rows to every layer and to `INPUT`, as zeros where there are none: (b or 1, k, u)."""
        return {earlier: self.block(ROWS, earlier) for earlier in (*self.layers, INPUT)}

    def part(
        self,
        regions: Tensor,  # shape: (b',)
        rows: Tensor,  # shape: (b', k')
    ) -> Gains:
        """The gains of some regions, and of some rows of each, by their positions.

        ``G_lm[i] <- G_lm[regions_i]``, and ``G_rows,m[i, j] <- G_rows,m[regions_i, rows_ij]``. Blocks that are the same
        in all regions stay so, but for those of the rows.

        Returns:
            Gains of b' regions and k' rows.
        """

        def taken(block: Tensor, key: Key) -> Tensor:
            if len(block) > 1:
                block = block[regions]
            if key[0] != ROWS:
                return block
            return block.expand(len(rows), -1, -1).gather(1, rows.unsqueeze(2).expand(-1, -1, block.shape[2]))

        return Gains(
            layers=self.layers,
            derivatives={name: layer.part(regions) for name, layer in self.derivatives.items()},
            blocks=self.blocks.mapped(taken, lambda block: block.part(regions)),
            batch=len(regions),
            rows=rows.shape[1],
            columns=self.columns,
            reference=self.reference,
        )

    def one_row_each(
        self,
        rows: Tensor,  # shape: (b,)
    ) -> Gains:
        """The gains of b regions that share them, with one row for each: ``G_rows,m[i] <- G_rows,m[0, rows_i]``."""
        taken = {key: self.blocks[key][0][rows].unsqueeze(1) for key in self.blocks if key[0] == ROWS}
        return replace(self, blocks=Blocks(self.blocks.kept | taken), rows=1)

    def first_columns(self, count: int) -> Gains:
        """The gains of the first `count` input coordinates: ``G_l,input <- G_l,input[:, :, :count]``, of rows, too."""
        cut = {key: self.blocks[key][:, :, :count] for key in self.blocks if key[1] == INPUT}
        return replace(self, blocks=Blocks(self.blocks.kept | cut), columns=count)

    def transposed(self) -> Gains:
        """The same network run backwards: rows and input change places, and so do earlier and later.

        ``G'_ml = G_lm^T`` for all layers, with `ROWS` and `INPUT` swapped, so k rows become k columns. Its backward
        order is the paper's forward order: the bounds are those of the derivatives of the undetermined neurons'
        pre-activations with respect to the input, from the input on.

        Source: RecurJac, arXiv:1810.11783, section 3.3, for the order; that it is a transposition here is own.
        """
        swap = {ROWS: INPUT, INPUT: ROWS}
        return Gains(
            layers=self.layers[::-1],
            derivatives=self.derivatives,
            blocks=self.blocks.mapped(
                lambda block, _: block.mT,
                lambda block: block.transposed(),
                lambda key: (swap.get(key[1], key[1]), swap.get(key[0], key[0])),
            ),
            batch=self.batch,
            rows=self.columns,
            columns=self.rows,
            reference=self.reference,
        )


def compute_gains(
    graph: Graph,
    derivatives: Mapping[str, Layer],
    rows: Tensor,  # shape: (b, k, *output_shape)
    memory_budget: int,  # bytes
) -> Gains:
    r"""Pull the output rows and the unit rows of all undetermined neurons back through the graph.

    With ``e_j`` the unit row of neuron j at the pre-activations ``z_l``, C the rows at the output f, and W and D the
    linear maps and the diagonals of stable derivatives (0 for undetermined neurons) on a path from m,

    .. math:: (G_{l,m})_j = \sum_{\text{paths } m \to z_l} e_j^T W D W \cdots W, \qquad
        G_{\text{rows},m} = \sum_{\text{paths } m \to f} C W D W \cdots W,

    of which the columns of the undetermined neurons of m are kept. Undetermined neurons that `on_uncut_paths` leaves
    out have no gains.

    Source: own; the chain rule with everything certain multiplied out.

    Args:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: sensitivities of what is to be differentiated to the network's output: unit rows, or a matrix C.
        memory_budget: largest number of bytes for one chunk of rows; the result does not depend on it.

    Returns:
        The blocks ``(l, m)``, shape (b or 1, u_l, u_m), of all layers that have undetermined neurons left, and of the
        rows and the input.

    Raises:
        InputError: they would not fit into the memory of the device.
    """
    widest = max(torch.Size(shape).numel() for shape in graph.shapes.values())
    chunk = chunk_size(memory_budget, 4 * len(rows) * widest, rows)
    kept_per_row = len(rows) * sum(torch.Size(step.shape).numel() for step in graph.steps) * rows.element_size()
    budget_per_layer = memory_budget // (len(graph.factors) + 1)  # of what is kept for the backward pass
    layers = on_uncut_paths(graph, derivatives, rows)
    require_room_for_gains(graph, layers, rows)
    pulled = Pull(graph, layers)
    blocks: dict[Key, Tensor | RowSparse] = {}

    def add_blocks(later: str, pull_rows: Callable[[Tensor], dict[str, Tensor]], starts: Tensor) -> None:
        pull_chunk = recomputed(pull_rows, starts.shape[1] * kept_per_row, budget_per_layer)
        parts: dict[str, list[Tensor | RowSparse]] = {}
        for part in starts.split(chunk, 1):
            for earlier, block in pull_chunk(part).items():
                parts.setdefault(earlier, []).append(block if later == ROWS else compressed(block, starts.shape[1]))
        for earlier, each in parts.items():
            blocks[later, earlier] = joined(each)

    names = tuple(step.name for step in graph.factors if layers[step.name].count)
    for step in graph.factors:
        if layers[step.name].count:
            add_blocks(step.name, partial(pulled.units, step.source, like=rows), layers[step.name].index)
    add_blocks(ROWS, partial(pulled, graph.output), rows)
    return Gains(
        layers=names,
        derivatives=layers,
        blocks=Blocks(blocks),
        batch=len(rows),
        rows=rows.shape[1],
        columns=graph.columns,
        reference=rows,
    )


def require_room_for_gains(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> None:
    """Refuse gains that are larger than the memory of their device.

    They have at most ``(k + sum_l b_l u_l) (sum_l u_l + columns)`` elements. Where so many fit, or the memory is not
    known, nothing is refused; elsewhere they are refused if `gains_size` elements do not fit.

    Source: own.

    Args:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: what is differentiated, shape (b, k, *output_shape).

    Raises:
        InputError: they are.
    """
    layers = [derivatives[step.name] for step in graph.factors]
    count = sum(layer.count for layer in layers)
    at_most = (rows.shape[1] + sum(layer.index.numel() for layer in layers)) * (count + graph.columns)
    room = memory_of(rows.device)
    if room is None or at_most * rows.element_size() <= room:
        return
    needed = gains_size(graph, derivatives, rows) * rows.element_size()
    if needed > room:
        raise InputError(
            f"Over this region {count} derivatives are uncertain, and the gains between them would take "
            f"{needed / 1e9:.0f} GB where `{rows.device}` has {room / 1e9:.0f} GB: bound a smaller region, start from "
            "tighter pre-activation bounds (`CROWN`, `zonotope_bounds`), or use `Fast-Lip`, which needs no gains."
        )


def require_room(elements: int, like: Tensor, what: str) -> None:
    """Refuse what would take more than a quarter of the memory of its device.

    Source: own.

    Args:
        elements: how many numbers it has.
        like: a tensor of their type and device.
        what: what they are, the subject of the message.

    Raises:
        RoomError: it would.
    """
    room, needed = memory_of(like.device), elements * like.element_size()
    if room is not None and needed > room / 4:
        raise RoomError(
            f"{what} would take {needed / 1e9:.0f} GB where `{like.device}` has {room / 1e9:.0f} GB: bound a smaller "
            "region, or let the host bound the pre-activations (`rigorous=False`)."
        )


def gains_size(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> int:
    """The least number of elements of all gains: exact for one region, too small where regions differ.

    It is ``k n(output) + sum over the layers l of b_l u_l n(l)``, where ``n(l)`` counts the undetermined neurons of the
    layers, and the input coordinates, that rows at the layer's pre-activations are pulled back to, ``u_l`` are the
    layer's own, and ``b_l`` is b, or 1 where they are the same in all regions.

    Source: own.

    Args:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: what is differentiated, shape (b, k, *output_shape).
    """

    def columns_from(start: str) -> int:
        met = ancestors(graph, start, lambda step: derivatives[step.name].stable is not None)
        neurons = sum(derivatives[step.name].count for step in graph.factors if step.name in met)
        return neurons + (0 if met.isdisjoint(graph.inputs) else graph.columns)

    return rows.shape[1] * columns_from(graph.output) + sum(
        derivatives[step.name].index.numel() * columns_from(step.source) for step in graph.factors
    )
