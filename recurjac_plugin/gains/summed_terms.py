"""How large the terms are that a network sums up: what the rounding of its pre-activations is proportional to.

A pre-activation ``z = sum_i w_i h_i + b`` is computed with an error of about ``eps (sum_i |w_i h_i| + |b|)``, which is
far more than ``eps |z|`` where the terms cancel, as they do when inputs or features are not centred.

Source:
    Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1 (inner products), with the number of terms
    left out as in `numerics.rounding`.
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
    """Sums of absolute terms of what the factors of a graph depend on.

    ``t = 2 sum_i |W_i| t_i + |z|`` at a linear step, with ``t_i`` those of what it reads: the bias is one of the terms,
    and at most ``|z| + sum_i |W_i| t_i``. Behind a factor, and at the inputs, ``t = |z|``. Steps inside a node, whose
    values the host does not know, have ``sum_i |W_i| t_i``, or the size at what they read.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1, for one sum.

    Args:
        graph: the network.
        values: value of the inputs and of every node at one point per region, shape (b, *shape).
        least: outputs of activations count as at least this large, where errors do not shrink with them.

    Returns:
        The steps, or inputs, that stand for what the factor steps read, by name: (b, *shape).
    """
    inputs = {name: values[name].abs() for name in graph.inputs}

    def factor(step: FactorStep, before: Tensor) -> Tensor:
        value = values.get(step.name)
        return (before if value is None else value.abs()).clamp(min=least)

    def linear(step: LinearStep, arrived: Arrived[Tensor]) -> Tensor:
        terms, value = push_absolute(step, arrived), values.get(step.name)
        return terms if value is None else value.abs() + 2 * terms

    wanted = {graph.stands_for[read.name] for step in graph.factors for read in step.reads}
    return forward(graph, inputs, factor, linear, keep=wanted)
