"""Gains between three layers, drawn at random, with lines of their neurons; and sums over them, choice by choice."""

from __future__ import annotations

import itertools

import torch

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.gains.blocks import Blocks
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.gains.undetermined import Layer

BATCH, COLUMNS, SUMS = 2, 3, 4
COUNTS = {"a": 2, "b": 3, "c": 1}


def rand(*shape):
    return torch.rand(*shape, dtype=torch.float64) * 2 - 1


def random_gains(batches, missing):
    """Gains between three layers: blocks of these batch sizes in turn, without those in `missing`."""
    ends = [INPUT, *COUNTS]
    pairs = [(later, earlier) for earlier, later in itertools.combinations(ends, 2) if (later, earlier) not in missing]
    sizes = {INPUT: COLUMNS, **COUNTS}
    blocks = {
        (later, earlier): rand(batch, sizes[later], sizes[earlier])
        for (later, earlier), batch in zip(pairs, itertools.cycle(batches))
    }
    layers = {}
    for name, count in COUNTS.items():
        one = torch.ones(BATCH, count, dtype=torch.float64)
        layers[name] = Layer(torch.arange(count)[None], 0 * one, one, None)
    return Gains(tuple(COUNTS), layers, Blocks(blocks), BATCH, SUMS, COLUMNS, rand(1))


def random_lines():
    """For every layer two lines that do not cross where |t| is below 10."""
    lines = {}
    for name, count in COUNTS.items():
        slope, constant = rand(BATCH, count), rand(BATCH, count)
        lines[name] = Relaxation(slope, constant - 2, slope + 0.2 * rand(BATCH, count), constant + 2)
    return lines


def weighted(matrix, value):
    """(b or 1, m, u) and (n, b, u) -> (n, b, m)."""
    return torch.einsum("bmu,nbu->nbm", matrix.expand(value.shape[1], -1, -1), value)


def enumerated(gains, lines, on_activations, on_preactivations, x):
    """The sums at x - x0 of shape (n, b, columns), for every choice of a line at every neuron: (choices, n, b, m)."""
    neurons = [(layer, j) for layer, count in COUNTS.items() for j in range(count)]
    values = []
    for choice in itertools.product((0.0, 1.0), repeat=len(neurons)):
        activations, t = {INPUT: x}, {}
        for layer, count in COUNTS.items():
            t[layer] = x.new_zeros(*x.shape[:2], count)
            for (later, earlier), block in gains.blocks.items():
                if later == layer:
                    t[layer] = t[layer] + weighted(block, activations[earlier])
            upper = torch.tensor([side for (name, _), side in zip(neurons, choice) if name == layer]).double()
            line = lines[layer]
            activations[layer] = upper * (line.upper_slope * t[layer] + line.upper_constant)
            activations[layer] += (1 - upper) * (line.lower_slope * t[layer] + line.lower_constant)
        terms = [weighted(c, activations[end]) for end, c in on_activations.items()]
        values.append(sum(terms + [weighted(c, t[layer]) for layer, c in on_preactivations.items()]))
    return torch.stack(values)


def coefficients(ends, batch=BATCH):
    return {end: rand(batch, SUMS, COLUMNS if end == INPUT else COUNTS[end]) for end in ends}
