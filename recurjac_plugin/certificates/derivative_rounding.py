"""How far rounding can reach in a gradient at a point: in proportion to the sum over all paths through the network.

An entry of the gradient is a sum over paths from the input to the row, each a product of weights and derivatives,

    J_kr = sum over the paths p from r to k of  prod_p w prod_p d.

Its rounding is a small multiple of the precision times the sum of their absolute values, which can be far more than the
entry where the paths cancel, and is far less than the bounds of the entry over a large region. That sum is the gradient
of the network with the weights ``|w|`` and the derivatives ``|d|``: one sweep back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.gains.errors import estimated_errors
from recurjac_plugin.gains.undetermined import PreactivationBounds, classify
from recurjac_plugin.graph.sweeps import backward, pull_absolute, times
from recurjac_plugin.host.library import BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.preactivations.defects import host_unit


@torch.no_grad()
def unit_of_rounding(
    model: Any,
    points: Tensor,  # shape: (n, *input_shape)
    rows: Tensor,  # shape: (n, k, n_out)
) -> Tensor:
    """``eps sum_p prod_p |w| prod_p |d|`` over all paths p from a coordinate of the input to a row, at points.

    Args:
        model: the host's `BoundedModule`, of one perturbed input.
        points: where.
        rows: specification matrix of each point.

    Returns:
        Shape (n, k, columns).
    """
    problem = read(model, BoundedTensor(points, PerturbationLpNorm(norm=float("inf"), eps=0.0)))
    graph, host_graph = problem.graph, problem.host_graph
    eps, count = host_unit(host_graph, points.dtype), len(points)
    values = {name: host_graph.values[name].reshape(count, *read.shape) for name, read in graph.reads.items()}
    errors = estimated_errors(graph, host_graph.values, {}, {name: (v, v) for name, v in values.items()}, eps)
    largest = {}
    for factor in graph.factors:
        reads = [each.name for each in factor.reads]
        layer = classify(factor, [PreactivationBounds(values[n], values[n], errors[n]) for n in reads])
        ends = layer.dense(count, torch.Size(factor.shape).numel())
        largest[factor.name] = torch.maximum(*(end.abs() for end in ends)).reshape(count, *factor.shape)
    (name,) = graph.inputs
    sums = []
    for row in rows.abs().unbind(1):  # one after the other: all rows of a wide layer at once are large
        start = row.reshape(count, *graph.shapes[graph.output])
        arrived = backward(graph, graph.output, start, times(largest), pull_absolute)
        sums.append(arrived.get(name, torch.zeros_like(points)).flatten(1))
    return eps * torch.stack(sums, 1)
