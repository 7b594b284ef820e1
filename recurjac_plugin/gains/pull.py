r"""Rows pulled back through a graph to its undetermined neurons: how gains are made, and what they are multiplied with.

A row g at a step is pulled back by ``g -> W^T g`` at a linear step and ``g -> d * g`` at the stable neurons of a layer;
what arrives at the undetermined ones stays there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import FactorStep, LinearStep
from recurjac_plugin.graph.sweeps import at_inputs, backward, pull
from recurjac_plugin.numerics.deadline import require_time

from .undetermined import Layer

ROWS = "rows"
"""Key of the output rows among the gains' later ends."""
INPUT = "input"
"""Key of the input among the gains' earlier ends."""

Key = tuple[str, str]
"""A later end, a layer or `ROWS`, and an earlier one, a layer or `INPUT`."""


class Pull:
    """Rows at one step of a graph, pulled back to every layer with undetermined neurons and to the input.

    ``g -> W^T g`` at a linear step, ``g -> d * g`` at the stable neurons of a layer and 0 at the others, whose entries
    of g are gains. Where several steps read the same one, what they pass back to it is added up.

    Source: own; reverse-mode differentiation that stops at the undetermined neurons.

    Args:
        graph: the network.
        derivatives: derivative ranges of the factor steps that the rows meet.
    """

    def __init__(self, graph: Graph, derivatives: Mapping[str, Layer]) -> None:
        self.graph, self.derivatives = graph, derivatives

    def units(
        self,
        start: str,
        index: Tensor,  # shape: (b or 1, u)
        like: Tensor,
    ) -> dict[str, Tensor]:
        """Pull the unit rows ``e_j``, j in `index`, of the flattened output of `start`.

        At a linear step with one source they begin as rows ``W[j]`` of its map there.

        Returns:
            What a call does, with r = u.
        """
        batch, count = index.shape
        flat = index.reshape(-1)
        place = self.graph.position.get(start, -1)
        step = self.graph.steps[place] if place >= 0 else None
        if isinstance(step, LinearStep) and len(step.sources) == 1:
            source, linear = step.sources[0]
            return self(source, linear.pull_units(flat, like).reshape(batch, count, *linear.input_shape))
        shape = self.graph.shapes[start]
        units = like.new_zeros(len(flat), torch.Size(shape).numel()).scatter(1, flat.unsqueeze(1), 1.0)
        return self(start, units.reshape(batch, count, *shape))

    def __call__(
        self,
        start: str,
        rows: Tensor,  # shape: (b or 1, r, *shape)
    ) -> dict[str, Tensor]:
        """Pull rows g given at `start`: ``g dstart / da_m`` for every layer m, and ``g dstart / dx``.

        Returns:
            For each layer met, the rows' entries at its undetermined neurons, (b or 1, r, u), and for `INPUT` those at
            the input, (b or 1, r, columns).

        Raises:
            OverTime: the time is over (`numerics.deadline`).
        """
        require_time()
        entries: dict[str, Tensor] = {}

        def through_layer(step: FactorStep, value: Tensor) -> Tensor | None:
            layer = self.derivatives[step.name]
            if layer.count:
                entries[step.name] = layer.select(value.flatten(2))
            return None if layer.stable is None else value * layer.stable.reshape(-1, 1, *value.shape[2:])

        arrived = backward(self.graph, start, rows, through_layer, pull)
        if arrived:
            entries[INPUT] = at_inputs(self.graph, arrived, rows.flatten(2)[:, :, 0])
        return entries


def unit_rows(
    graph: Graph,
    derivatives: Mapping[str, Layer],
    start: str,
    index: Tensor,  # shape: (r,)
    like: Tensor,
) -> Tensor:
    """Rows of the linear map from the input to a step with no activation in between: ``W[index]`` for ``z = W x + c``.

    Source: own; the unit rows at `index`, pulled back to the input.

    Args:
        graph: the network.
        derivatives: derivative ranges of the factor steps; none is met.
        start: the step z, which depends on the input.
        index: elements of the flattened z.
        like: a tensor of the dtype and device of the result.

    Returns:
        Shape (1, r, columns).
    """
    return Pull(graph, derivatives).units(start, index.unsqueeze(0), like)[INPUT]
