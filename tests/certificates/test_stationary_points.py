"""Balls without a stationary point: some entry of every sampled gradient keeps its sign; zeros have none."""

from __future__ import annotations

import math

import pytest
import torch
from cases import hosted, mlp, on_host
from oracle import Ball, truth
from torch import nn

import recurjac_plugin as rj

NORMS = [1.0, 2.0, math.inf]
INF = math.inf


def gradients(net, points, radius, norm, C=None):
    """All over the balls, (n, b, k, columns)."""
    return truth(net, Ball(points, radius, norm), C, targets=4).flatten(3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "mixed", "conv2d_stride"])
def test_an_entry_keeps_its_sign(name, norm):
    net, points, model = hosted(name)
    for method in rj.METHODS if norm == INF else ("RecurJac-Linear",):
        radius = rj.stationary_free_radius(model, points, norm=norm, method=method, tolerance=1e-3)
        assert radius.shape == (2,)
        assert radius.dtype == points.dtype
        found = gradients(net, points, radius, norm)
        if not bool((radius > 0).all()):  # a gradient that is 0 at the point itself
            assert bool((found[-1][radius == 0] == 0).any())
        kept = ((found > 0).all(0) | (found < 0).all(0)).any(2).all(1)
        assert bool(kept[radius > 0].all())


@pytest.mark.parametrize("norm", NORMS)
def test_signs_of_the_scan_are_those_of_the_gradients(norm):
    net, points, model = hosted("mixed")
    scan = rj.landscape_scan(model, points, norm=norm, radius=torch.tensor([0.2, 0.4]), points=4)
    assert scan.radii.shape == (2, 4)
    assert scan.undetermined.shape == scan.constants.shape == (2, 4, 3)
    assert scan.undetermined.dtype == torch.int64
    dual = {1.0: INF, 2.0: 2.0, INF: 1.0}[norm]
    for i in range(4):
        found = gradients(net, points, scan.radii[:, i], norm)
        both = ((found > 0).any(0) & (found < 0).any(0)).sum(2)
        assert bool((both <= scan.undetermined[:, i]).all())
        sizes = torch.linalg.vector_norm(found, ord=dual, dim=3).amax(0)
        assert bool((sizes <= scan.constants[:, i] * (1 + 1e-6)).all())
    assert bool((scan.undetermined[:, 0] == 0).all())
    assert bool((scan.undetermined[:, -1] > 0).any())
    with torch.no_grad():
        x = Ball(points, torch.tensor([0.2, 0.4], dtype=points.dtype), norm)
        if norm == INF:
            expected = rj.local_lipschitz(model, x.perturbed(), per_output=True)
            assert torch.allclose(scan.constants[:, -1], expected, rtol=1e-6, atol=0)


def test_radius_is_where_the_scan_loses_the_last_sign():
    _, points, model = hosted("mixed")
    radius = rj.stationary_free_radius(model, points, norm=INF)
    columns = points[0].numel()
    scan = rj.landscape_scan(model, points, norm=INF, radius=radius, points=2)
    assert bool((scan.undetermined[:, 1] < columns).all())
    scan = rj.landscape_scan(model, points, norm=INF, radius=radius + 2e-5, points=2)
    assert bool((scan.undetermined[:, 1] == columns).any(1).all())


def test_radius_of_every_row():
    _, points, model = hosted("mixed")
    rows = rj.stationary_free_radius(model, points, norm=INF, per_output=True)
    assert rows.shape == (2, 3)
    for k in range(3):
        C = torch.eye(3, dtype=points.dtype)[None, None, k]
        alone = rj.stationary_free_radius(model, points, norm=INF, C=C)
        assert torch.allclose(rows[:, k], alone, rtol=1e-9, atol=0)
    together = rj.stationary_free_radius(model, points, norm=INF)
    assert bool((together <= rows.amin(1) + 1e-5).all())


def test_samples_do_not_depend_on_each_other():
    _, points, model = hosted("relu", 3)
    for norm in NORMS:
        together = rj.stationary_free_radius(model, points, norm=norm)
        alone = [rj.stationary_free_radius(model, points[i : i + 1], norm=norm) for i in range(3)]
        assert torch.allclose(together, torch.cat(alone), rtol=1e-12, atol=0)
        scan = rj.landscape_scan(model, points, norm=norm, radius=together, points=3)
        one = rj.landscape_scan(model, points[1:2], norm=norm, radius=together[1:2], points=3)
        assert torch.equal(scan.undetermined[1:2], one.undetermined)
        assert torch.allclose(scan.constants[1:2], one.constants, rtol=1e-9, atol=0)


def test_minimum_is_kept_out():
    """f(x) = |x - 0.3|: the minimum is stationary in the sense of Clarke."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[0].bias.copy_(torch.tensor([-0.3, 0.3]))
        net[2].weight.copy_(torch.tensor([[1.0, 1.0]]))
    model = on_host(net, torch.zeros(1, 1, dtype=torch.float64))
    points = torch.tensor([[0.0], [1.0], [0.3]], dtype=torch.float64)
    for norm in NORMS:
        radius = rj.stationary_free_radius(model, points, norm=norm)
        assert radius.tolist() == pytest.approx([0.3, 0.7, 0.0], abs=2e-5)


def test_clipped_balls_reach_farther():
    """What is left of a ball is smaller."""
    _, points, model = hosted("mixed")
    clip = (points - 0.05, points + 1)
    options = {"norm": INF, "limit": 1.0}
    clipped = rj.stationary_free_radius(model, points, clip=clip, **options)
    assert bool((clipped > rj.stationary_free_radius(model, points, **options)).any())


def test_quirk_zero_columns_are_not_a_certain_sign():
    """An input that nothing reads has gradient 0 everywhere: no evidence against a stationary point."""
    torch.manual_seed(0)
    net = mlp(nn.LeakyReLU, (5, 8, 1)).double()
    with torch.no_grad():
        net[0].weight[:, 0] = 0
    x0 = torch.randn(1, 5, dtype=torch.float64)
    model = on_host(net, x0)
    with torch.no_grad():
        lower, upper = rj.jacobian_bounds(model, Ball(x0, 50.0).perturbed())
    assert float(lower[0, 0, 0]) == float(upper[0, 0, 0]) == 0  # l < 0 < u does not hold: the reference's criterion
    scan = rj.landscape_scan(model, x0, norm=INF, radius=50.0, points=2)
    assert scan.undetermined[0, :, 0].tolist() == [1, 5]
    radius = float(rj.stationary_free_radius(model, x0, norm=INF, limit=50.0))
    assert radius < 50
    found = gradients(net, x0, torch.tensor([radius], dtype=torch.float64), INF)
    assert bool(((found > 0).all(0) | (found < 0).all(0)).any())


def test_quirk_capped_radii():
    """The reference stops at 10^k times its first radius below the limit: 0.5 for 1; here the limit is reached."""
    net = nn.Linear(3, 1).double()
    model = on_host(net, torch.zeros(1, 3, dtype=torch.float64))
    x0 = torch.zeros(1, 3, dtype=torch.float64)
    assert float(rj.stationary_free_radius(model, x0, norm=INF, initial=0.005, limit=1.0)) == 1.0


def test_quirk_radius_zero():
    """At radius 0 the reference's S-shaped bounds cross; here the point has its gradient."""
    net, points, model = hosted("mixed")
    scan = rj.landscape_scan(model, points, norm=INF, radius=0.0, points=2)
    exact = gradients(net, points, torch.zeros(2, dtype=points.dtype), INF)[-1].abs().sum(2)
    assert torch.allclose(scan.constants[:, 0], exact, rtol=1e-6, atol=0)
    assert bool((scan.undetermined == 0).all())


def test_quirk_numpy_2():
    """NumPy numbers as radii, which the reference's compiled functions refuse."""
    np = pytest.importorskip("numpy")
    _, points, model = hosted("relu")
    scan = rj.landscape_scan(model, points, norm=np.inf, radius=np.float64(0.1), points=2)
    assert scan.radii.dtype == points.dtype
    assert bool((rj.stationary_free_radius(model, points, norm=np.inf, initial=np.float32(0.01)) > 0).all())


def test_quirk_dual_exponent():
    """The reference truncates q = 1.5 of p = 3 to 1: constants up to sqrt(n) too large."""
    net, points, model = hosted("relu")
    with torch.no_grad():
        x = Ball(points, 1e-6, 3.0).perturbed()
        found = rj.local_lipschitz(model, x, per_output=True)
    exact = truth(net, Ball(points, 0.0, 3.0))[-1].flatten(2)
    assert torch.allclose(found, torch.linalg.vector_norm(exact, ord=1.5, dim=2), rtol=1e-4, atol=0)
    assert bool((found < exact.abs().sum(2) * 0.99).all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": 3}, "1, 2 or inf"),
        ({"method": "CROWN"}, "no Jacobian bounds"),
        ({"C": torch.zeros(1, 1, 3, dtype=torch.float64)}, "zeros"),
        ({"C": torch.ones(1, 1, 4, dtype=torch.float64)}, "shape"),
        ({"order": "sideways"}, "order"),
        ({"clip": (1.0, 0.0)}, "inverted"),
    ],
)
def test_bad_input(change, words):
    _, points, model = hosted("relu")
    for call, extra in ((rj.stationary_free_radius, {}), (rj.landscape_scan, {"radius": 0.1})):
        with pytest.raises(rj.RecurJacError, match=words):
            call(model, points, **({"norm": INF} | extra | change))


@pytest.mark.parametrize("radius", [-0.1, math.nan, math.inf, "1", torch.ones(3)])
def test_radius_of_a_scan(radius):
    _, points, model = hosted("relu")
    with pytest.raises(rj.InputError, match="radius"):
        rj.landscape_scan(model, points, norm=INF, radius=radius)


@pytest.mark.parametrize("count", [1, 0, 2.5, True])
def test_points_of_a_scan(count):
    _, points, model = hosted("relu")
    with pytest.raises(rj.InputError, match="points"):
        rj.landscape_scan(model, points, norm=INF, radius=0.1, points=count)
