"""How far rounding can reach in a gradient at a point: in proportion to the sum over all ways through the network.

An entry of the gradient is a sum over ways from the input to the row, each a product of weights and derivatives. Its
rounding is a small multiple of the precision times the sum of their magnitudes, which can be far more than the entry
where the ways cancel, and is far less than the bounds of the entry over a large region.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.gains.undetermined import PreactivationBounds, classify
from recurjac_plugin.graph.graph import build_graph
from recurjac_plugin.graph.sweeps import backward, pull_absolute, times
from recurjac_plugin.host.library import BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.preactivations.defects import host_precision


@torch.no_grad()
def unit_of_rounding(
    model: Any,
    points: Tensor,  # shape: (n, *input_shape)
    rows: Tensor,  # shape: (n, k, n_out)
) -> Tensor:
    """The precision times the sums of the magnitudes of all ways, at points.

    Args:
        model: the host's `BoundedModule`, of one perturbed input.
        points: where.
        rows: specification matrix of each point.

    Returns:
        Shape (n, k, columns).
    """
    _, host_graph = read(model, BoundedTensor(points, PerturbationLpNorm(norm=float("inf"), eps=0.0)))
    graph = build_graph(host_graph.nodes, host_graph.inputs, host_graph.output_name)
    eps, count = host_precision(host_graph, "IBP", points.dtype).relative, len(points)
    largest = {}
    for factor in graph.factors:
        values = [host_graph.values[each.name].reshape(count, *each.shape) for each in factor.reads]
        layer = classify(factor, [PreactivationBounds(value, value, eps) for value in values])
        ends = layer.dense(count, torch.Size(factor.shape).numel())
        largest[factor.name] = torch.maximum(*(end.abs() for end in ends)).reshape(count, *factor.shape)
    (name,) = graph.inputs
    sums = []
    for row in rows.abs().unbind(1):  # one after the other: all rows of a wide layer at once are large
        start = row.reshape(count, *graph.shapes[graph.output])
        arrived = backward(graph, graph.output, start, times(largest), pull_absolute)
        sums.append(arrived.get(name, torch.zeros_like(points)).flatten(1))
    return eps * torch.stack(sums, 1)
