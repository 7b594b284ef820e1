"""Which undetermined neurons lie on a path from the input to the rows that is not cut by derivatives of 0.

Behind dead neurons, or among the values that lose a maximum, there are neurons whose derivative is uncertain but meets
only zeros. They have no part in the Jacobian, and are left out before anything is computed for them.

The Jacobian is a sum over paths, each a product of weights and derivatives. With every derivative that can be other
than 0 replaced by 1 and every weight W by ``|W|``, no two paths cancel: a neuron j has no part in any row if, of

    f = sum over the paths from the input to j,     g = sum over the paths from j to the rows ``|C|``,

one is 0. One sweep forwards tells f, one sweep backwards tells g; only whether they are 0 is carried.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.sweeps import backward, forward, pull_pattern, push_pattern, times

from .undetermined import Layer


def on_uncut_paths(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> dict[str, Layer]:
    """The layers without the neurons that have no part in the Jacobian of any region.

    With ``a = 1`` where a derivative can be other than 0, else 0, f goes from 1 at the inputs on by ``f -> |W| f`` at a
    linear step and ``f -> a f`` at a layer, and g from ``sum_k |C_k|`` at the output back by ``g -> |W|^T g`` and
    ``g -> a g``; of sums only whether they are 0 is kept. Neuron j stays if ``f_j g_j != 0`` in some region, f and g
    being taken at its output.

    Source: own.

    Args:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: what is differentiated, shape (b, k, *output_shape).

    Returns:
        Name of every factor step -> its layer, the undetermined neurons reduced to those on an uncut path: index of
        shape (b or 1, u'), ranges of shape (b, u').
    """
    layers = {}
    for name, on_path in _on_path(graph, derivatives, rows).items():
        layer = derivatives[name]  # its ranges keep their gradients
        layers[name] = layer if bool(on_path.all()) else layer.only(on_path.nonzero().squeeze(1))
    return layers


@torch.no_grad()
def _on_path(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> dict[str, Tensor]:
    """For every layer, which of its undetermined neurons have a part in the Jacobian of some region: (u,)."""
    batch = len(rows)
    alive = {}
    for step in graph.factors:
        lower, upper = derivatives[step.name].dense(batch, torch.Size(step.shape).numel())
        alive[step.name] = ((lower != 0) | (upper != 0)).to(rows.dtype).reshape(batch, *step.shape)
    inputs = {name: rows.new_ones(batch, *graph.shapes[name]) for name in graph.inputs}
    through_alive = times(alive)
    from_input = forward(graph, inputs, through_alive, push_pattern, alive)
    from_rows = backward(graph, graph.output, rows.abs().sum(1), through_alive, pull_pattern, keep=alive)
    on_path = {}
    for name in alive:
        layer = derivatives[name]
        if name in from_input and name in from_rows:
            neurons = (from_input[name] * from_rows[name].sign()).flatten(1)
            on_path[name] = neurons.gather(1, layer.index.expand(batch, -1)).any(0)
        else:
            on_path[name] = torch.zeros(layer.count, dtype=torch.bool, device=rows.device)
    return on_path
