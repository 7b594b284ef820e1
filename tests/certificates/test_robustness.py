"""Certified radii: no attack succeeds inside, no sample depends on another, and bad input is refused."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from attacks import attacked
from cases import hosted, mlp, on_host
from from_zero import FromZero
from oracle import Ball, outputs, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.certificates.drops import Drops
from recurjac_plugin.certificates.perturbed_points import read_points
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.lipschitz.norms import row_constants

NORMS = [1.0, 2.0, math.inf]
RADIUS_METHODS = [*rj.METHODS, "IBP+RecurJac", "CROWN", "RecurJac+CROWN"]
INF = math.inf


def classifier(name, batch=2, dtype=torch.float64):
    """Network, points, host's model, and the margins of the predicted classes."""
    net, center, model = hosted(name, batch, dtype)
    with torch.no_grad():
        return net, center, model, rj.margin_rows(net(center).flatten(1))


def dropped(drops, radii):
    """The drops on balls of radii beyond those that are known, which are kept."""
    with torch.no_grad():
        held = drops.up_to(torch.arange(len(radii)), radii, lambda drop, of: torch.ones(len(drop), dtype=torch.bool))
    assert bool(held.all())
    return drops.drop.clone()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["relu", "mixed", "conv2d_stride"])
def test_no_attack_succeeds_inside(name, norm):
    net, points, model, C = classifier(name)
    for method in RADIUS_METHODS if norm == INF else ("RecurJac", "CROWN"):
        radius = rj.certified_radius(model, points, norm=norm, C=C, method=method, steps=3, tolerance=0.01, limit=5.0)
        assert radius.shape == (2,)
        assert radius.dtype == points.dtype
        assert bool((radius > 0).all())
        assert bool((attacked(net, points, C, radius, norm) > 0).all()), method


@pytest.mark.parametrize("method", ["RecurJac", "RecurJac-Linear", "Fast-Lip"])
@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_no_attack_succeeds_inside_of_clipped_balls(name, method):
    """Points at the edge of the range, so that the balls reach to one side only."""
    net, points, model, C = classifier(name)
    clip = (float(points.min()), float(points.max()))
    search = {"norm": INF, "C": C, "method": method, "steps": 4, "limit": 5.0, "tolerance": 1e-3}
    radius = rj.certified_radius(model, points, clip=clip, **search)
    whole = rj.certified_radius(model, points, **search)
    assert bool((attacked(net, points, C, radius, INF, clip) > 0).all())
    assert bool((radius >= whole - 1e-3).all())
    assert bool((radius > whole + 2e-3).any())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rule", rj.METHODS)
def test_clipped_drops_bound_every_drop(norm, rule):
    """The bound behind the verdict, on boxes that reach differently far to both sides, at once and carried on."""
    net, center, model = hosted("mixed")
    low, high = center - 0.3 * torch.rand_like(center), center + 0.3 * torch.rand_like(center)
    low[0, 0] = center[0, 0]
    points = read_points(center, norm, (low, high))
    C = torch.randn(2, 4, 3, dtype=torch.float64)
    for steps in (1, 4):
        carried = Drops(model, points, parse(rule), C, steps)
        for eps in (0.1, 0.25, 1.0):
            x = Ball(center, eps, norm).sample(3000)
            if norm == INF:
                x = torch.minimum(torch.maximum(x, low), high)
            drop = (outputs(net, center[None], C) - outputs(net, x, C)).amax(0)
            for drops in (carried, Drops(model, points, parse(rule), C, steps)):
                bound = dropped(drops, torch.full((2,), eps, dtype=torch.float64))
                assert bool((drop <= bound + 1e-9).all())
                assert bool((bound <= 20 * drop.clamp(min=1e-3)).all())


def test_drops_are_kept_where_they_hold_only():
    """One sample is refused at its first radius, and is bounded from 0 on again; the other goes on from there."""
    _, center, model = hosted("mixed")
    C = torch.randn(2, 4, 3, dtype=torch.float64)
    drops = Drops(model, read_points(center, INF), parse("RecurJac-Linear"), C, 3)
    first, second = torch.tensor([0.1, 0.05], dtype=torch.float64), torch.tensor([0.08, 0.07], dtype=torch.float64)
    with torch.no_grad():
        held = drops.up_to(torch.arange(2), first, lambda drop, of: of == 1)
    assert held.tolist() == [False, True]
    assert drops.radius.tolist() == [0.0, 0.05]
    assert bool((drops.drop[0] == 0).all())
    fresh = Drops(model, read_points(center, INF), parse("RecurJac-Linear"), C, 3)
    bound, alone = dropped(drops, second), dropped(fresh, second)
    assert torch.allclose(bound[0], alone[0], rtol=1e-12)
    assert bool((bound[1] < alone[1]).all())  # from 0.05 on in finer steps


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("method", ["RecurJac", "RecurJac-McCormick", "IBP+Fast-Lip"])
@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_sums_that_are_carried_on_certify_no_less(name, method, steps, monkeypatch):
    """No radius is smaller than that of evenly spaced balls, probed in the same way."""
    _, points, model, C = classifier(name, 6)
    for clip in (None, (float(points.min()), float(points.max()))):
        search = {"norm": INF, "C": C, "method": method, "steps": steps, "clip": clip, "tolerance": 1e-3}
        carried = rj.certified_radius(model, points, **search)
        with monkeypatch.context() as patched:
            patched.setattr("recurjac_plugin.certificates.robustness.Drops", FromZero)
            evenly = rj.certified_radius(model, points, **search)
        assert bool((carried >= evenly * (1 - 1e-9)).all())
        assert bool((carried > 0).all())


@pytest.mark.parametrize("rule", rj.METHODS)
@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_one_sided_sums_bound_those_of_every_gradient(name, rule):
    """`-sum_r J_r d_r` for all d between two reaches, the one or the other of them 0."""
    net, center, model = hosted(name)
    for eps in (0.05, 0.2, 0.5):
        region = Ball(center, eps)
        gradients = truth(net, region, targets=20).flatten(3)
        with torch.no_grad():
            analysis = analyse(model, region.perturbed(), parse(rule), None)
            for _ in range(6):
                below, above = (torch.rand(2, 5, dtype=torch.float64).round() * torch.rand(5) for _ in range(2))
                bound = row_constants(analysis, below, above)
                sums = torch.maximum(below[:, None] * gradients, -above[:, None] * gradients).sum(3)
                assert bool((sums <= bound + 1e-9).all())


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_nested_balls_are_taken_at_their_outer_end(steps):
    """f(x) = 1 - relu(x - 0.3): the constant is 1 on every ball that reaches beyond 0.3."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    for layer, weight, bias in ((net[0], 1.0, -0.3), (net[2], -1.0, 1.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    x0 = torch.zeros(1, 1, dtype=torch.float64)
    model, radii = on_host(net, x0), torch.ones(1, dtype=torch.float64)
    C = torch.ones(1, 1, 1, dtype=torch.float64)
    for norm in NORMS:
        bound = dropped(Drops(model, read_points(x0, norm), parse("RecurJac"), C, steps), radii)
        beyond = sum(i / steps > 0.3 for i in range(1, steps + 1))
        assert float(bound) == pytest.approx(beyond / steps)
        assert float(bound) >= 0.7


def test_one_sided_sums_are_attained():
    """A linear network: the drop on a clipped ball is known exactly."""
    net = nn.Sequential(nn.Linear(5, 3)).double()
    model = on_host(net, torch.zeros(1, 5, dtype=torch.float64))
    x0 = torch.tensor([[0.0, 1.0, 0.5, 0.9, 0.2]], dtype=torch.float64)
    with torch.no_grad():
        C = rj.margin_rows(net(x0), target="runner-up")
        margin, slope = (C @ net(x0)[0]).item(), (C[0, 0] @ net[0].weight)

    def drop(eps):
        below, above = x0[0].clamp(max=eps), (1 - x0[0]).clamp(max=eps)
        return float((slope.clamp(min=0) * below + (-slope).clamp(min=0) * above).sum())

    for method in (*rj.METHODS, "CROWN"):
        options = {"norm": INF, "C": C, "clip": (0, 1), "tolerance": 1e-9, "steps": 3}
        radius = float(rj.certified_radius(model, x0, method=method, **options))
        if radius < 1e4:
            assert margin == pytest.approx(drop(radius), abs=1e-6)
        else:
            assert margin > drop(1.0)


@pytest.mark.parametrize("norm", NORMS)
def test_samples_do_not_depend_on_each_other(norm):
    _, points, model, C = classifier("relu", 3)
    for method in ("RecurJac", "CROWN"):
        options = {"norm": norm, "method": method, "steps": 2, "max_probes": 12}
        together = rj.certified_radius(model, points, C=C, **options)
        alone = [rj.certified_radius(model, points[i : i + 1], C=C[i : i + 1], **options) for i in range(3)]
        assert torch.allclose(together, torch.cat(alone), rtol=1e-12, atol=0)
        assert len(set(together.tolist())) == 3


def test_a_margin_that_is_not_positive_has_radius_0():
    """Whichever sample it is that drops out, the other one keeps its own rows."""
    _, points, model, C = classifier("relu")
    for method in ("RecurJac", "CROWN"):
        search = {"norm": INF, "method": method, "steps": 2, "tolerance": 1e-3}
        whole = rj.certified_radius(model, points, C=C, **search)
        for lost in (0, 1):
            sign = torch.ones(2, 1, 1, dtype=C.dtype)
            sign[lost] = -1
            radius = rj.certified_radius(model, points, C=sign * C, **search)
            assert radius[lost] == 0
            assert radius[1 - lost] == pytest.approx(float(whole[1 - lost]), rel=1e-12)


def test_intersection_is_as_good_as_either():
    _, points, model, C = classifier("conv2d_stride")
    options = {"norm": 2.0, "C": C, "steps": 3, "tolerance": 1e-3}
    ours, host, both = (
        rj.certified_radius(model, points, method=m, **options) for m in ("RecurJac", "CROWN", "RecurJac+CROWN")
    )
    assert bool((both >= torch.maximum(ours, host) - 1e-3).all())


def test_more_nested_balls_certify_more():
    _, points, model, C = classifier("relu")
    one, many = (rj.certified_radius(model, points, norm=INF, C=C, steps=n, tolerance=1e-3) for n in (1, 8))
    assert bool((many > one * 1.05).all())


@pytest.mark.parametrize("options", [{"order": "forward"}, {"order": "forward", "shift": 1}, {"order": "both"}])
def test_orders(options):
    net, points, model, C = classifier("mixed")
    search = {"norm": INF, "C": C, "steps": 3, "tolerance": 1e-3}
    radius = rj.certified_radius(model, points, **search, **options)
    assert bool((attacked(net, points, C, radius, INF) > 0).all())
    if options["order"] == "both":
        assert bool((radius >= rj.certified_radius(model, points, **search) - 1e-3).all())


def test_float32_is_certified_in_float64():
    """A radius found in float32 is one that float64 certifies, too, up to the room left for rounding."""
    _, points, model, C = classifier("relu", dtype=torch.float32)
    radius = rj.certified_radius(model, points, norm=INF, C=C, steps=5, tolerance=1e-7)
    assert radius.dtype == torch.float32
    _, _, exact, _ = classifier("relu")
    double = rj.certified_radius(exact, points.double(), norm=INF, C=C.double(), steps=5, tolerance=1e-7)
    assert bool((radius.double() <= double + 1e-7).all())
    assert bool((radius.double() >= double * 0.999).all())


def test_balls_do_not_shrink_to_a_point_by_rounding():
    """At 1e4 the radius 1e-4 is less than half the distance of float32 numbers."""
    module = importlib.import_module("recurjac_plugin.certificates.perturbed_points")
    x0 = torch.full((1, 4), 1e4)
    points = module.read_points(x0, INF)
    x = points.region(torch.tensor([1e-4]))
    region = importlib.import_module("recurjac_plugin.host.region").read_region(x)
    assert bool((region.radius >= 1e-4).all())
    assert bool((x0 - region.radius < x0).all())


def test_model_is_left_alone_and_nothing_needs_gradients():
    net, points, model, C = classifier("relu")
    before = [p.detach().clone() for p in net.parameters()]
    radius = rj.certified_radius(model, points.clone().requires_grad_(), norm=INF, C=C, steps=1)
    assert not radius.requires_grad
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(net.parameters(), before, strict=True))


def test_networks_that_overflow_are_not_certified_there():
    """Growing radii end where numbers do; the radius found before stands."""
    torch.manual_seed(0)
    net = mlp(nn.LeakyReLU, (3, 4, 2))
    with torch.no_grad():
        net[0].weight.mul_(1e30)
        net[2].weight.mul_(1e-30)
        net[2].bias.copy_(torch.tensor([3.0, 0.0]))
    model = on_host(net, torch.zeros(1, 3))
    C = torch.tensor([[[1.0, -1.0]]])
    options = {"norm": INF, "C": C, "steps": 2}
    radius = rj.certified_radius(model, torch.zeros(1, 3), **options)
    assert 0 < float(radius) < 1e5


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_quirk_bounded_input(norm):
    """A range of inputs has no effect on l_1 and l_2 balls, in the reference and here: loose, but sound."""
    _, points, model, C = classifier("relu")
    clip = (float(points.min()), float(points.max()))
    options = {"norm": norm, "C": C, "steps": 1}
    assert torch.equal(
        rj.certified_radius(model, points, clip=clip, **options), rj.certified_radius(model, points, **options)
    )


def test_quirk_no_target():
    """For class c alone (j = -1) the reference starts from ``f_c - f_last``; C says what is meant here."""
    net, points, model, _ = classifier("relu")
    with torch.no_grad():
        y = net(points)
    c = y.argmax(1)
    C = torch.eye(y.shape[1], dtype=y.dtype)[c].unsqueeze(1)
    radius = rj.certified_radius(model, points, norm=INF, C=C, steps=3)
    assert bool((radius > 0).eq(y.amax(1) > 0).all())
    inside = outputs(net, Ball(points, radius, INF).sample(500), C)
    assert bool((inside[:, radius > 0] > 0).all())


# Rows.


OUTPUTS = torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, 4.0, -2.0, 1.0]])


def test_untargeted_rows():
    C = rj.margin_rows(OUTPUTS)
    assert C.shape == (2, 3, 4)
    assert C[0].tolist() == [[-1, 1, 0, 0], [0, 1, -1, 0], [0, 1, 0, -1]]
    assert C[1].tolist() == [[1, -1, 0, 0], [1, 0, -1, 0], [1, 0, 0, -1]]


def test_targeted_rows():
    def target(*arguments, **options):
        C = rj.margin_rows(OUTPUTS, *arguments, **options)
        assert C.shape == (2, 1, 4)
        assert bool((C.sum(2) == 0).all())
        return C.argmax(2)[:, 0].tolist(), C.argmin(2)[:, 0].tolist()

    assert target(target="runner-up") == ([1, 0], [2, 1])
    assert target(target="least-likely") == ([1, 0], [3, 2])
    assert target(torch.tensor([2, 1]), "runner-up") == ([2, 1], [1, 0])
    assert target(target=3) == ([1, 0], [3, 3])
    drawn = {tuple(target(target="random", seed=seed)[1]) for seed in range(60)}
    assert drawn == {(a, b) for a in (0, 2, 3) for b in (1, 2, 3)}
    assert target(target="random", seed=5) == target(target="random", seed=5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0, 2.0],), "outputs"),
        ((torch.zeros(2, 0),), "one class"),
        ((torch.zeros(0, 3),), "outputs"),
        ((torch.zeros(2, 1),), "one class"),
        ((torch.tensor([[math.nan, 1.0]]),), "NaN"),
        ((OUTPUTS, torch.tensor([1, 4])), "contains 4"),
        ((OUTPUTS, torch.tensor([-1, 0])), "contains -1"),
        ((OUTPUTS, torch.tensor([1])), "one class per sample"),
        ((OUTPUTS, [1, 0]), "labels"),
        ((OUTPUTS, torch.tensor([0.5, 1.0])), "whole numbers"),
        ((OUTPUTS, None, "worst"), "runner-up"),
        ((OUTPUTS, None, 4), "0 to 3"),
        ((OUTPUTS, None, 1), "sample 0"),
    ],
)
def test_rows_of_nothing_are_refused(arguments, words):
    with pytest.raises(rj.InputError, match=words):
        rj.margin_rows(*arguments)


# Bad input, one clear sentence each.


BAD = {
    "norm_3": ({"norm": 3}, "1, 2 or inf"),
    "norm_nan": ({"norm": math.nan}, "norm"),
    "norm_text": ({"norm": "inf"}, "norm"),
    "no_points": ({"x0": [[0.0]]}, "x0"),
    "integers": ({"x0": torch.zeros(2, 5, dtype=torch.int64)}, "floating"),
    "one_dimension": ({"x0": torch.zeros(5, dtype=torch.float64)}, "shape"),
    "empty": ({"x0": torch.zeros(0, 5, dtype=torch.float64)}, "element"),
    "nan": ({"x0": torch.full((2, 5), math.nan, dtype=torch.float64)}, "NaN"),
    "other_dtype": ({"x0": torch.zeros(2, 5)}, "float32"),
    "other_shape": ({"x0": torch.zeros(2, 7, dtype=torch.float64)}, "shape"),
    "C_shape": ({"C": torch.ones(2, 1, 9, dtype=torch.float64)}, "C"),
    "C_none_of_it": ({"C": torch.ones(2, 0, 3, dtype=torch.float64)}, "shape"),
    "C_zero_row": ({"C": torch.zeros(1, 1, 3, dtype=torch.float64)}, "zeros"),
    "C_nan": ({"C": torch.full((1, 1, 3), math.nan, dtype=torch.float64)}, "NaN"),
    "steps": ({"steps": 0}, "steps"),
    "method": ({"method": "nonsense"}, "Unknown method"),
    "order": ({"order": "sideways"}, "order"),
    "initial": ({"initial": -1.0}, "initial"),
    "limit": ({"limit": -1.0}, "limit"),
    "tolerance": ({"tolerance": 0.0}, "tolerance"),
    "clip_inverted": ({"clip": (1.0, 0.0)}, "inverted"),
    "clip_outside": ({"clip": (50.0, 60.0)}, "outside"),
    "clip_nan": ({"clip": (math.nan, 1.0)}, "NaN"),
    "clip_one": ({"clip": (1.0,)}, "pair"),
    "clip_text": ({"clip": ("a", "b")}, "numbers"),
    "clip_shape": ({"clip": (torch.zeros(3), torch.ones(3))}, "shape"),
    "memory": ({"memory_budget": 0}, "memory_budget"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_bad_input(change, words):
    _, points, model, C = classifier("relu")
    options = {"x0": points, "norm": INF, "C": C} | change
    with pytest.raises(rj.RecurJacError, match=words) as error:
        rj.certified_radius(model, options.pop("x0"), **options)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith((".", "?"))


def test_not_the_hosts_model():
    _, points, _, C = classifier("relu")
    with pytest.raises(rj.InputError, match="BoundedModule"):
        rj.certified_radius(nn.Linear(5, 3), points, norm=INF, C=C)
