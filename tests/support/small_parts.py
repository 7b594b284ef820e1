"""Networks between their undetermined neurons: points, what is in a part, and the exact least value."""

from __future__ import annotations

import numpy as np
import torch
from reduced_networks import NETWORKS
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from recurjac_plugin.gains.pull import INPUT, ROWS
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.reduced import Reduced

MEMORY = 2**24


def network(name: str, seed: int = 1) -> tuple[nn.Module, Tensor]:
    """A network in float64, and a point."""
    torch.manual_seed(seed)
    return NETWORKS[name]().double(), torch.randn(1, 4).double()


def activations(small: Reduced, layer: str, z: Tensor) -> Tensor:
    """What the neurons of a layer make of z."""
    neurons = small.neurons[layer]
    assert neurons.left is not None
    assert neurons.right is not None
    return torch.where(z >= 0, neurons.right, neurons.left) * z


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
