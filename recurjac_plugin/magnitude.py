"""How large the terms are that a network sums up: what the rounding of its pre-activations is proportional to.

A pre-activation ``z = sum_i w_i h_i + b`` is computed with an error of about ``eps (sum_i |w_i h_i| + |b|)``, which is
far more than ``eps |z|`` where the terms cancel, as they do when inputs or features are not centred.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .graph import ActivationStep, Graph


@torch.no_grad()
def magnitudes(graph: Graph, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of absolute terms at every step.

    Args:
        graph: the network.
        values: value of the input and of every step at one point per region, shape (b, *shape).

    Returns:
        For the input and every step, ``2 sum_i |w_i| m_i + |z|`` with m the magnitudes of what the step reads (the bias
        is at most ``|z| + sum_i |w_i| m_i``), and the absolute value behind an activation. Shape (b, *shape).
    """
    found = {graph.input: values[graph.input].abs()}
    for step in graph.steps:
        size = values[step.name].abs()
        if not isinstance(step, ActivationStep):
            for source, linear in step.sources:
                size = size + 2 * linear.absolute().push(found[source])
        found[step.name] = size
    return found
