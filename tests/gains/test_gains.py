"""Gains are the chain rule with everything certain multiplied out; those that no memory holds are refused."""

from __future__ import annotations

import pytest
import torch
from cases import hosted
from oracle import Ball
from small_network import SIZES, derivative, graph, weights

import recurjac_plugin as rj
from recurjac_plugin.gains import gains as module
from recurjac_plugin.gains.gains import compute_gains, gains_size
from recurjac_plugin.gains.pull import INPUT, ROWS, Pull, unit_rows
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse

W = weights()
GRAPH = graph(W)
BATCH = 2
ROWS_OF_C = torch.randn(BATCH, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
UNDETERMINED = {"s": torch.tensor([[0, 2], [3, 1]]), "t": torch.tensor([[1, 2, 4]])}


def layers(seed=0, undetermined=UNDETERMINED):
    """Random derivative ranges of the listed neurons, one of which is not needed in a region; random ones of others."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, index in undetermined.items():
        ends = torch.randn(2, BATCH, index.shape[1], generator=generator, dtype=torch.float64).sort(0).values
        ends[:, 1, -1] = 0.0  # the list of the second region is shorter, and filled
        stable = torch.randn(BATCH, SIZES[name], generator=generator, dtype=torch.float64)
        stable = stable.scatter(1, index.expand(BATCH, -1), 0.0)
        stable[:, 0 if name == "t" else -1] = 0.0  # dead
        made[name] = Layer(index, *ends, stable)
    return made


def gains(memory_budget=2**20):
    return compute_gains(GRAPH, layers(), ROWS_OF_C, memory_budget)


@pytest.mark.parametrize("seed", range(5))
def test_gains_are_the_chain_rule(seed):
    """``y_m = G(rows, m) + sum_{l > m} G(l, m)^T (d_l y_l)`` for any derivatives d within their ranges."""
    found, ranges = gains(), layers()
    assert found.layers == ("s", "t")
    share = torch.rand(BATCH, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    d = {name: each.lower + share[:, : each.count] * (each.upper - each.lower) for name, each in ranges.items()}
    for i in range(BATCH):
        full = {name: each.stable[i].scatter(0, each.index.expand(BATCH, -1)[i], d[name][i])
                for name, each in ranges.items()}  # fmt: skip
        y = {name: ROWS_OF_C[i] @ derivative(W, full["s"], full["t"], name) for name in ("s", "t", "x", "w")}
        y = {name: y[name][:, ranges[name].index.expand(BATCH, -1)[i]] for name in ("s", "t")} | {
            INPUT: torch.cat((y["x"], y["w"]), 1)
        }
        for earlier in ("s", "t", INPUT):
            total = found.block(ROWS, earlier).expand(BATCH, -1, -1)[i]
            for later in ("s", "t"):
                total = total + (y[later] * d[later][i]) @ found.block(later, earlier).expand(BATCH, -1, -1)[i]
            assert torch.allclose(total, y[earlier]), earlier


def test_rows_in_chunks_are_the_same():
    whole, chunked = gains(), gains(memory_budget=1)
    assert whole.blocks.keys() == chunked.blocks.keys() == {
        ("s", INPUT), ("t", "s"), ("t", INPUT), (ROWS, "s"), (ROWS, "t"), (ROWS, INPUT)
    }  # fmt: skip
    for key, block in whole.blocks.items():
        assert torch.allclose(block, chunked.blocks[key])


def test_a_missing_block_is_zero():
    assert torch.equal(gains().block("s", "t"), torch.zeros(1, 2, 3, dtype=torch.float64))


def test_parts_of_the_gains():
    found, regions = gains(), torch.tensor([1, 1, 0])
    rows = torch.tensor([[2, 0], [0, 1], [1, 1]])
    part = found.part(regions, rows)
    assert (part.batch, part.rows) == (3, 2)
    for (later, earlier), block in part.blocks.items():
        before = found.block(later, earlier).expand(BATCH, -1, -1)[regions]
        before = torch.stack([before[i, rows[i]] for i in range(3)]) if later == ROWS else before
        assert torch.equal(block.expand(3, -1, -1), before)
    first = found.first_columns(3)
    assert first.columns == 3 and torch.equal(first.block("t", INPUT), found.block("t", INPUT)[:, :, :3])
    assert torch.equal(first.block("t", "s"), found.block("t", "s"))


@pytest.mark.parametrize("region", range(BATCH))
def test_a_part_of_one_region_is_that_one(region):
    found = gains()
    part = found.part(torch.tensor([region]), torch.tensor([[0, 1]]))
    for (later, earlier), block in part.blocks.items():
        before = found.block(later, earlier).expand(BATCH, -1, -1)[region]
        assert torch.equal(block.expand(1, -1, -1)[0], before[:2] if later == ROWS else before)


def test_the_network_backwards():
    found = gains()
    turned = found.transposed()
    assert turned.layers == ("t", "s") and (turned.rows, turned.columns) == (found.columns, found.rows)
    assert torch.equal(turned.block("s", "t"), found.block("t", "s").mT)
    assert torch.equal(turned.block(ROWS, INPUT), found.block(ROWS, INPUT).mT)
    assert torch.equal(turned.block(ROWS, "s"), found.block("s", INPUT).mT)


def test_unit_rows_are_those_of_the_matrix():
    rows = unit_rows(GRAPH, {}, "a", torch.tensor([2, 0]), ROWS_OF_C)
    assert torch.equal(rows[0], torch.cat((W["A"], W["B"]), 1)[[2, 0]])


def test_an_input_that_rows_do_not_reach_has_zeros():
    """Dead neurons cut the second input off from what still reaches the first one around them."""
    ranges = layers()
    ranges["s"] = Layer(torch.zeros(1, 0, dtype=torch.int64), *torch.zeros(2, BATCH, 0).double(), None)
    pulled = Pull(GRAPH, ranges)("out", ROWS_OF_C)
    assert pulled.keys() == {"t", INPUT}
    assert torch.equal(pulled[INPUT][:, :, 3:], torch.zeros(BATCH, 3, 2, dtype=torch.float64))
    assert bool((pulled[INPUT][:, :, :3] != 0).all())


@pytest.mark.parametrize("eps", [0.01, 0.1, 5.0])
@pytest.mark.parametrize("name", ["relu", "residual_convolutions", "concat_channels", "skip_from_input", "sigmoid"])
def test_size_is_that_of_the_blocks(name, eps):
    _, center, model = hosted(name, batch=1)
    with torch.no_grad():
        found = analyse(model, Ball(center, eps).perturbed(), parse("IBP+RecurJac"), None)
        gains = compute_gains(found.graph, found.derivatives, found.rows, 2**20)
    blocks = sum(block.numel() for block in gains.blocks.values())
    assert gains_size(found.graph, gains.derivatives, found.rows) == blocks
    assert blocks > 0 or eps < 5


def test_size_is_never_too_large_for_a_batch():
    _, center, model = hosted("residual_convolutions")
    with torch.no_grad():
        found = analyse(model, Ball(center, 0.1).perturbed(), parse("RecurJac"), None)
        gains = compute_gains(found.graph, found.derivatives, found.rows, 2**20)
    blocks = sum(block.numel() for block in gains.blocks.values())
    assert 0 < gains_size(found.graph, gains.derivatives, found.rows) <= blocks


def test_gains_are_refused_only_where_they_do_not_fit(monkeypatch):
    """By their exact size, not by what it is bounded by beforehand."""
    needed = 8 * gains_size(GRAPH, layers(), ROWS_OF_C)
    monkeypatch.setattr(module, "memory_of", lambda device: needed)
    gains()
    monkeypatch.setattr(module, "memory_of", lambda device: needed - 1)
    with pytest.raises(rj.InputError, match="5 derivatives are uncertain"):
        gains()


def test_too_many_undetermined_neurons_are_refused(monkeypatch):
    _, center, model = hosted("relu")
    x = Ball(center, 0.5).perturbed()
    monkeypatch.setattr(module, "memory_of", lambda device: 100)
    with pytest.raises(rj.InputError, match=r"derivatives are uncertain.*smaller region.*`Fast-Lip`"):
        rj.local_lipschitz(model, x)
    assert bool((rj.local_lipschitz(model, x, method="Fast-Lip") > 0).all())
    monkeypatch.setattr(module, "memory_of", lambda device: None)
    assert bool((rj.local_lipschitz(model, x) > 0).all())
