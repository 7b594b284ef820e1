r"""RecurJac in forward order: bounds of the neurons' derivatives with respect to the input, from the input on.

With the gains G (`recurjac_plugin.gains.gains`), ``d_m`` the uncertain derivatives of layer m and ``x_l`` the
derivatives of the pre-activations of layer l with respect to the input, the chain rule read from the input on is

.. math:: x_l = G_{l,\text{input}} + \sum_{m < l} G_{l,m} (d_m x_m),

and for the rows in place of l it is the Jacobian. So the forward order (Zhang, Zhang, Hsieh, AAAI 2019,
arXiv:1810.11783, section 3.3) is the backward order of the transposed gains: rows and input change places. Neither
order is tighter in general; both hold, so their intersection does.

Shifted by one it begins behind the first activation layer, whose outputs h take the place of the input. That layer
is then joined by interval arithmetic: with ``df/dh`` in [yl, yu], its derivatives ``d`` in [dl, du] and ``A`` the
linear map in front of it,

.. math:: J = (d \cdot \partial f / \partial h) \, A .

What reaches the output around that layer, on a skip connection, is bounded by itself and added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurjac_plugin.gains.blocks import Blocks
from recurjac_plugin.gains.gains import Gains, compute_gains
from recurjac_plugin.gains.pull import INPUT, unit_rows
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.sweeps import descendants
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.passes.mccormick import NetworkRelaxation
from recurjac_plugin.passes.rules import Rule

from .backward import backward_order


@dataclass(frozen=True, eq=False)
class ForwardOrder:
    """The forward order on one set of gains: the backward order of the transposed ones, ``G'_ml = G_lm^T``.

    Source: RecurJac, arXiv:1810.11783, section 3.3; the transposition is own.

    Attributes:
        gains: the exact part, as for the backward order.
        rule: what lies above a product at an undetermined neuron.
        memory_budget: largest number of bytes for one chunk of columns.
        relaxation: what is known of the derivatives beyond their ranges; None for nothing.
    """

    gains: Gains
    rule: Rule
    memory_budget: int
    relaxation: NetworkRelaxation | None = None

    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, those of ``J^T`` transposed, both of shape (b, k, columns).

        Raises:
            InputError: they overflow the number type.
            RecurJacError: bounds by lines and by planes contradict each other.
        """
        order = backward_order(self.gains.transposed(), self.rule, self.memory_budget, self.relaxation, strips=True)
        lower, upper = order.jacobian()
        return lower.mT, upper.mT

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k).

        The weights make one input coordinate out of all, one per row: ``G_l,input <- G_l,input weights^T``, also for
        the rows. The recursion begins from these, and the upper bound of entry (k, k) is that of row k.

        Source: RecurJac, arXiv:1810.11783, section 3.4, the improved constant, here in forward order.

        Raises:
            InputError: the bounds overflow the number type.
            RecurJacError: bounds by lines and by planes contradict each other.
        """
        inputs = [key for key in self.gains.blocks if key[1] == INPUT]
        merged = Blocks(self.gains.blocks.kept | {key: self.gains.blocks[key] @ weights.mT for key in inputs})
        gains = replace(self.gains, blocks=merged, columns=weights.shape[1])
        return replace(self, gains=gains).jacobian()[1].diagonal(dim1=1, dim2=2)


@dataclass(frozen=True, eq=False)
class ShiftedForwardOrder:
    """The forward order from behind the first activation layer on: ``J = (d y) A + J_around``.

    With ``y = df/dh`` by the layer's outputs h, its derivatives d and the linear map A in front of it.

    Source: RecurJac, arXiv:1810.11783, section 3.3; what leads around the layer is own.

    Attributes:
        behind: the forward order with that layer's outputs as its input.
        derivatives: lower and upper bound of the layer's derivatives, shape (b, n).
        matrix: the linear map from the input to the layer, shape (1, n, columns).
        around: the forward order of what does not pass through the layer; None if all does.
    """

    behind: ForwardOrder
    derivatives: Interval
    matrix: Tensor
    around: ForwardOrder | None

    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, both of shape (b, k, columns).

        With ``d y`` in [pl, pu] and ``A = A+ + A-``: ``[pl A+ + pu A-, pu A+ + pl A-]``, plus those around the layer.

        Raises:
            InputError: they overflow the number type.
        """
        lower, upper = self._at_layer()
        positive = self.matrix.clamp(min=0)
        negative = self.matrix - positive
        lower, upper = lower @ positive + upper @ negative, upper @ positive + lower @ negative
        if self.around is None:
            return lower, upper
        more = self.around.jacobian()
        return lower + more[0], upper + more[1]

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k).

        The weights are pushed through the exact map to the layer, ``c = weights A^T``, and meet the bounds [pl, pu] of
        ``d y`` there: ``sum_j max(c_j pl_kj, c_j pu_kj)``, plus the bound of what leads around the layer.

        Raises:
            InputError: the bounds overflow the number type.
        """
        lower, upper = self._at_layer()
        column = weights @ self.matrix.mT
        total = torch.where(column >= 0, column * upper, column * lower).sum(2)
        return total if self.around is None else total + self.around.upper_of_sum(weights)

    def _at_layer(self) -> Interval:
        """Bounds of ``d y``, the derivative of the rows with respect to the layer's pre-activations: (b, k, n)."""
        lower, upper = self.behind.jacobian()
        dl, du = (bound.unsqueeze(1) for bound in self.derivatives)
        corners = torch.stack((dl * lower, du * lower, dl * upper, du * upper))
        return corners.amin(0), corners.amax(0)


def shifted_forward_order(
    graph: Graph,
    derivatives: Mapping[str, Layer],
    rows: Tensor,  # shape: (b, k, *output_shape)
    rule: Rule,
    memory_budget: int,
) -> ShiftedForwardOrder:
    """Prepare the shifted order of a graph with at least one factor step.

    One set of gains starts at the outputs of the first factor step, another one at the input with that step taken out;
    the linear map between the input and the step is exact.

    Source: RecurJac, arXiv:1810.11783, section 3.3.

    Args:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: what is differentiated.
        rule: what lies above a product at an undetermined neuron.
        memory_budget: largest number of bytes for one chunk of columns.

    Raises:
        InputError: the gains would not fit into the memory of the device.
    """
    first, batch = graph.factors[0], len(rows)
    later = graph.steps[graph.steps.index(first) + 1 :]

    def order(part: Graph) -> ForwardOrder:
        return ForwardOrder(compute_gains(part, derivatives, rows, memory_budget), rule, memory_budget)

    without = replace(graph, steps=tuple(step for step in graph.steps if step is not first))
    everything = torch.arange(torch.Size(graph.shapes[first.source]).numel(), device=rows.device)
    return ShiftedForwardOrder(
        behind=order(replace(graph, steps=later, inputs=(first.name,))),
        derivatives=derivatives[first.name].dense(batch, len(everything)),
        matrix=unit_rows(graph, derivatives, first.source, everything, rows),
        around=order(without) if without.output in descendants(without, without.inputs) else None,
    )
