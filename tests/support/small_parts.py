"""Networks between their undetermined neurons: how to get one, what it computes, and its exact least value."""

from __future__ import annotations

import numpy as np
import torch
from cases import mlp
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from recurjac_plugin.gains.pull import INPUT, ROWS
from recurjac_plugin.host.library import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read_in_float64, specification
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.reduced import Reduced, reduce
from recurjac_plugin.preactivations.crown import crown_bounds

MEMORY = 2**24


class Largest(nn.Module):
    """Maxima of pairs, absolute values, a leaky ReLU, and a sum that skips them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = torch.max(h[:, :4], h[:, 4:])
        return self.c(h.abs() + nn.functional.leaky_relu(h, 0.2)) + torch.relu(self.c(h))


NETWORKS = {
    "relu": lambda: mlp(nn.ReLU, (4, 12, 10, 3)),
    "leaky": lambda: mlp(lambda: nn.LeakyReLU(0.3), (4, 9, 8, 3)),
    "maxima": Largest,
}


def network(name: str, seed: int = 1) -> tuple[nn.Module, Tensor]:
    """A network in float64, and a point."""
    torch.manual_seed(seed)
    return NETWORKS[name]().double(), torch.randn(1, 4).double()


def reduced(net: nn.Module, center: Tensor, radius: float) -> Reduced:
    """The network between its undetermined neurons on a box; its rows are the outputs."""
    model = BoundedModule(net, torch.zeros_like(center))
    problem = read_in_float64(model, BoundedTensor(center, PerturbationLpNorm(eps=radius)))
    rows = specification(None, problem.host_graph.output)
    graph, values, output = problem.graph, problem.host_graph.values, problem.host_graph.output
    regions = problem.arguments.regions
    bounds = crown_bounds(graph, values, output, regions, rows, MEMORY)
    return reduce(graph, bounds, values, output, regions, rows, MEMORY)


def activations(small: Reduced, layer: str, z: Tensor) -> Tensor:
    """What the neurons of a layer make of z."""
    neurons = small.neurons[layer]
    assert neurons.left is not None
    assert neurons.right is not None
    return torch.where(z >= 0, neurons.right, neurons.left) * z


def evaluated(small: Reduced, t: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Pre-activations by layer, and the rows, where the inputs (n, columns) are t from the centre."""
    gains, change, z = small.gains, {INPUT: t}, {}

    def arrived(later: str) -> Tensor:
        parts = [d @ gains.blocks[later, m][0].T for m, d in change.items() if (later, m) in gains.blocks]
        return torch.stack(parts).sum(0)

    for layer in small.layers:
        center = small.neurons[layer].center
        z[layer] = center + arrived(layer)
        change[layer] = activations(small, layer, z[layer]) - activations(small, layer, center)
    return z, small.center + arrived(ROWS)


def points(small: Reduced, count: int = 2000) -> Tensor:
    """Inputs in the box, corners among them, as distances from the centre."""
    low, high = small.box
    share = torch.rand(count, low.shape[1], dtype=low.dtype)
    share[: count // 2] = share[: count // 2].round()
    return low + share * (high - low)


def inside(parts: Parts, place: int, z: dict[str, Tensor], t: Tensor) -> Tensor:
    """Which points lie in one of some parts, bool (n,)."""
    there = ((parts.box[0][place] <= t) & (t <= parts.box[1][place])).all(1)
    for layer, value in z.items():
        there = there & ((parts.lower[layer][place] <= value) & (value <= parts.upper[layer][place])).all(1)
    return there


def least_of_largest(small: Reduced, rows: Tensor) -> float:
    """``min over the box of max over some rows``, by mixed-integer programming with HiGHS.

    Variables are the inputs, of every neuron ``p = max(z, 0)``, ``q = max(-z, 0)`` and its side, and the value.
    """
    columns, layers = small.gains.columns, small.layers
    counts = {layer: small.gains.count(layer) for layer in layers}
    total = sum(counts.values())
    width = columns + 3 * total + 1
    start, place = columns, {}
    for layer in layers:
        place[layer] = start + np.arange(counts[layer])
        start += counts[layer]

    def as_row(later: str, index: int) -> tuple[np.ndarray, float]:
        """``center + sum of gains times changes`` of a neuron or row, as coefficients and a constant."""
        row, constant = (
            np.zeros(width),
            float((small.center if later == ROWS else small.neurons[later].center)[0, index]),
        )
        for end, earlier in small.gains.blocks:
            if end != later:
                continue
            gain = small.gains.blocks[end, earlier][0, index].numpy()
            if earlier == INPUT:
                row[:columns] += gain
                continue
            neurons = small.neurons[earlier]
            row[place[earlier]] += gain * neurons.right[0].numpy()
            row[place[earlier] + total] -= gain * neurons.left[0].numpy()
            constant -= float((gain * activations(small, earlier, neurons.center)[0].numpy()).sum())
        return row, constant

    matrix, low, high = [], [], []

    def add(row: np.ndarray, least: float, most: float) -> None:
        matrix.append(row)
        low.append(least)
        high.append(most)

    lower, upper = np.full(width, -np.inf), np.full(width, np.inf)
    lower[:columns], upper[:columns] = (end[0].numpy() for end in small.box)
    lower[columns : columns + 3 * total] = 0
    upper[columns + 2 * total : -1] = 1
    for layer in layers:
        neurons = small.neurons[layer]
        for j, p in enumerate(place[layer]):
            row, constant = as_row(layer, j)
            row[p] -= 1
            row[p + total] += 1
            add(row, -constant, -constant)  # p - q = z
            most, least = max(float(neurons.upper[0, j]), 0.0), max(-float(neurons.lower[0, j]), 0.0)
            above, below = np.zeros(width), np.zeros(width)
            above[p], above[p + 2 * total] = 1, -most
            below[p + total], below[p + 2 * total] = 1, least
            add(above, -np.inf, 0)
            add(below, -np.inf, least)
    for k in rows.tolist():
        row, constant = as_row(ROWS, k)
        row[-1] = -1
        add(row, -np.inf, -constant)
    objective = np.zeros(width)
    objective[-1] = 1
    integrality = np.zeros(width)
    integrality[columns + 2 * total : -1] = 1
    found = milp(
        objective, constraints=LinearConstraint(np.array(matrix), low, high), bounds=Bounds(lower, upper),
        integrality=integrality, options={"mip_rel_gap": 1e-9},
    )  # fmt: skip
    assert found.success, found.message
    return float(found.fun)
