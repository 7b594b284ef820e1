"""Neurons without a part in the Jacobian are left out, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_network import SIZES, derivative, graph, weights

from recurjac_plugin.gains.paths import on_uncut_paths
from recurjac_plugin.gains.undetermined import Layer


def layers(alive):
    """Layers whose undetermined neurons have derivatives in [0, 1], (b, n) by name; the others are dead."""
    made = {}
    for name, each in alive.items():
        index = torch.arange(SIZES[name]).unsqueeze(0)
        made[name] = Layer(index, torch.zeros_like(each), each, None)
    return made


def on_path(matrices, alive, rows):
    """Which neurons the rows depend on and the input reaches, from products of absolute values: (n,) by name."""
    absolute = {name: matrix.abs() for name, matrix in matrices.items()}
    to_rows = {name: rows.abs() @ derivative(absolute, alive["s"], alive["t"], name, sign=1) for name in ("s", "t")}
    to_s = absolute["A"].sum(1) + absolute["B"].sum(1)
    to_t = absolute["C"] @ (alive["s"] * to_s) + absolute["D"].sum(1)
    from_input = {"s": alive["s"] * to_s, "t": alive["t"] * to_t}
    return {name: (to_rows[name].sum(0) > 0) & (from_input[name] > 0) for name in ("s", "t")}


@pytest.mark.parametrize("seed", range(20))
def test_the_neurons_that_are_kept(seed):
    matrices = weights(zeros=0.7, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    alive = {name: (torch.rand(2, SIZES[name], generator=generator) < 0.6).double() for name in ("s", "t")}
    rows = torch.randn(2, 1, 4, generator=generator, dtype=torch.float64)
    rows *= torch.rand(rows.shape, generator=generator) < 0.6
    kept = on_uncut_paths(graph(matrices), layers(alive), rows)
    regions = [on_path(matrices, {name: each[i] for name, each in alive.items()}, rows[i]) for i in range(2)]
    for name in ("s", "t"):
        assert kept[name].index.tolist() == [(regions[0][name] | regions[1][name]).nonzero().squeeze(1).tolist()]


def test_a_layer_that_is_kept_whole_is_the_same():
    ranges = layers({name: torch.ones(1, SIZES[name], dtype=torch.float64) for name in ("s", "t")})
    kept = on_uncut_paths(graph(weights()), ranges, torch.ones(1, 1, 4, dtype=torch.float64))
    assert all(kept[name] is ranges[name] for name in ranges)


def test_stable_derivatives_lead_on():
    """The neurons of s are stable: they are not undetermined, and what lies behind them is reached."""
    ones = torch.ones(1, 5, dtype=torch.float64)
    ranges = layers({"t": ones})
    ranges["s"] = Layer(torch.zeros(1, 0, dtype=torch.int64), ones[:, :0], ones[:, :0], -ones[:, :4])
    matrices = weights() | {"D": torch.zeros(5, 3, dtype=torch.float64)}
    rows = torch.ones(1, 1, 4, dtype=torch.float64)
    assert on_uncut_paths(graph(matrices), ranges, rows)["t"].count == 5
    ranges["s"] = replace(ranges["s"], stable=None)
    assert on_uncut_paths(graph(matrices), ranges, rows)["t"].count == 0


def test_ranges_keep_their_gradients():
    upper = torch.ones(1, 5, dtype=torch.float64, requires_grad=True)
    ranges = layers({"s": torch.ones(1, 4, dtype=torch.float64), "t": upper})
    matrices = weights()
    matrices["E"][:, 2] = 0
    kept = on_uncut_paths(graph(matrices), ranges, torch.ones(1, 1, 4, dtype=torch.float64))["t"]
    assert kept.index.tolist() == [[0, 1, 3, 4]]
    assert torch.autograd.grad(kept.upper.sum(), upper)[0].tolist() == [[1.0, 1.0, 0.0, 1.0, 1.0]]


def test_rows_that_cancel_each_other_are_depended_on():
    """Two rows with opposite coefficients: their sum depends on nothing, each of them on all neurons of t."""
    matrices = weights() | {"F": torch.eye(4, dtype=torch.float64)}  # out = E t - s + F s: on s through t alone
    ones = {name: torch.ones(1, SIZES[name], dtype=torch.float64) for name in ("s", "t")}
    row = torch.tensor([[[1.0, 0.5, -2.0, 1.0]]], dtype=torch.float64)
    kept = on_uncut_paths(graph(matrices), layers(ones), torch.cat([row, -row], 1))
    assert kept["t"].count == 5 and kept["s"].count == 4


ONLY_WAY = {"A": "BD", "B": "AD", "C": "D", "D": "C", "E": "F"}
"""With the matrices named here 0, nothing leads around the one they belong to."""


@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
@pytest.mark.parametrize("name", ONLY_WAY)
def test_weights_that_cancel_lead_on(name, axis):
    """All weights are 1 but those of one matrix, whose columns, or rows, add up to 0: every neuron matters."""
    matrices = {key: torch.ones_like(each) for key, each in weights().items()}
    size = matrices[name].shape[axis]
    factors = torch.tensor([1.0] * (size - 1) + [1.0 - size], dtype=torch.float64)
    matrices[name] *= factors[:, None] if axis == 0 else factors
    for other in ONLY_WAY[name]:
        matrices[other] *= 0
    ones = {key: torch.ones(1, SIZES[key], dtype=torch.float64) for key in ("s", "t")}
    kept = on_uncut_paths(graph(matrices), layers(ones), torch.ones(1, 1, 4, dtype=torch.float64))
    assert kept["t"].count == 5
    assert kept["s"].count == 4


def test_inputs_and_rows_of_both_signs_in_a_batch():
    """Neurons that matter in one region only, with coefficients that cancel over the regions."""
    alive = {"s": torch.zeros(2, 4, dtype=torch.float64), "t": torch.eye(2, 5, dtype=torch.float64)}
    row = torch.ones(1, 1, 4, dtype=torch.float64)
    kept = on_uncut_paths(graph(weights()), layers(alive), torch.cat([row, -row]))
    assert kept["t"].index.tolist() == [[0, 1]] and kept["s"].count == 0
