"""How large the terms are that a network sums up: what the rounding of its pre-activations is proportional to.

A pre-activation ``z = sum_i w_i h_i + b`` is computed with an error of about ``eps (sum_i |w_i h_i| + |b|)``, which is
far more than ``eps |z|`` where the terms cancel, as they do when inputs or features are not centred.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import FactorStep, LinearStep
from recurjac_plugin.graph.sweeps import Arrived, forward, push_absolute


@torch.no_grad()
def term_sizes(graph: Graph, values: Mapping[str, Tensor], least: float = 0.0) -> dict[str, Tensor]:
    """Sums of absolute terms at every step.

    Args:
        graph: the network.
        values: value of the inputs and of every node at one point per region, shape (b, *shape).
        least: outputs of activations count as at least this large, where errors do not shrink with them.

    Returns:
        For the inputs and every step, ``2 sum_i |w_i| m_i + |z|`` with m the magnitudes of what the step reads (the
        bias is at most ``|z| + sum_i |w_i| m_i``), and the absolute value behind an activation. Steps inside a node,
        whose values the host does not know, have those of what they read. Shape (b, *shape).
    """
    inputs = {name: values[name].abs() for name in graph.inputs}

    def factor(step: FactorStep, before: Tensor) -> Tensor:
        value = values.get(step.name)
        return (before if value is None else value.abs()).clamp(min=least)

    def linear(step: LinearStep, arrived: Arrived[Tensor]) -> Tensor:
        terms, value = push_absolute(step, arrived), values.get(step.name)
        return terms if value is None else value.abs() + 2 * terms

    return forward(graph, inputs, factor, linear, keep=graph.position)
