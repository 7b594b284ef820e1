"""Networks for which the host's own bounds do not hold: bounded by ours, or on the box around the ball, or refused."""

from __future__ import annotations

import math

import pytest
import torch
from cases import on_host
from oracle import Ball, Box, assert_encloses, jacobian, jacobians, outputs, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.bound_operators.installation import installed
from recurjac_plugin.host import IS_03
from recurjac_plugin.plugin.model import bounded_model
from recurjac_plugin.preactivations import defects


class Prefixed(nn.Module):
    """A function of the input, then dense layers."""

    def __init__(self, prefix, tail):
        super().__init__()
        self.prefix, self.tail = prefix, tail

    def forward(self, x):
        return self.tail(self.prefix(x))


def dense(activation):
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3))


NETWORKS = {
    "dense": lambda: dense(nn.Tanh),
    "shifted": lambda: Prefixed(lambda x: x - 0.3, dense(nn.ReLU)),
    "negated": lambda: Prefixed(lambda x: torch.tanh(-x), dense(nn.Tanh)),
    "flattened": lambda: Prefixed(lambda x: x.flatten(1), dense(nn.ReLU)),
    "activation first": lambda: Prefixed(torch.tanh, dense(nn.ReLU)),
    "swapped halves": lambda: Prefixed(lambda x: torch.tanh(torch.cat((x[:, 3:], x[:, :3]), 1)), dense(nn.ReLU)),
    "convolution": lambda: Prefixed(
        lambda x: x, nn.Sequential(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3))
    ),
}
SHAPES = {"flattened": (2, 3), "convolution": (1, 2, 3)}


def sphere(center, norm, eps, count, generator):
    """Points on the sphere of radius eps: random directions, and the corners on the axes."""
    flat = center.flatten(1)
    directions = torch.randn(count, *flat.shape, generator=generator, dtype=flat.dtype)
    axes = torch.cat((torch.eye(flat.shape[1]), -torch.eye(flat.shape[1]))).to(flat)
    directions = torch.cat((directions, axes[:, None, :].expand(-1, len(flat), -1)))
    directions = directions / directions.norm(p=norm, dim=2, keepdim=True)
    return (flat + eps * directions).reshape(-1, *center.shape)


@pytest.mark.parametrize("method", ["RecurJac", "IBP+RecurJac", "CROWN-IBP+RecurJac"])
@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_balls_other_than_boxes(name, norm, method):
    """The host's interval bounds take a ball for its centre unless a linear layer reads it first."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = NETWORKS[name]().double()
    center = torch.rand(2, *SHAPES.get(name, (6,)), generator=generator, dtype=torch.float64) - 0.5
    x = Ball(center, 1.0, norm).perturbed()
    model = on_host(net, center)
    try:
        bounds = rj.jacobian_bounds(model, x, method=method)
        lower, upper = rj.output_bounds(model, x, method=method)
    except rj.UnsupportedError as error:
        pytest.skip(f"the host cannot bound it: {error}")
    points = sphere(center, norm, 1.0, 20, generator)
    truth, values = jacobians(net, points), outputs(net, points)
    assert bool((truth >= bounds.lower - 1e-9).all() & (truth <= bounds.upper + 1e-9).all())
    assert bool((values >= lower - 1e-9).all() & (values <= upper + 1e-9).all())


def test_balls_keep_their_norm_where_the_host_uses_it():
    """Through a dense first layer an l_2 ball is much smaller than the box around it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 20), nn.Tanh(), nn.Linear(20, 2)).double()
    center = torch.zeros(1, 50, dtype=torch.float64)
    model = on_host(net, center)
    with torch.no_grad():
        ball = rj.jacobian_bounds(model, Ball(center, 0.5, 2.0).perturbed())
        box = rj.jacobian_bounds(model, Ball(center, 0.5, math.inf).perturbed())
    assert float((ball.upper - ball.lower).mean()) < 0.5 * float((box.upper - box.lower).mean())


def test_radii_of_a_batch():
    """Samples may have different radii; each one's bounds hold."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).double()
    center = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    model = on_host(net, center)
    eps = torch.tensor([0.1, 0.4], dtype=torch.float64)
    both = rj.jacobian_bounds(model, Ball(center, eps, 2.0).perturbed())
    alone = rj.jacobian_bounds(model, Ball(center[1:], 0.4, 2.0).perturbed())
    assert torch.allclose(both.lower[1], alone.lower[0]) and torch.allclose(both.upper[1], alone.upper[0])
    points = sphere(center, 2.0, 0.1, 20, torch.Generator().manual_seed(0))
    assert bool((jacobians(net, points) >= both.lower - 1e-9).all())


def test_what_a_row_names_is_refused(monkeypatch):
    """A defect that is found in a host is one row, and all nodes that it concerns are listed."""

    def wide(node, method):
        return (
            "wider than four, which the host takes for four" if method != "IBP" and node.output_shape[1] > 4 else None
        )

    monkeypatch.setitem(defects.DEFECTS, "BoundTanh", wide)
    x = torch.rand(1, 4, dtype=torch.float64)
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)
    model = on_host(nn.Sequential(*layers).double(), x)
    with pytest.raises(rj.UnsupportedError, match="wrong bounds there with `CROWN`") as error:
        rj.jacobian_bounds(model, Ball(x, 0.1, math.inf).perturbed())
    assert len(error.value.offenders) == 2
    rj.jacobian_bounds(model, Ball(x, 0.1, math.inf).perturbed(), method="IBP+RecurJac")


@pytest.mark.parametrize("slope", [1.5, -0.5])
def test_leaky_slopes_that_are_not_monotone_or_convex(slope, registered):
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.LeakyReLU(slope), nn.Linear(6, 6), nn.LeakyReLU(slope), nn.Linear(6, 2)
    net = nn.Sequential(*layers).double()
    region = Ball(torch.rand(1, 4, dtype=torch.float64), 0.3)
    model = on_host(net, region.center)
    values = truth(net, region)
    for method in ("RecurJac", "IBP+RecurJac", "CROWN-IBP+RecurJac"):
        bounds = rj.jacobian_bounds(model, region.perturbed(), method=method)
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), values)


def lines_that_escape(net, method, lower, upper):
    """How far the host's bounds of ``f(z) - k z`` miss the truth on intervals (n, 1), for slopes k of all sizes."""
    slopes = torch.tensor([0.0, 0.1, -0.1, 0.5, -0.5, 1, -1, 2, -2, 5, -5, 20, -20, 100, -100], dtype=torch.float64)
    both = Prefixed(lambda x: torch.cat((net(x), x), 1), nn.Identity())
    region = Box(lower, upper).perturbed()
    rows = torch.stack((torch.ones_like(slopes), -slopes), 1).expand(len(lower), -1, -1)
    model = on_host(both, region)
    with torch.no_grad():
        low, high = model.compute_bounds(x=(region,), C=rows, method=method)
    z = lower + torch.linspace(0, 1, 1001, dtype=torch.float64) * (upper - lower)
    values = net(z)[:, None] - slopes[:, None] * z[:, None]
    scale = 1 + values.abs().amax(2)
    return float((torch.maximum(low - values.amin(2), values.amax(2) - high) / scale).max())


# Function, an interval on which CROWN of 0.3 is wrong, one on which CROWN of 0.7 is.
WRONG_LINES = {
    "Sin": (torch.sin, (0.0, 7.8), (0.0, 6.867)),
    "Cos": (torch.cos, (0.0, 6.22), (0.0, 5.34)),
    "Tan": (torch.tan, None, (0.0, 1.46)),
    "Sqrt": (torch.sqrt, (0.001, 0.05), None),
    "Reciprocal": (torch.reciprocal, (-2.0, -1.0), None),
    "Pow": (lambda x: x**4, None, (0.0, 4.0)),
}
RIGHT = {
    "abs": (torch.abs, -5.0, 5.0),
    "exp": (torch.exp, -5.0, 5.0),
    "log": (torch.log, 0.01, 8.0),
    "square": (torch.square, -4.0, 4.0),
    "tanh": (torch.tanh, -6.0, 6.0),
    "sigmoid": (torch.sigmoid, -9.0, 9.0),
    "atan": (torch.arctan, -6.0, 6.0),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_wrong_lines_of_the_host_are_replaced(name):
    """On these intervals the host is wrong, and right with bounds of our own in its classes."""
    function, *intervals = WRONG_LINES[name]
    interval = intervals[0] if IS_03 else intervals[1]
    if interval is None:
        pytest.skip("the host of this version is right there")
    lower, upper = (torch.tensor([[end]], dtype=torch.float64) for end in interval)
    net = Prefixed(function, nn.Identity())
    assert lines_that_escape(net, "CROWN", lower, upper) > 1e-7
    with installed():
        assert lines_that_escape(net, "CROWN", lower, upper) <= 0
    net = Prefixed(function, nn.Linear(1, 2)).double()
    region = Box(lower, upper)
    bounds = rj.jacobian_bounds(on_host(net, lower), region.perturbed())
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))


@pytest.mark.parametrize("name", RIGHT)
def test_lines_of_other_operators_hold(name):
    function, least, most = RIGHT[name]
    generator = torch.Generator().manual_seed(0)
    width = 10 ** (7 * torch.rand(400, 1, generator=generator, dtype=torch.float64) - 6)
    center = least + (most - least) * torch.rand(400, 1, generator=generator, dtype=torch.float64)
    lower, upper = (center - width / 2).clamp(least, most), (center + width / 2).clamp(least, most)
    assert lines_that_escape(Prefixed(function, nn.Identity()), "CROWN", lower, upper) <= 1e-9


class Dividing(nn.Module):
    """``relu(dividend / divisor - shift)`` of the first and the second coordinate, or of a constant dividend."""

    def __init__(self, dividend, divisor, shift):
        super().__init__()
        self.dividend, self.divisor = dividend, divisor
        self.shift = nn.Parameter(torch.tensor([shift]))  # 0.3 finds the type of a network in its parameters
        self.register_buffer("constant", torch.tensor([-1.0]).double())

    def forward(self, x):
        dividend = self.constant if self.dividend is None else self.dividend(x[:, :1])
        return torch.relu(dividend / self.divisor(x[:, 1:]) - self.shift)


QUOTIENTS = {
    "of both signs": Dividing(lambda x: 1.0 * x, lambda y: y.relu() + 0.5, -0.8),
    "above zero": Dividing(lambda x: x + 2, lambda y: y.relu() + 0.5, 0.5),
    "below zero": Dividing(lambda x: x - 3, lambda y: y.relu() + 0.5, -1.5),
    "softsign": nn.Sequential(nn.Softsign(), nn.Linear(2, 1), nn.ReLU()),
    "of a negative constant": Dividing(None, lambda y: y.relu() + 0.5, -1.0),
    "by a negative divisor": Dividing(lambda x: 1.0 * x, lambda y: -y.relu() - 0.5, -0.8),
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_quotients_over_wide_boxes(name):
    """Interval bounds of 0.3 take ``x_low / y_high`` for the least quotient, and CROWN a constant for the divisor."""
    net = QUOTIENTS[name].double()
    if name == "softsign":
        with torch.no_grad():
            net[1].weight.fill_(1.0)
            net[1].bias.fill_(0.8)
    region = Box(torch.tensor([[-1.0, 0.0]]).double(), torch.tensor([[1.0, 2.0]]).double())
    model = on_host(net, region.center)
    values = truth(net, region, count=300)
    for method in ("RecurJac", "CROWN-IBP+RecurJac", "IBP+RecurJac"):
        bounds = rj.jacobian_bounds(model, region.perturbed(), method=method)
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), values)


class Odds(nn.Module):
    """``relu(s(x) - 0.06 x - 1.2)`` with the first of two probabilities, which is 1e-30 at one end."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([1.2]))

    def forward(self, x):
        return torch.relu(torch.cat((x, -x), 1).softmax(1)[:, :1] - 0.06 * x - self.shift)


def test_small_probabilities(registered):
    """On this interval the upper bound of 0.7 for what the ReLU reads is negative, and its largest value 0.9."""
    region = Ball(torch.zeros(1, 1, dtype=torch.float64), 35.0)
    net = Odds().double()
    model = on_host(net, region.center)
    values = truth(net, region, count=300)
    for method in ("IBP+RecurJac", "RecurJac", "CROWN-IBP+RecurJac"):
        bounds = rj.jacobian_bounds(model, region.perturbed(), method=method)
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), values)


WINDOWS = {
    "whole": ((2, 4), {"kernel_size": 2}),
    "border on both sides": ((5, 5), {"kernel_size": 2}),
    "border below": ((5, 4), {"kernel_size": 2}),
    "border on the right": ((4, 5), {"kernel_size": 2}),
    "overlapping": ((5, 5), {"kernel_size": 3, "stride": 1}),
    "overlapping to the right": ((6, 6), {"kernel_size": (2, 3), "stride": 2}),
    "with gaps": ((5, 5), {"kernel_size": 2, "stride": (2, 3)}),
    "padded": ((5, 5), {"kernel_size": 2, "padding": 1}),
}


@pytest.mark.parametrize("kind", [nn.AvgPool2d, nn.MaxPool2d])
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_of_pools(name, kind):
    """The host's CROWN swaps the rows and columns that a pool leaves out, and wants windows side by side."""
    shape, options = WINDOWS[name]
    torch.manual_seed(0)
    pool = kind(**options)
    size = pool(torch.zeros(1, 1, *shape)).numel()
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), pool, nn.Flatten(), nn.Linear(2 * size, 8), nn.Tanh()).double()
    x = torch.randn(2, 1, *shape, dtype=torch.float64)
    region = Ball(x, 0.1)
    model = on_host(net, x)
    values = truth(net, region)
    for method in ("IBP+RecurJac", "RecurJac", "CROWN-IBP+RecurJac"):
        bounds = rj.jacobian_bounds(model, region.perturbed(), method=method)
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), values)


POOLS = {
    "dilated": (nn.MaxPool2d(2, dilation=2), "dilated"),
    "ceil": (nn.MaxPool2d(4, ceil_mode=True), "ceil mode"),
    "padding left out": (nn.AvgPool2d(2, padding=1, count_include_pad=False), "padding"),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools_that_the_host_reads_as_others_are_refused(name):
    pool, reason = POOLS[name]
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    net = nn.Sequential(pool, nn.Flatten()).double()
    model = on_host(net, x)
    for method in ("RecurJac", "IBP+RecurJac"):
        with pytest.raises(rj.UnsupportedError, match=reason):
            rj.jacobian_bounds(model, Ball(x, 0.1).perturbed(), method=method)


def test_networks_that_the_host_reads_as_others_are_refused():
    """Whatever the host overlooks: its outputs are compared with the network's before files are bounded."""
    net = nn.Sequential(nn.MaxPool2d(2, dilation=2), nn.Flatten())
    with pytest.raises(rj.UnsupportedError, match="computes another function"):
        bounded_model(net, torch.zeros(1, 1, 6, 6))
    assert bounded_model(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), torch.zeros(1, 1, 6, 6)) is not None


def test_quotients_by_roots_are_not_layer_norms():
    """0.3 would evaluate ``x / sqrt(y)`` as a layer normalisation of x; newer hosts write products."""
    net = Prefixed(lambda x: (torch.tanh(x) - x) / torch.sqrt(torch.sigmoid(x) + 1), nn.Linear(6, 2)).double()
    x = torch.rand(2, 6, dtype=torch.float64)
    region = Ball(x, 0.1)
    for method in ("RecurJac", "IBP+RecurJac"):
        bounds = rj.jacobian_bounds(on_host(net, x), region.perturbed(), method=method)
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))


@pytest.mark.parametrize("method", ["RecurJac", "IBP+RecurJac", "CROWN"])
def test_logarithms_that_the_host_cuts_off_are_refused(method):
    """log(sigmoid(-80)) is -80; the host says log(1e-12) = -27.6, by every method."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.LogSigmoid(), nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    model = on_host(net, x)
    lower, upper = rj.output_bounds(model, Ball(x, 0.1).perturbed(), method=method)
    assert bool((lower <= net(x)).all() & (net(x) <= upper).all())
    with pytest.raises(rj.UnsupportedError, match=r"cuts the logarithm off|must be above 0"):
        rj.output_bounds(model, Ball(x, 100.0).perturbed(), method=method)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exp", "celu"])
def test_balls_narrower_than_the_hosts_chords(name, dtype, registered):
    """The host's chords are too flat on intervals narrower than 1e-8: ReLUs behind them must not count as stable."""
    if name == "celu" and IS_03:
        pytest.skip("0.3 has no casts")
    activation = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "exp": Exponential, "celu": lambda: nn.CELU(1.3)}[name]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 40, bias=False), activation(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2))
    center = torch.zeros(1, 3, dtype=dtype)
    for eps in (0.0, 1e-12, 1e-10, 1e-9, 3e-9, 1e-8):
        net = net.to(dtype)
        with torch.no_grad():  # every ReLU has its kink at the centre, or near to it
            net[2].bias.zero_()
            net[2].bias -= net[2](net[1](net[0](center)))[0] - 0.5 * eps * (torch.rand(40) - 0.5).to(dtype)
            model = on_host(net, center)
            found = [
                rj.jacobian_bounds(model, Ball(center, eps).perturbed(), method=method)
                for method in ("RecurJac", "IBP+RecurJac", "Fast-Lip")
            ]
        region = Ball(center.double(), eps)
        values = jacobians(net.double(), region.sample(100))
        for bounds in found:
            assert_encloses(bounds.lower, bounds.upper, values, slack=1e-6 if dtype == torch.float64 else 1e-4)


class Exponential(nn.Module):
    def forward(self, x):
        return torch.exp(x)


class Softmax(nn.Module):
    """A ReLU that is on where the second of three classes is nearly certain."""

    def __init__(self):
        super().__init__()
        self.scores, self.gate, self.out = nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1)
        with torch.no_grad():
            self.scores.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
            self.scores.bias.copy_(torch.tensor([0.0, 0.0, -60.0]))
            self.gate.weight.copy_(torch.tensor([[-1.0, 1.0, 0.0]]))
            self.gate.bias.fill_(-0.5)

    def forward(self, x):
        return self.out(self.gate(self.scores(x).softmax(1)).relu())


def test_softmax_over_wide_boxes():
    """With scores in [-60, 0] and [-50, -40] the second class can be certain; the host says 4e-6 at most."""
    net = Softmax().double()
    box = Box(torch.tensor([[-60.0, -50.0]]).double(), torch.tensor([[0.0, -40.0]]).double())
    model = on_host(net, box.center)
    try:
        bounds = rj.jacobian_bounds(model, box.perturbed(), method="IBP+RecurJac")
    except rj.UnsupportedError:
        assert IS_03  # which takes it apart, and cannot divide by the sum of these exponentials
        return
    values = jacobian(net, torch.tensor([[-48.0, -45.0], [-50.0, -48.5], [-45.0, -45.0]]).double())
    assert float(values.abs().max()) > 0.01
    assert bool((bounds.lower <= values).all() & (values <= bounds.upper).all())
    lower, upper = rj.output_bounds(model, box.perturbed(), method="IBP")
    points = box.sample(300)[:, 0]
    assert bool((lower <= net(points)).all() & (net(points) <= upper).all())
    assert "interval_propagate" not in {key for node in model._modules.values() for key in vars(node)}


@pytest.mark.parametrize("count", [1, 4])
def test_softmax_at_a_point(count):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, count), nn.Softmax(1), nn.Linear(count, 2)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad():
        lower, upper = rj.jacobian_bounds(on_host(net, x), Ball(x, 0.0).perturbed(), method="IBP+RecurJac")
    assert torch.allclose(lower, jacobian(net, x), rtol=0, atol=1e-12)
    assert torch.allclose(upper, lower, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["IBP", "IBP+RecurJac", "RecurJac"])
def test_layers_without_biases(method):
    """0.3 could not apply a specification to the interval bounds of one that is the last."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    C = torch.randn(2, 3, 4, dtype=torch.float64)
    lower, upper = rj.output_bounds(on_host(net, x), Ball(x, 0.1).perturbed(), method=method, C=C)
    values = Ball(x, 0.1).sample(60)
    values = (C @ net(values.flatten(0, 1)).unflatten(0, (60, 2)).unsqueeze(3)).squeeze(3)
    assert bool((lower <= values + 1e-12).all() & (values <= upper + 1e-12).all())


def test_extremes_of_the_input_itself():
    """The host cannot evaluate them on its perturbed tensors: that is said, and not that the shape is wrong."""
    net = Prefixed(lambda x: x.amax(1, keepdim=True), nn.Linear(1, 2))
    x = torch.randn(2, 6)
    model = on_host(net, x)
    with pytest.raises(rj.UnsupportedError, match="cannot evaluate it on a perturbed input"):
        rj.jacobian_bounds(model, Ball(x, 0.1).perturbed(), method="IBP+RecurJac")
    with pytest.raises(rj.InputError, match="shape"):
        rj.jacobian_bounds(model, Ball(torch.randn(2, 6, 2, 2), 0.1).perturbed(), method="IBP+RecurJac")
