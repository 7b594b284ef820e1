"""Columns through windows have the bounds that they have without; windows are chosen where they are small."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import on_host
from oracle import Ball, assert_encloses, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.gains import blocks as blocks_module
from recurjac_plugin.gains import windows as module
from recurjac_plugin.gains.blocks import Blocks, RowSparse, compressed, joined
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT, ROWS
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.gains.windows import find_windows
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.passes.remainders import spread
from recurjac_plugin.passes.rules import recurjac, recurjac_linear
from recurjac_plugin.recursion import backward
from recurjac_plugin.recursion.backward import backward_order

SIZES = {INPUT: 24, "a": 30, "b": 17, "c": 8}


def banded(seed, batch, shared=True, density=0.15):
    """Random gains of three layers, most elements 0, some columns without any, a skip connection among them."""
    generator = torch.Generator().manual_seed(seed)

    def block(later, earlier):
        shape = (1 if shared else batch, later, earlier)
        dense = torch.randn(shape, generator=generator, dtype=torch.float64)
        return dense * (torch.rand(shape, generator=generator) < density)

    names = ("a", "b", "c")
    blocks = {}
    for later, earlier in (("a", INPUT), ("b", "a"), ("c", "b"), ("c", "a"), ("b", INPUT)):
        blocks[later, earlier] = block(SIZES[later], SIZES[earlier])
    for earlier in (*names, INPUT):
        blocks[ROWS, earlier] = torch.randn(batch, 3, SIZES[earlier], generator=generator, dtype=torch.float64)
    blocks["a", INPUT][:, :, :5] = 0  # these reach b alone
    blocks["b", INPUT][:, :, 3:] = 0
    derivatives = {}
    for name in names:
        ends = torch.rand(2, batch, SIZES[name], generator=generator, dtype=torch.float64).sort(0).values
        derivatives[name] = Layer(torch.arange(SIZES[name])[None], ends[0], ends[1], None)
    return Gains(names, derivatives, Blocks(blocks), batch, 3, SIZES[INPUT], blocks[ROWS, INPUT])


@pytest.fixture
def always(monkeypatch):
    """Windows wherever there is a 0, whatever they cost."""
    monkeypatch.setattr(module, "_ELEMENT", 0)
    monkeypatch.setattr(module, "_CUT_OUT", 0)
    monkeypatch.setattr(module, "_SMALL_PRODUCT", 0)
    monkeypatch.setattr(module, "_LOOKS", 0)


@pytest.mark.parametrize("rule", [recurjac, recurjac_linear])
@pytest.mark.parametrize("budget", [2**30, 1])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_bounds_are_those_without_windows(always, monkeypatch, batch, shared, budget, rule):
    for seed in range(4):
        for gains in (made := banded(seed, batch, shared), made.transposed()):
            sources = (*gains.layers, INPUT)
            assert any(find_windows(gains, source, gains.layers) is not None for source in sources)
            with monkeypatch.context() as context:
                context.setattr(backward, "find_windows", lambda *args: None)
                plain = backward_order(gains, rule, budget)
                lower, upper = plain.jacobian()
            windowed = backward_order(gains, rule, budget)
            for found, expected in zip(windowed.jacobian(), (lower, upper)):
                assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
            for layer, bounds in plain.gradients.items():
                for found, expected in zip(windowed.gradients[layer], bounds):
                    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_windows_hold_all_that_is_reached(always, batch, shared):
    gains = banded(7, batch, shared)
    windows = find_windows(gains, INPUT, gains.layers)
    assert sorted(windows.columns.flatten().unique().tolist()) == [*range(SIZES[INPUT])]
    assert bool((windows.columns.flatten()[windows.place] == torch.arange(SIZES[INPUT])).all())
    reached = {INPUT: torch.eye(SIZES[INPUT], dtype=torch.bool)}
    for layer in gains.layers:
        reached[layer] = torch.zeros(SIZES[layer], SIZES[INPUT], dtype=torch.bool)
        for earlier, before in [*reached.items()][:-1]:
            block = gains.blocks.get((layer, earlier))
            if block is not None:
                reached[layer] |= ((block != 0).any(0).double() @ before.double()) > 0
        for group, columns in enumerate(windows.columns):
            met = reached[layer][:, columns].any(1).nonzero().squeeze(1)
            listed = windows.neurons[layer][group][windows.listed[layer][group]]
            assert listed.tolist() == met.tolist()


@pytest.mark.parametrize("batch", [1, 2])
def test_spread_is_the_same_with_and_without(always, batch):
    gains = banded(3, batch)
    generator = torch.Generator().manual_seed(0)
    slopes, radii = {}, {}
    for name in gains.layers:
        slopes[name] = torch.randn(batch, SIZES[name], generator=generator, dtype=torch.float64)
        radii[name] = torch.rand(batch, 3, SIZES[name], generator=generator, dtype=torch.float64)
    columns = {INPUT: torch.eye(SIZES[INPUT], dtype=torch.float64).expand(batch, -1, -1)}
    expected = torch.zeros(batch, 3, SIZES[INPUT], dtype=torch.float64)
    for layer in gains.layers:  # the columns' values at every layer, one after the other
        columns[layer] = sum(
            gains.block(layer, earlier) @ (value if earlier == INPUT else slopes[earlier].unsqueeze(2) * value)
            for earlier, value in columns.items()
        )
        expected = expected + radii[layer] @ columns[layer].abs()
    windows = find_windows(gains, INPUT, gains.layers)
    assert windows is not None
    for found in (spread(gains, INPUT, slopes, radii, 2**20, w) for w in (windows, None)):
        assert torch.allclose(found, expected)
    weights = torch.randn(batch, 3, SIZES[INPUT], generator=generator, dtype=torch.float64)
    summed = sum((radii[layer] * (weights @ columns[layer].mT).abs()).sum(2, keepdim=True) for layer in gains.layers)
    assert torch.allclose(spread(gains, INPUT, slopes, radii, 2**20, weights=weights), summed)


def test_dense_gains_have_no_windows():
    assert find_windows(banded(0, 1, density=1.1), INPUT, ("a", "b", "c")) is None


def test_a_source_that_reaches_nothing_at_once_has_none():
    gains = banded(0, 1)
    assert find_windows(gains, "c", ()) is None and find_windows(gains, "b", ("a",)) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_convolutional_network_goes_through_windows_and_is_sound(monkeypatch, dtype):
    found = []
    monkeypatch.setattr(backward, "find_windows", lambda *args: found.append(find_windows(*args)) or found[-1])
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Tanh(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.LeakyReLU(), nn.Flatten(), nn.Linear(64, 3),
    ).to(dtype)  # fmt: skip
    x = torch.randn(2, 2, 16, 16, dtype=dtype)
    region = Ball(x, 0.02)
    bounds = rj.jacobian_bounds(on_host(net, x[:1]), region.perturbed(), method="RecurJac-Linear")
    assert sum(windows is not None for windows in found) >= 2
    slack = 1e-9 if dtype == torch.float64 else 1e-5
    assert_encloses(bounds.lower, bounds.upper, truth(net, region), slack)


@pytest.fixture
def lists(monkeypatch):
    """Every block with a row that is not full is kept as lists."""
    monkeypatch.setattr(blocks_module, "_LARGE", 0)
    monkeypatch.setattr(blocks_module, "_SPARSE", 0.99)


def as_lists(gains):
    """The same gains, kept as lists."""
    kept = {key: block if key[0] == ROWS else compressed(block, len(block[0])) for key, block in gains.blocks.items()}
    return replace(gains, blocks=Blocks(kept))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_lists_are_the_blocks_they_are_made_of(lists, batch, shared):
    gains = banded(5, batch, shared)
    kept = as_lists(gains)
    assert any(isinstance(block, RowSparse) for block in kept.blocks.kept.values())
    regions, rows = torch.tensor([batch - 1, 0]), torch.tensor([[2, 0], [1, 1]])
    pairs = [
        (gains, kept),
        (gains.transposed(), kept.transposed()),
        (gains.part(regions, rows), kept.part(regions, rows)),
        (gains.first_columns(9), kept.first_columns(9)),
    ]
    for dense, sparse in pairs:
        assert {*dense.blocks} == {*sparse.blocks}
        for key, block in dense.blocks.items():
            assert torch.equal(sparse.blocks[key], block)
    for key, block in gains.blocks.items():
        if key[0] != ROWS:
            parts = [compressed(part, len(block[0])) for part in block.split(3, 1)]
            whole = joined(parts)
            assert torch.equal(whole.dense() if isinstance(whole, RowSparse) else whole, block)
            full = torch.randn_like(block[:, :2])  # one part that is no list makes a matrix of all
            assert torch.equal(joined([full, *parts]), torch.cat((full, block), 1))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [2**30, 1])
def test_windows_cut_out_of_lists(always, lists, shared, budget):
    gains = banded(6, 2, shared)
    kept = as_lists(gains)
    for dense, sparse in ((gains, kept), (gains.transposed(), kept.transposed())):
        for found, expected in zip(
            backward_order(sparse, recurjac_linear, budget).jacobian(),
            backward_order(dense, recurjac_linear, budget).jacobian(),
        ):
            assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_go_through_lists(always, lists):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 2, 3, padding=1), nn.Tanh(), nn.Flatten(),
        nn.Linear(72, 2),
    ).double()  # fmt: skip
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    model = on_host(net, x)
    kept = analyse(model, Ball(x, 0.1).perturbed(), parse("RecurJac"), None).gains.blocks.kept
    assert sum(isinstance(block, RowSparse) for block in kept.values()) == 2
    for method in ("RecurJac-Linear", "RecurJac-McCormick"):

        def loss(method=method):
            return rj.jacobian_bounds(model, Ball(x, 0.1).perturbed(), method=method).upper.sum()

        (slope,) = torch.autograd.grad(loss(), net[2].weight)
        direction, values = torch.randn_like(slope), []
        with torch.no_grad():
            for step in (1e-6, -1e-6):
                net[2].weight += step * direction
                values.append(float(loss()))
                net[2].weight -= step * direction
        assert float((slope * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)
