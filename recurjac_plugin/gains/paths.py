"""Which undetermined neurons lie on a way from the input to the rows that is not cut by derivatives of 0.

Behind dead neurons, or among the values that lose a maximum, there are neurons whose derivative is uncertain but meets
only zeros. They have no part in the Jacobian, and are left out before anything is computed for them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import FactorStep

from .undetermined import Layer


def on_uncut_paths(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> dict[str, Layer]:
    """The layers without the neurons that have no part in the Jacobian of any region.

    Args:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: what is differentiated, shape (b, k, *output_shape).
    """
    kept = {}
    for name, part in _parts(graph, derivatives, rows).items():
        layer = derivatives[name]  # its ranges keep their gradients
        kept[name] = layer if bool(part.all()) else layer.only(part.nonzero().squeeze(1))
    return kept


@torch.no_grad()
def _parts(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> dict[str, Tensor]:
    """For every layer, which of its undetermined neurons have a part in the Jacobian of some region."""
    batch = len(rows)
    alive = {}
    for step in graph.factors:
        lower, upper = derivatives[step.name].dense(batch, torch.Size(step.shape).numel())
        alive[step.name] = ((lower != 0) | (upper != 0)).to(rows.dtype).reshape(batch, *step.shape)
    reached = _reached(graph, alive, rows)
    wanted = _wanted(graph, alive, rows)
    parts = {}
    for step in graph.factors:
        on_path = (reached[step.name] * wanted[step.name]).flatten(1)
        parts[step.name] = on_path.gather(1, derivatives[step.name].index.expand(batch, -1)).any(0)
    return parts


def _reached(graph: Graph, alive: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    """1 where a step depends on the input, 0 where certainly not: (b, *shape) by name."""
    found = {name: like.new_ones(len(like), *graph.shapes[name]) for name in graph.inputs}
    for step in graph.steps:
        total = like.new_zeros(len(like), *step.shape)
        if isinstance(step, FactorStep):
            found[step.name] = found.get(step.source, total) * alive[step.name]
            continue
        for source, linear in step.sources:
            if source in found:  # in a part of a graph some sources are left out
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
            if step.source in found:
                found[step.source] = found[step.source] + found[step.name] * alive[step.name]
            continue
        for source, linear in step.sources:
            if source in found:
                found[source] = found[source] + linear.absolute().pull(found[step.name])
    return found
