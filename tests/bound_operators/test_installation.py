"""Our bounds in the host's classes: for models built before, for a while or for good, and without a trace."""

from __future__ import annotations

import math

import pytest
import torch
from cases import mlp, on_host
from oracle import Ball, outputs
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.bound_operators.installation import install, installed, uninstall
from recurjac_plugin.bound_operators.treatments import TREATMENTS
from recurjac_plugin.host import IS_03, bound_ops


def state():
    """Everything that the classes of the host's operators have of their own."""
    classes = {name: value for name, value in vars(bound_ops).items() if isinstance(value, type)}
    return {name: dict(vars(value)) for name, value in classes.items() if issubclass(value, bound_ops.Bound)}


def test_nothing_is_left_behind():
    before = state()
    with installed():
        assert state() != before
    assert state() == before


def test_it_is_taken_out_as_often_as_it_was_put_in():
    before = state()
    install()
    within = state()
    with installed():
        rj.register()
        rj.register()
        assert state() == within
        rj.unregister()
        rj.unregister()
    assert state() == within
    uninstall()
    assert state() == before
    uninstall()
    assert state() == before


def test_an_error_takes_it_out():
    before = state()
    with pytest.raises(ZeroDivisionError), installed():
        _ = 1 / 0
    assert state() == before


def test_every_treated_class_is_one_of_the_hosts():
    known = {name for name in TREATMENTS if hasattr(bound_ops, name)}
    lacking = {"BoundCeil", "BoundRound", "BoundReduceLogSumExp"}
    if IS_03:
        lacking |= {"BoundMax", "BoundMin", "BoundReduceMin", "BoundGelu", "BoundHardTanh", "BoundSign", "BoundFloor"}
    assert TREATMENTS.keys() - known == lacking | {"BoundReduceLogSumExp"}  # no host has it


def narrow(model):
    """CROWN of tanh on an interval of width 1e-10 around its steepest point."""
    region = Ball(torch.zeros(1, 1, dtype=torch.float64), 5e-11)
    with torch.no_grad():
        lower, upper = model.compute_bounds(x=(region.perturbed(),), method="CROWN")
    return float(lower), float(upper)


def test_models_that_were_built_before_are_bounded_by_ours():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh()).double()
    nn.init.ones_(net[0].weight)
    model = on_host(net, torch.zeros(1, 1, dtype=torch.float64))
    if not IS_03:
        assert narrow(model)[1] < 4e-11  # which the host misses; the truth is 5e-11
    rj.register()
    try:
        assert narrow(model)[0] <= -5e-11
        assert 5e-11 <= narrow(model)[1] < 5.1e-11
    finally:
        rj.unregister()


def test_a_model_built_with_ours_is_the_hosts_again_afterwards():
    net = mlp(nn.Tanh).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    before = on_host(net, x).compute_bounds(x=(Ball(x, 0.1).perturbed(),), method="CROWN")
    with installed():
        model = on_host(net, x)
    after = model.compute_bounds(x=(Ball(x, 0.1).perturbed(),), method="CROWN")
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_a_subclass_is_not_spoken_for():
    """What inherits from a class of the host may be another function."""

    class Doubled(bound_ops.BoundTanh):
        def forward(self, x):
            return 2 * torch.tanh(x)

    with installed():
        node = Doubled({"device": "cpu"}, [], 0, {})
        lower, upper = node.interval_propagate((torch.tensor([-1.0]), torch.tensor([1.0])))
    assert float(upper) == pytest.approx(2 * math.tanh(1))
    assert float(lower) == pytest.approx(-2 * math.tanh(1))


RIGHT = {
    "relu": lambda: mlp(nn.ReLU),
    "tanh": lambda: mlp(nn.Tanh),
    "sigmoid": lambda: mlp(nn.Sigmoid),
    "windows": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3)
    ),
}


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "alpha-CROWN"])
@pytest.mark.parametrize("name", RIGHT)
def test_where_the_host_is_right_bounds_stay_as_tight(name, method):
    torch.manual_seed(0)
    if name == "windows" and IS_03:
        pytest.skip("0.3 has no rule for what this torch writes for Unflatten")
    net = RIGHT[name]().double()
    x = torch.randn(2, 5, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        model = on_host(net, x)
        for eps in (1e-3, 0.1, 0.5):
            region = Ball(x, eps)
            theirs = model.compute_bounds(x=(region.perturbed(),), method=method)
            with installed():
                ours = model.compute_bounds(x=(region.perturbed(),), method=method)
            width, reference = (float((high - low).detach().mean()) for low, high in (ours, theirs))
            assert width <= (1.02 if name in ("tanh", "sigmoid") else 1 + 1e-9) * reference
            values = outputs(net, region.sample(200))
            assert bool((ours[0] <= values + 1e-12).all() & (values <= ours[1] + 1e-12).all())
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.SiLU])
def test_alpha_crown_is_no_looser_than_crown(activation):
    torch.manual_seed(0)
    net = mlp(activation).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    region = Ball(x, 0.5)
    lower, upper = rj.output_bounds(on_host(net, x), region.perturbed(), method="alpha-CROWN")
    low, high = rj.output_bounds(on_host(net, x), region.perturbed(), method="CROWN")
    lower, upper, low, high = (bound.detach() for bound in (lower, upper, low, high))
    assert bool((lower >= low - 1e-9).all() & (upper <= high + 1e-9).all())
    assert float((upper - lower).mean()) < float((high - low).mean())
    values = outputs(net, region.sample(300))
    assert bool((lower <= values).all() & (values <= upper).all())
