"""Radii that a search certifies beyond single passes: sound, exact on small networks, never smaller, or refused."""

from __future__ import annotations

import math
import time

import pytest
import torch
from attacks import attacked
from cases import mlp, on_host
from oracle import Ball, outputs, truth
from reduced_networks import NETWORKS, reduced
from small_parts import least_of_largest
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.certificates.perturbed_points import read_points
from recurjac_plugin.certificates.radius_search import RadiusSearch
from recurjac_plugin.certificates.searched.margins import MarginProbe
from recurjac_plugin.certificates.searched.radii import Outcome, searched_radius

pytestmark = pytest.mark.usefixtures("registered")  # 0.3 has no maxima of its own

INF = math.inf
NORMS = [1.0, 2.0, INF]
DTYPES = [torch.float32, torch.float64]
LONG = 120.0  # seconds: searches end before, where what is certified and what is refuted meet


def margins(name, dtype=torch.float64, batch=1, seed=3):
    """A network whose outputs are all positive at points, the points, and the host's model."""
    torch.manual_seed(seed)
    net, points = NETWORKS[name]().double(), torch.randn(batch, 4).double()
    with torch.no_grad():
        value = net(points[:1])[0]
        away = torch.where(value.abs() < 0.05, 0.05, 0.0)
        last = nn.Linear(3, 3).double()
        last.weight.copy_(torch.diag(value.sign()))
        last.bias.copy_(away)
    net, points = nn.Sequential(net, last).to(dtype), points.to(dtype)
    return net, points, on_host(net, points)


@pytest.mark.parametrize(
    ("name", "norm", "dtype"),
    [
        *(("relu", norm, dtype) for norm in NORMS for dtype in DTYPES),
        ("leaky", 2.0, DTYPES[0]),
        ("maxima", INF, DTYPES[0]),
    ],
)
def test_no_attack_succeeds_inside_and_nothing_is_lost(name, norm, dtype):
    net, points, model = margins(name, dtype)
    C = torch.eye(3, dtype=dtype).unsqueeze(0)
    options = {"norm": norm, "C": C, "tolerance": 0.02, "steps": 3, "limit": 2.0}
    before = rj.certified_radius(model, points, **options)
    found = rj.certified_radius(model, points, budget=3.0, **options)
    assert found.dtype == dtype
    assert bool((found >= before).all())
    assert bool((found > 0).all())
    assert bool((attacked(net.double(), points.double(), C.double(), found.double(), norm) > 0).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_radii_are_those_of_a_mixed_integer_program(name):
    net, points, model = margins(name)
    C = torch.eye(3).double().unsqueeze(0)
    tolerance = 2e-2
    radius = float(rj.certified_radius(model, points, norm=INF, C=C, tolerance=tolerance, limit=1.0, budget=LONG))
    assert radius >= float(rj.certified_radius(model, points, norm=INF, C=C, tolerance=tolerance, limit=1.0))

    def least(radius):
        return min(least_of_largest(reduced(net, points, radius), torch.tensor([k])) for k in range(3))

    assert least(radius) > -1e-7
    assert radius == 1.0 or least(radius + 2 * tolerance) < 0


def test_clipped_balls_are_searched_as_they_are():
    net, points, model = margins("relu")
    C = torch.eye(3).double().unsqueeze(0)
    clip = (points - 0.1, points + 2.0)
    options = {"norm": INF, "C": C, "tolerance": 0.02, "limit": 1.0, "budget": 3.0}
    whole, clipped = (float(rj.certified_radius(model, points, **options, **more)) for more in ({}, {"clip": clip}))
    assert clipped > 0
    assert whole > 0
    x = Ball(points, clipped, INF).sample(20000)
    assert bool((outputs(net, torch.minimum(torch.maximum(x, clip[0]), clip[1]), C) > 0).all())


def small_surface(seed):
    """One output of two inputs, so that a grid of gradients has them all."""
    torch.manual_seed(seed)
    net, point = mlp(nn.ReLU, (2, 7, 6, 1)).double(), torch.randn(1, 2).double()
    return net, point, on_host(net, point)


def kept(net, point, radius, norm):
    """Whether an entry of the gradient keeps its sign at the points of a fine grid over a ball."""
    line = torch.linspace(-radius, radius, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    x = (point + grid[torch.linalg.vector_norm(grid, ord=norm, dim=1) <= radius]).requires_grad_()
    (gradients,) = torch.autograd.grad(net(x).sum(), x)
    return bool(((gradients > 0).all(0) | (gradients < 0).all(0)).any())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", [1, 4])
def test_radii_without_stationary_points_are_those_of_a_grid(seed, norm):
    net, point, model = small_surface(seed)
    options = {"norm": norm, "tolerance": 1e-2, "limit": 2.0}
    before = rj.stationary_free_radius(model, point, **options)
    # Parts of l_1 balls in which nothing is left to branch on may stay open: no search ends by itself there.
    found = float(rj.stationary_free_radius(model, point, budget=3.0 if norm == 1 else LONG, **options))
    assert found >= float(before)
    if found == 0:  # the gradient at the point itself is 0
        assert not kept(net, point, 1e-9, norm)
        return
    assert kept(net, point, found, norm)
    assert norm == 1 or found == 2.0 or not kept(net, point, found * 1.03 + 0.04, norm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_an_entry_keeps_its_sign_in_every_row(norm, dtype):
    torch.manual_seed(0)
    net, points = mlp(lambda: nn.LeakyReLU(0.3), (4, 9, 8, 3)).to(dtype), torch.randn(2, 4).to(dtype)
    model = on_host(net, points)
    options = {"norm": norm, "tolerance": 0.02, "limit": 1.0}
    for per_output in (False, True):
        before = rj.stationary_free_radius(model, points, per_output=per_output, **options)
        found = rj.stationary_free_radius(model, points, per_output=per_output, budget=0.3, **options)
        assert found.shape == before.shape
        assert found.dtype == dtype
        assert bool((found >= before).all())
        for k in range(3):
            radius = (found[:, k] if per_output else found).double()
            gradients = truth(net.double(), Ball(points.double(), radius, norm), targets=4).flatten(3)[:, :, k]
            assert bool(((gradients > 0).all(0) | (gradients < 0).all(0)).any(1)[radius > 0].all())
        net.to(dtype)


def test_no_seconds_are_no_search():
    _, points, model = margins("relu")
    options = {"norm": INF, "C": torch.eye(3).double()[None]}
    assert torch.equal(
        rj.certified_radius(model, points, budget=0, **options), rj.certified_radius(model, points, **options)
    )


class Known:
    """Certifies radii below the true one, those near to it in later rounds alone."""

    preparation = 0.0

    def __init__(self, true, hard=0.0, points=True):
        self.true, self.hard, self.points, self.probed = true, hard, points, []

    def __call__(self, radius, level, deadline):
        self.probed.append((radius, level))
        if abs(radius - self.true) < self.hard / (1 + level) ** 2:
            return Outcome(False)
        if radius < self.true:
            return Outcome(True)
        return Outcome(False, self.true if self.points else radius)


@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("hard", [0.0, 0.5])
@pytest.mark.parametrize("start", [0.0, 0.1, 0.9])
def test_the_search_closes_in(start, hard, points):
    probe, search = Known(1.0, hard, points), RadiusSearch(initial=0.3, tolerance=1e-2)
    found = searched_radius(probe, start, search, torch.float64, time.perf_counter() + LONG)
    assert 1 - 1e-2 <= found < 1
    assert len(probe.probed) == len(set(probe.probed))
    assert all(radius > start for radius, _ in probe.probed)


def test_the_search_ends_at_the_limit_and_at_its_deadline():
    search = RadiusSearch(limit=3.0)
    assert searched_radius(Known(INF), 0.5, search, torch.float32, time.perf_counter() + LONG) == 3.0
    probe = Known(1.0)
    assert searched_radius(probe, 0.5, search, torch.float32, time.perf_counter()) == 0.5
    assert not probe.probed


def test_balls_that_cannot_be_bounded_are_not_certified():
    def overflows(radius, level, deadline):
        if radius > 1:
            raise rj.InputError("bounds are NaN")
        return Outcome(True)

    overflows.preparation = 0.0
    found = searched_radius(overflows, 0.5, RadiusSearch(), torch.float64, time.perf_counter() + LONG)
    assert 1 - 1e-5 <= found <= 1


def test_the_same_in_every_run():
    _, points, model = margins("relu")
    outcomes = [
        MarginProbe(model, read_points(points, INF), torch.eye(3).double()[None], None)(0.8, 0, INF) for _ in range(2)
    ]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("function", [rj.certified_radius, rj.stationary_free_radius])
def test_refusals(function):
    _, points, model = margins("relu")
    options = {"norm": INF, "C": torch.eye(3).double()[None]}
    for budget in (-1, "long", True, math.nan):
        with pytest.raises(rj.InputError, match="`budget` must be a number of at least 0"):
            function(model, points, budget=budget, **options)
    net = mlp(nn.Tanh, (4, 5, 3)).double()
    with pytest.raises(rj.UnsupportedError, match=r"no two linear pieces.* Leave out `budget`") as error:
        function(on_host(net, points), points, budget=1.0, **options)
    assert "\n" not in str(error.value)
