"""Bounds of many boxes from those of a box around them: the host's CROWN, and nothing that does not hold."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from cases import Case, Net, mlp, residual
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.lines import linear_pieces
from recurjac_plugin.branch_and_bound.bounders import HostBounder, RefiningBounder, bounder
from recurjac_plugin.branch_and_bound.boxes import Boxes, Disjuncts
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.host.state import evaluated
from recurjac_plugin.jacobian.methods import parse


def two_readers(self, x):
    """One pre-activation that two activations read, and one activation that two layers read."""
    z = self.a(x)
    h = z.relu()
    return self.c(torch.cat((self.b(h).relu(), h, functional_leaky(z)), 1))


def functional_leaky(z):
    return nn.functional.leaky_relu(z, 0.3)


NETWORKS = [
    Case("mlp", lambda: mlp(nn.ReLU, (3, 9, 8, 7, 3)), (3,)),
    Case("leaky", lambda: mlp(lambda: nn.LeakyReLU(0.3)), (5,)),
    Case("prelu", lambda: mlp(lambda: nn.PReLU(init=0.4), (4, 8, 8, 2)), (4,), taught=True),
    Case(
        "prelu_of_every_kind",
        lambda: nn.Sequential(nn.Linear(4, 8), Slopes(), nn.Linear(8, 6), nn.PReLU(init=1.6), nn.Linear(6, 2)),
        (4,),
        taught=True,
    ),
    Case("abs", lambda: mlp(lambda: Net(lambda s, x: x.abs()), (4, 7, 6, 2)), (4,)),
    Case(
        "residual",
        lambda: Net(residual, a=nn.Linear(4, 7), b=nn.Linear(7, 7), c=nn.Linear(7, 2)),
        (4,),
        not_03="0.3 takes what reads a sum for a convolution",
    ),
    Case(
        "residual_convolutions",
        lambda: Net(
            residual,
            a=nn.Conv2d(1, 2, 2),
            b=nn.Conv2d(2, 2, 3, padding=1),
            c=nn.Sequential(nn.Flatten(), nn.Linear(18, 2)),
        ),
        (1, 4, 4),
    ),
    Case(
        "convolutions",
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2),
        ),
        (1, 4, 4),
    ),
    Case(
        "two_readers", lambda: Net(two_readers, a=nn.Linear(3, 6), b=nn.Linear(6, 5), c=nn.Linear(17, 2)), (3,)
    ),
    Case("flat_input", lambda: nn.Sequential(nn.Flatten(), mlp(nn.ReLU)), (1, 1, 5)),
    Case("on_input", lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), (4,)),
    Case("last", lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU()), (4,)),
    Case("linear", lambda: nn.Linear(4, 3), (4,)),
]  # fmt: skip


class Slopes(nn.PReLU):
    """Slopes below 0, of 0, between 0 and 1, of 1 (which is no kink), and above 1."""

    def __init__(self):
        super().__init__(8)
        self.weight.data = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.7, 1.0, -1.0, 0.9])


every_network = pytest.mark.parametrize("case", NETWORKS, ids=lambda case: case.name)


def rows_of(model, case, dtype):
    with torch.no_grad():
        outputs = model(torch.zeros(1, *case.shape, dtype=dtype)).numel()
    A = torch.cat((torch.eye(outputs, dtype=dtype), torch.randn(2, outputs, dtype=dtype)))
    none = torch.zeros(len(A), dtype=torch.bool)
    return Rows(A, torch.zeros(len(A), dtype=dtype), none, torch.arange(len(A)), 0.0, torch.finfo(dtype).eps)


def least(slope, offset, radius):
    """Of linear forms (..., columns) over a box."""
    return offset - (slope.abs() * radius.unsqueeze(1)).sum(-1)


def inside(lower, upper, count, smallest=0.01):
    """Boxes of any size within one, some coordinates without extent."""
    extent = (upper - lower) * (smallest + (1 - smallest) * torch.rand(count, 1, dtype=lower.dtype) ** 2)
    low = lower + (upper - lower - extent) * torch.rand(count, lower.shape[1], dtype=lower.dtype)
    high = torch.minimum(low + extent, upper)
    flat = torch.rand(low.shape) < 0.1
    return low, torch.where(flat, low, high)


class Problem:
    """A network with rows, a region, and boxes in it."""

    def __init__(self, case, dtype=torch.float64, method="RecurJac-Linear+CROWN", radius=0.5, count=12):
        self.case, self.net = case, case.network(dtype)
        center = case.center(1, dtype).reshape(1, -1)
        self.model = case.model(self.net, center.reshape(1, *case.shape))
        self.rows = rows_of(self.model, case, dtype)
        self.lower, self.upper = center - radius, center + radius
        if case.taught:
            rj.register()
        try:
            arguments = (self.model, self.rows, parse(method), case.shape)
            self.refining = bounder(*arguments, self.lower, self.upper, "jacobian")
        except rj.UnsupportedError:
            if case.reason is None:
                raise
            pytest.skip(case.reason)
        finally:
            if case.taught:
                rj.unregister()
        self.host = HostBounder(*arguments, "jacobian")
        assert isinstance(self.refining, RefiningBounder)
        self.boxes = self.within(*inside(self.lower, self.upper, count))

    def within(self, lower, upper):
        first = self.refining.first(self.lower, self.upper)
        return replace(first.take(torch.zeros(len(lower), dtype=torch.int64)), lower=lower, upper=upper)

    def points(self, boxes, count=200):
        """(count, boxes, columns): corners, and points between."""
        fraction = torch.rand(count, *boxes.lower.shape, dtype=boxes.lower.dtype)
        fraction[::2] = fraction[::2].round()
        return boxes.lower + (boxes.upper - boxes.lower) * fraction

    def values(self, points):
        """Rows at the points, (count, boxes, k), and what activations read there."""
        flat = points.flatten(0, 1)
        outputs, reads = evaluated(self.model, flat.reshape(-1, *self.case.shape), [*self.refining.graph.reads])
        return self.rows.values(outputs.flatten(1)).unflatten(0, points.shape[:2]), {
            name: value.unflatten(0, points.shape[:2]) for name, value in reads.items()
        }


@every_network
@torch.no_grad()
def test_bounds_hold_wherever_they_are_sampled(case):
    problem = Problem(case)
    boxes = problem.boxes
    found = problem.refining(boxes)
    points = problem.points(boxes)
    rows, reads = problem.values(points)
    tiny = 1e-12
    assert bool((found.lower <= rows.amin(0) + tiny).all())
    slope, offset = found.linear
    linear = (slope * (points - boxes.center)[:, :, None, None]).sum(4) + offset
    assert bool((linear <= rows.unsqueeze(2) + tiny).all())
    bounds = least(slope, offset, boxes.radius.unsqueeze(1))
    assert torch.allclose(bounds.amax(1), found.lower)
    best = bounds.argmax(1)[:, None, :, None].expand(-1, 1, -1, slope.shape[3])
    assert torch.equal(slope.gather(1, best).squeeze(1), found.slope)
    for name, (low, high) in found.around.items():
        assert bool((low <= reads[name].amin(0) + tiny).all()), name
        assert bool((high >= reads[name].amax(0) - tiny).all()), name


@every_network
@torch.no_grad()
def test_around_bounds_are_inherited(case):
    problem = Problem(case)
    around = problem.boxes.around
    found = problem.refining(problem.boxes)
    assert set(found.around) == set(around)
    for name, (low, high) in found.around.items():
        assert bool((low >= around[name][0]).all()), name
        assert bool((high <= around[name][1]).all()), name
        assert bool((low <= high).all()), name


@every_network
@torch.no_grad()
def test_on_the_region_itself_it_is_the_hosts_crown(case):
    problem = Problem(case, radius=0.2)
    ours = problem.refining(problem.refining.first(problem.lower, problem.upper))
    hosts = problem.host(problem.host.first(problem.lower, problem.upper))
    scale = 1 + hosts.lower.abs()
    assert bool((ours.lower >= hosts.lower - 1e-11 * scale).all())
    if not (case.name == "abs" or case.taught):  # the lines that the host has or is taught are looser
        first = least(*(form[:, 0] for form in ours.linear), (problem.upper - problem.lower) / 2)
        assert torch.allclose(first, hosts.lower, rtol=0, atol=float(1e-11 * scale.max()))


@every_network
@torch.no_grad()
def test_boxes_within_are_as_tight_as_the_hosts_crown(case):
    """On the average: each inherits bounds of the region, by which other lines may be chosen."""
    problem = Problem(case, radius=0.4)
    ours, hosts = (each(problem.boxes) for each in (problem.refining, problem.host))
    width = (hosts.lower - problem.rows.values(hosts.outputs)).abs().clamp(min=1e-9)
    assert float(((hosts.lower - ours.lower) / width).mean()) < 0.03


@every_network
@torch.no_grad()
def test_jacobian_comes_from_the_same_gains(case):
    problem = Problem(case, radius=0.3, count=5)
    index = torch.tensor([3, 0, 4])
    rows = torch.tensor([[1, 0], [2, 1], [0, 3]])  # others for every box
    found = problem.refining(problem.boxes).differentiated(index, rows)
    lower, upper = found.jacobian
    points = problem.points(problem.boxes.take(index), 60)
    x = points.flatten(0, 1).reshape(-1, *case.shape).requires_grad_()
    with torch.enable_grad():
        outputs = problem.rows.values(problem.net(x).flatten(1))
        chosen = outputs.unflatten(0, points.shape[:2]).gather(2, rows.expand(60, -1, -1))
        gradients = torch.stack([torch.autograd.grad(chosen[..., k].sum(), x, retain_graph=True)[0] for k in (0, 1)], 1)
    gradients = gradients.reshape(60, 3, 2, -1)
    assert bool((lower <= gradients.amin(0) + 1e-12).all())
    assert bool((upper >= gradients.amax(0) - 1e-12).all())
    assert torch.equal(found.center_value, problem.refining(problem.boxes).differentiated(index, rows).center_value)
    centers = problem.rows.values(problem.net(problem.boxes.take(index).center.reshape(-1, *case.shape)).flatten(1))
    assert torch.allclose(found.center_value, centers.gather(1, rows))
    whole = problem.host(problem.boxes.take(index))
    assert torch.allclose(whole.differentiated(torch.arange(3), rows).center_value, centers.gather(1, rows))


@every_network
@torch.no_grad()
def test_a_box_alone_and_in_a_batch_have_the_same_bounds(case):
    problem = Problem(case)
    together = problem.refining(problem.boxes)
    for i in range(len(problem.boxes)):
        alone = problem.refining(problem.boxes.take(slice(i, i + 1)))
        assert torch.allclose(together.lower[i], alone.lower[0], rtol=0, atol=1e-12)
        for name, (low, _) in alone.around.items():
            assert torch.allclose(together.around[name][0][i], low[0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_float32_is_float64_up_to_rounding():
    """Room for rounding must not be what is left of a bound."""
    for case in (each for each in NETWORKS if each.name in ("mlp", "convolutions", "residual_convolutions")):
        double, single = (Problem(case, dtype) for dtype in (torch.float64, torch.float32))
        low, high = (end.float() for end in (double.boxes.lower, double.boxes.upper))
        low, high = torch.maximum(low, single.lower), torch.minimum(high, single.upper)
        exact = double.refining(double.within(low.double(), torch.maximum(low, high).double()))
        found = single.refining(single.within(low, torch.maximum(low, high)))
        assert bool(((found.lower.double() - exact.lower).abs() < 3e-4 * (1 + exact.lower.abs())).all())


@pytest.mark.parametrize(
    ("left", "right", "lower", "upper", "lines"),
    [
        # ReLU on [-1, 3]: at least z, at most the chord 3/4 (z + 1); the middle is at 1, where it is 1.
        (0.0, 1.0, -1.0, 3.0, ((1.0, 0.0), (0.75, 0.5))),
        # ReLU on [-3, 1], the middle at -1: at least 0, at most 1/4 (z + 3) = 1/4 t + 1/2.
        (0.0, 1.0, -3.0, 1.0, ((0.0, 0.0), (0.25, 0.5))),
        # |z| on [-1, 3]: at least z, at most the chord z / 2 + 3 / 2 = t / 2 + 2, over the value 1.
        (-1.0, 1.0, -1.0, 3.0, ((1.0, 0.0), (0.5, 1.0))),
        # A slope of 2 below 0 bends the other way: at most the line with the slope on the larger side.
        (2.0, 1.0, -1.0, 3.0, ((1.25, -0.5), (1.0, 0.0))),
        # No kink, or on one side of it: what only fills up a list has no lines.
        (1.0, 1.0, -1.0, 3.0, ((0.0, 0.0), (0.0, 0.0))),
        (0.0, 1.0, 1.0, 3.0, ((0.0, 0.0), (0.0, 0.0))),
    ],
)
def test_lines(left, right, lower, upper, lines):
    as_tensor = tuple(torch.tensor([[value]], dtype=torch.float64) for value in (left, right, lower, upper))
    center = torch.tensor([[(lower + upper) / 2]], dtype=torch.float64)
    found = linear_pieces(*as_tensor, center)
    below, above = lines
    assert (found.lower_slope.item(), found.lower_constant.item()) == pytest.approx(below)
    assert (found.upper_slope.item(), found.upper_constant.item()) == pytest.approx(above)


@pytest.mark.parametrize("near", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize(("left", "right"), [(0.0, 1.0), (-1.0, 1.0), (0.3, 1.0), (1.7, 1.0), (-0.4, 1.0)])
def test_lines_hold(near, left, right):
    ends = [(-1.0, 3.0), (-3.0, 1.0), (-1.0, 1.0), (-1e-9, 2.0), (-2.0, 1e-9)]
    for (lower, upper), where in itertools.product(ends, (0.1, 0.5, 0.8)):
        center = lower + where * (upper - lower)
        numbers = (torch.tensor([[v]], dtype=torch.float64) for v in (left, right, lower, upper, center))
        found = linear_pieces(*numbers, near=near)
        z = torch.linspace(lower, upper, 101, dtype=torch.float64)
        change = torch.where(z > 0, right * z, left * z) - (right if center > 0 else left) * center
        below = found.lower_slope.item() * (z - center) + found.lower_constant.item()
        above = found.upper_slope.item() * (z - center) + found.upper_constant.item()
        assert float((below - change).max()) < 1e-14
        assert float((change - above).max()) < 1e-14


def test_what_cannot_be_refined_goes_to_the_host():
    case = Case("tanh", lambda: mlp(nn.Tanh), (5,))
    net, x = case.network(), case.center(1)
    model = case.model(net, x)
    rows, lower = rows_of(model, case, torch.float64), x.reshape(1, -1)
    for method in ("CROWN", "RecurJac"):
        found = bounder(model, rows, parse(method), case.shape, lower, lower + 0.1, "jacobian")
        assert isinstance(found, HostBounder)
    with pytest.raises(rj.InputError, match="'crown'` needs CROWN's linear bounds"):
        bounder(model, rows, parse("CROWN"), case.shape, lower, lower + 0.1, "crown")


@torch.no_grad()
def test_a_box_reaches_both_of_its_ends_from_its_rounded_middle():
    for dtype in (torch.float32, torch.float64):
        one = torch.tensor([[1.0, -1.0, 3.0, 1e-30]], dtype=dtype)
        low, high = torch.nextafter(one, one - 1), one
        known = Disjuncts(torch.ones(1, 1, dtype=torch.bool), one[:, 0])
        boxes = Boxes(torch.zeros(1, dtype=torch.int64), low, high, known)
        assert bool((boxes.center - boxes.radius <= low).all())
        assert bool((boxes.center + boxes.radius >= high).all())
        assert math.isfinite(float(boxes.radius.max()))
