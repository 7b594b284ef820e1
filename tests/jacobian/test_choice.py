"""The method that None stands for: which one, the same in every function, for every region by itself, and why."""

from __future__ import annotations

import math

import pytest
import torch
from cases import mlp, on_host
from oracle import Ball, Box, attacked, jacobian, jacobians
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.errors import MethodError
from recurjac_plugin.jacobian import planes
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import (
    AUTO,
    HOST_METHODS,
    LINES,
    METHODS,
    PLANES,
    TREATMENTS,
    is_method,
    parse,
    parse_verification_method,
)

NETWORKS = {"kinks": (nn.ReLU, 0.05, LINES), "smooth": (nn.Tanh, 0.05, PLANES), "wide": (nn.Tanh, 20.0, LINES)}
EVERY = pytest.mark.parametrize("name", NETWORKS)


def network(name: str, dtype: torch.dtype = torch.float64):
    """A model, three points, the radius, and the method that is to be chosen."""
    activation, eps, expected = NETWORKS[name]
    torch.manual_seed(1)
    net = mlp(activation, [4, 9, 8, 3]).to(dtype)
    center = torch.randn(3, 4, dtype=dtype)
    return net, on_host(net, center), center, eps, expected


def monotone(model, center, eps, **options):
    return rj.monotonicity(model, Ball(center, eps).perturbed(), max_boxes=3, **options)


FUNCTIONS = {
    "jacobian_bounds": lambda m, x, eps, **o: torch.stack(tuple(rj.jacobian_bounds(m, Ball(x, eps).perturbed(), **o))),
    **{
        f"local_lipschitz l_{p:g}": lambda m, x, eps, p=p, **o: rj.local_lipschitz(m, Ball(x, eps, p).perturbed(), **o)
        for p in (1.0, 2.0, math.inf)
    },
    "output_bounds": lambda m, x, eps, **o: torch.stack(rj.output_bounds(m, Ball(x, eps).perturbed(), steps=2, **o)),
    "certified_radius": lambda m, x, eps, **o: rj.certified_radius(
        m, x, norm=2, C=rj.margin_rows(m(x)), steps=2, initial=eps, max_probes=14, **o
    ),
    "stationary_free_radius": lambda m, x, eps, **o: rj.stationary_free_radius(
        m, x, norm=math.inf, initial=eps, max_probes=14, **o
    ),
    "landscape_scan": lambda m, x, eps, **o: (
        rj.landscape_scan(m, x, norm=math.inf, radius=eps, points=2, **o).constants
    ),
    "monotonicity": monotone,
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ["kinks", "smooth"])
@torch.no_grad()
def test_no_method_is_the_chosen_one_in_every_function(function, name):
    _, model, center, eps, expected = network(name)
    call = FUNCTIONS[function]
    found = call(model, center, eps)
    assert torch.equal(found, call(model, center, eps, method=expected))
    assert torch.equal(found, call(model, center, eps, method=AUTO))
    assert bool((found != call(model, center, eps, method="Fast-Lip")).any()) or function == "monotonicity"


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rigorous", [False, True])
@torch.no_grad()
def test_bounds_name_the_chosen_method(name, dtype, rigorous):
    net, model, center, eps, expected = network(name, dtype)
    region = Ball(center, eps)
    bounds = rj.jacobian_bounds(model, region.perturbed(), rigorous=rigorous)
    assert bounds.methods == (expected,) * 3 == rj.chosen_methods(model, region.perturbed(), rigorous=rigorous)
    assert f", {expected}" in repr(bounds)
    same = rj.jacobian_bounds(model, region.perturbed(), method=expected, rigorous=rigorous)
    assert torch.equal(bounds.lower, same.lower)
    assert torch.equal(bounds.upper, same.upper)
    points = attacked(net.double(), Ball(center.double(), eps))
    assert bounds.contains(jacobians(net, points), slack=1e-4 if dtype == torch.float32 else 1e-12)
    assert bounds.contains(jacobian(net, center.double()), slack=1e-4 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("order", ["backward", "forward", "both"])
@torch.no_grad()
def test_a_batch_gives_what_its_regions_give(order):
    """One region where planes pay between two where they do not."""
    net, model, center, _, _ = network("smooth")
    radius = torch.tensor([20.0, 0.05, 50.0], dtype=torch.float64)[:, None]
    region = Box(center - radius, center + radius)
    together = rj.jacobian_bounds(model, region.perturbed(), order=order)
    assert together.methods == (LINES, PLANES, LINES)
    assert f", {LINES}, {PLANES}, " in repr(together)
    by = {method: rj.jacobian_bounds(model, region.perturbed(), method=method, order=order) for method in METHODS}
    for i, method in enumerate(together.methods):
        alone = rj.jacobian_bounds(
            model, Box(region.lower[i : i + 1], region.upper[i : i + 1]).perturbed(), order=order
        )
        assert alone.methods == (method,)
        for one, all_of_them, named in zip(alone, together, by[method]):
            assert torch.allclose(one[0], all_of_them[i], rtol=1e-11, atol=1e-13)
            assert torch.allclose(named[i], all_of_them[i], rtol=1e-11, atol=1e-13)
    assert bool((by[PLANES].width[1] < 0.9 * by[LINES].width[1]).all())  # there was something to choose
    assert together.contains(jacobians(net, attacked(net, region)), slack=1e-12)


@torch.no_grad()
def test_rows_do_not_matter_and_parts_choose_alike():
    _, model, center, _, _ = network("smooth")
    radius = torch.tensor([20.0, 0.05, 0.05], dtype=torch.float64)[:, None]
    x = Box(center - radius, center + radius).perturbed()
    C = torch.randn(1, 7, 3, dtype=torch.float64)
    assert rj.chosen_methods(model, x) == rj.chosen_methods(model, x, C=C) == (LINES, PLANES, PLANES)
    whole = analyse(model, x, parse(None), C)
    part = whole.part(torch.tensor([1, 0]), torch.tensor([[2], [3]]))
    assert part.methods == (PLANES, LINES)
    assert torch.allclose(part.jacobian[0][0, 0], whole.jacobian[0][1, 2], rtol=1e-11)


@torch.no_grad()
def test_smooth_layers_beside_kinks():
    """A few saturating neurons behind many kinks add little; before them, over a small region, they do."""
    torch.manual_seed(0)
    center = torch.randn(1, 6, dtype=torch.float64)
    late = nn.Sequential(nn.Linear(6, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 4), nn.Tanh())
    early = nn.Sequential(nn.Linear(6, 60), nn.Tanh(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 4))
    for net, eps, expected in ((late, 0.3, LINES), (early, 1e-3, PLANES)):
        model = on_host(net.double(), center)
        assert rj.chosen_methods(model, Ball(center, eps).perturbed()) == (expected,)


@torch.no_grad()
def test_the_least_gain_decides(monkeypatch):
    _, model, center, eps, expected = network("smooth")
    x = Ball(center, eps).perturbed()
    assert rj.chosen_methods(model, x) == (expected,) * 3
    monkeypatch.setattr(planes, "LEAST_GAIN", 1.1)
    assert rj.chosen_methods(model, x) == (LINES,) * 3


@torch.no_grad()
def test_nothing_is_undetermined():
    _, model, center, _, _ = network("smooth")
    assert rj.chosen_methods(model, Ball(center, 0.0).perturbed()) in ((LINES,) * 3, (PLANES,) * 3)
    net = nn.Linear(4, 2).double()
    assert rj.chosen_methods(on_host(net, center), Ball(center, 0.1).perturbed()) == (LINES,) * 3


@torch.no_grad()
def test_the_shifted_order_has_no_planes():
    _, model, center, eps, _ = network("smooth")
    x = Ball(center, eps).perturbed()
    assert rj.chosen_methods(model, x, order="forward", shift=1) == (LINES,) * 3
    assert rj.chosen_methods(model, x, order="both", shift=1) == (PLANES,) * 3


def test_gradients_flow_through_the_chosen_method():
    _, model, center, eps, expected = network("smooth")
    found = []
    for method in (None, expected):
        constant = rj.local_lipschitz(model, Ball(center, eps).perturbed(), method=method).sum()
        found.append(torch.autograd.grad(constant, [p for p in model.parameters() if p.dim() > 1]))
    assert all(torch.equal(one, other) for one, other in zip(*found))
    assert any(bool(each.any()) for each in found[0])


@pytest.mark.parametrize("name", ["kinks", "smooth"])
@torch.no_grad()
def test_verify_without_a_method(name):
    net, _, center, _, _ = network(name)
    point, least = center[0].numpy(), float(net(center[:1])[0, 0]) - 1.0
    spec = spec_of(box(point - 0.01, point + 0.01, polytope([1.0, 0.0, 0.0], least)))
    results = [rj.verify(net, spec, method=method) for method in (None, "RecurJac-Linear+CROWN", "auto+CROWN")]
    assert {result.verdict for result in results} == {rj.Verdict.UNSAT}
    assert len({result.lower_bound for result in results}) == 1


# Names


@pytest.mark.parametrize("prefix", ["", *(f"{host}+" for host in HOST_METHODS)])
@pytest.mark.parametrize("tail", ["", "+CROWN"])
def test_auto_is_a_name_with_prefix_and_tail(prefix, tail):
    asked = parse(f"{prefix}AUTO{tail}".lower())
    assert asked.name == f"{prefix}auto{tail}"
    assert is_method(asked.name)
    assert asked.chosen(True) == parse(f"{prefix}{PLANES}{tail}")
    assert asked.chosen(False) == parse(f"{prefix}{LINES}{tail}")
    assert asked.rigorous == asked.chosen(True).rigorous


def test_no_name_is_auto_and_other_names_are_themselves():
    assert parse(None) == parse("auto")
    for name in METHODS:
        assert parse(name).chosen(True) == parse(name).chosen(False) == parse(name)
        assert parse(name).treatment is TREATMENTS[name]
    assert AUTO not in METHODS
    assert not is_method("automatic")


def test_other_names_are_not_looked_into():
    _, model, center, eps, _ = network("smooth")
    x = Ball(center, eps).perturbed()
    for name in (*METHODS, "CROWN", "IBP+Fast-Lip"):
        assert rj.chosen_methods(model, x, method=name.lower()) == (name,) * 3
    assert rj.chosen_methods(model, x, method="ibp+auto+crown") == (f"IBP+{PLANES}+CROWN",) * 3
    with pytest.raises(MethodError, match="Unknown method `neither`"):
        rj.chosen_methods(model, x, method="neither")


def test_a_prefix_is_not_rigorous():
    _, model, center, eps, _ = network("kinks")
    with pytest.raises(MethodError, match="`IBP\\+auto` starts from the host's `IBP` bounds"):
        rj.jacobian_bounds(model, Ball(center, eps).perturbed(), method="IBP+auto", rigorous=True)


def test_a_verification_by_auto_is_one_without_a_name():
    """Lines, and CROWN's bounds besides: the parts of a region have no planes."""
    assert parse_verification_method(None) == parse_verification_method("AUTO") == parse("RecurJac-Linear+CROWN")
    assert parse_verification_method("IBP+auto") == parse("IBP+auto")
    net, model, center, eps, _ = network("kinks")
    low = float(net(center[:1]).detach().min()) - 3.0
    spec = spec_of(box((center[0] - eps).tolist(), (center[0] + eps).tolist(), polytope([1.0, 0.0, 0.0], low)))
    assert rj.verify(model, spec, method="auto").lower_bound == rj.verify(model, spec).lower_bound
