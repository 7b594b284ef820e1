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
