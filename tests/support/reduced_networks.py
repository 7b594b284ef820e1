"""Small networks between their undetermined neurons, and what they compute."""

from __future__ import annotations

import torch
from cases import mlp
from torch import nn

from recurjac_plugin.gains.pull import INPUT, ROWS
from recurjac_plugin.host.library import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read_in_float64, specification
from recurjac_plugin.neurons.reduced import Reduced, reduce
from recurjac_plugin.preactivations.crown import crown_bounds


class Largest(nn.Module):
    """Maxima of pairs and of a window, absolute values, and a sum that skips them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(4, 3)

    def forward(self, x):
        h = self.a(x)
        h = torch.max(h[:, :4], h[:, 4:])
        return self.c(h.abs() + torch.nn.functional.leaky_relu(h, 0.2)) + torch.relu(self.c(h))


NETWORKS = {
    "relu": lambda: mlp(nn.ReLU, (4, 12, 10, 3)),
    "leaky": lambda: mlp(lambda: nn.LeakyReLU(0.3), (4, 9, 8, 3)),
    "maxima": Largest,
}


def reduced(net: nn.Module, center: torch.Tensor, radius: float) -> Reduced:
    model = BoundedModule(net, torch.zeros_like(center))
    problem = read_in_float64(model, BoundedTensor(center, PerturbationLpNorm(eps=radius)))
    rows = specification(None, problem.host_graph.output)
    graph, values, output = problem.graph, problem.host_graph.values, problem.host_graph.output
    regions = problem.arguments.regions
    bounds = crown_bounds(graph, values, output, regions, rows, 2**24)
    return reduce(graph, bounds, values, output, regions, rows, 2**24)


def evaluated(small: Reduced, t: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Pre-activations by layer, and the rows, where the input is t from the centre."""
    gains, change, z = small.gains, {INPUT: t}, {}

    def arrived(later: str) -> torch.Tensor:
        parts = [d @ gains.blocks[later, m][0].T for m, d in change.items() if (later, m) in gains.blocks]
        return torch.stack(parts).sum(0)

    for layer in small.layers:
        neurons = small.neurons[layer]
        assert neurons.left is not None
        assert neurons.right is not None
        z[layer] = neurons.center + arrived(layer)

        def value(z: torch.Tensor, neurons=neurons) -> torch.Tensor:
            return torch.where(z >= 0, neurons.right, neurons.left) * z

        change[layer] = value(z[layer]) - value(neurons.center)
    return z, small.center + arrived(ROWS)
