"""Which undetermined neurons lie on a way from the input to the rows that is not cut by derivatives of 0.

Behind dead neurons, or among the values that lose a maximum, there are neurons whose derivative is uncertain but meets
only zeros. They have no part in the Jacobian, and are left out before anything is computed for them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .graph import Graph
from .steps import FactorStep
from .undetermined import Layer


@torch.no_grad()
def relevant(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> dict[str, Layer]:
    """The layers without the neurons that have no part in the Jacobian of any region.

    Args:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: what is differentiated, shape (b, k, *output_shape).
    """
    batch = len(rows)
    alive = {}
    for step in graph.factors:
        lower, upper = derivatives[step.name].dense(batch, torch.Size(step.shape).numel())
        alive[step.name] = ((lower != 0) | (upper != 0)).to(rows.dtype).reshape(batch, *step.shape)
    reached = _reached(graph, alive, rows)
    wanted = _wanted(graph, alive, rows)
    kept = {}
    for step in graph.factors:
        layer, on_path = derivatives[step.name], (reached[step.source] * wanted[step.name]).flatten(1)
        part = on_path.gather(1, layer.index.expand(batch, -1)).any(0)
        kept[step.name] = layer if bool(part.all()) else layer.only(part.nonzero().squeeze(1))
    return kept


def _reached(graph: Graph, alive: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    """1 where a step depends on the input, 0 where certainly not: (b, *shape) by name."""
    found = {name: like.new_ones(len(like), *graph.shapes[name]) for name in graph.inputs}
    for step in graph.steps:
        if isinstance(step, FactorStep):
            found[step.name] = found[step.source] * alive[step.name]
            continue
        total = like.new_zeros(len(like), *step.shape)
        for source, linear in step.sources:
            total = total + linear.absolute().push(found[source])
        found[step.name] = total.sign()
    return found


def _wanted(graph: Graph, alive: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """1 where a row depends on a step's output, 0 where certainly not: (b, *shape) by name."""
    zero = {step.name: rows.new_zeros(len(rows), *step.shape) for step in graph.steps}
    zero |= {name: rows.new_zeros(len(rows), *graph.shapes[name]) for name in graph.inputs}
    found = zero | {graph.output: rows.abs().sum(1)}
    for step in reversed(graph.steps):
        found[step.name] = found[step.name].sign()
        if isinstance(step, FactorStep):
            found[step.source] = found[step.source] + found[step.name] * alive[step.name]
            continue
        for source, linear in step.sources:
            found[source] = found[source] + linear.absolute().pull(found[step.name])
    return found
