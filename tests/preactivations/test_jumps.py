"""Bounds of networks that jump, on either side of the jumps: the host's, and those that are proven."""

from __future__ import annotations

import copy

import pytest
import torch
from jumping import NETWORKS, built, climbed, either_side

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule
from recurjac_plugin.host.region import perturbed_box

pytestmark = [pytest.mark.usefixtures("registered"), pytest.mark.filterwarnings("ignore")]

REGIONS = ((1e-9, 0.0), (1e-4, 50.0), (0.02, 0.0), (0.5, 0.0))  # radius, and distance from 0


def region(radius, place, dtype):
    torch.manual_seed(1)
    center = (torch.randn(1, 3, dtype=torch.float64) + place).to(dtype)
    return center - radius, center + radius


def judged(network, low, high):
    """The network in float64, and points where its outputs are extreme."""
    exact = copy.deepcopy(network).double()
    low, high = low[0].double(), high[0].double()
    size = exact(low.unsqueeze(0)).numel()
    rows = torch.cat([torch.eye(size)[:2], -torch.eye(size)[:2]]).double()
    with torch.no_grad():
        return exact(climbed(exact, either_side(exact, low, high, 40), low, high, rows, 6)).flatten(1)


@pytest.mark.parametrize("method", ["CROWN", "IBP", "alpha-CROWN"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_of_the_host_hold(name, dtype, method):
    if method == "alpha-CROWN" and name not in ("sign", "floor", "comparison"):
        pytest.skip("three are enough")
    network = built(name).to(dtype)
    options = {"optimize_bound_args": {"iteration": 2}}
    model = BoundedModule(network, torch.zeros(1, 3, dtype=dtype), bound_opts=options)
    widths = []
    for radius, place in REGIONS:
        low, high = region(radius, place, dtype)
        lower, upper = rj.output_bounds(model, perturbed_box(low, high), method=method)
        values = judged(network, low, high)
        slack = 64 * torch.finfo(dtype).eps * (1 + values.abs().max() + 50 * place)
        assert bool(((values >= lower.double() - slack) & (values <= upper.double() + slack)).all())
        widths.append(float((upper - lower).max()))
    assert min(widths) < 1e-3 * (1 + max(widths))  # where nothing jumps bounds are tight


@pytest.mark.parametrize("name", NETWORKS)
def test_proven_bounds_hold(name):
    network = built(name).double()
    model = BoundedModule(network, torch.zeros(1, 3, dtype=torch.float64))
    for radius, place in REGIONS:
        low, high = region(radius, place, torch.float64)
        lower, upper = rj.output_bounds(model, perturbed_box(low, high), method="CROWN", rigorous=True)
        values = judged(network, low, high)
        slack = 1e-13 * (1 + values.abs().max() + place)  # of the values
        assert bool(((values >= lower - slack) & (values <= upper + slack)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_number_that_rounding_may_move_to_the_other_side_is_on_both(dtype):
    """What cancels leaves nothing but rounding, which is larger than what is left."""
    eps = torch.finfo(dtype).eps
    network = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Module(), torch.nn.Linear(1, 1)).to(dtype)

    class Signs(torch.nn.Module):
        def forward(self, x):
            return torch.sign(x)

    network[1] = Signs()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        network[0].bias.fill_(2 * eps)
        network[2].weight.fill_(1.0)
        network[2].bias.fill_(0.0)
    model = BoundedModule(network, torch.zeros(1, 2, dtype=dtype))
    point = torch.full((1, 2), 1.0, dtype=dtype)
    for method in ("CROWN", "IBP"):
        lower, upper = rj.output_bounds(model, perturbed_box(point, point), method=method)
        assert float(lower) <= -1 + 1e-3
        assert float(upper) >= 1 - 1e-3
    lower, upper = rj.output_bounds(model, perturbed_box(0 * point, 0 * point + 0), method="CROWN", rigorous=True)
    assert float(lower) >= 1 - 1e-3  # in real arithmetic there is nothing to cancel


def test_errors_from_further_away_count():
    """Sums of float32 that cancel behind two layers: the last sum alone shows nothing of their rounding."""
    for seed in range(6):
        torch.manual_seed(seed)
        first, second, third = torch.nn.Linear(3, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 5)
        first.bias.data += 1e3
        second.weight.data *= 10
        x, radius = torch.randn(1, 3), 10.0 ** (seed % 3 - 5)

        class Signs(torch.nn.Module):
            def forward(self, x):
                return torch.sign(x)

        network = torch.nn.Sequential(
            first, torch.nn.ReLU(), second, torch.nn.ReLU(), third, Signs(), torch.nn.Linear(5, 2)
        )
        with torch.no_grad():
            before = copy.deepcopy(network[:4]).double()(x.double())
            third.bias.data = -(before @ third.weight.double().T).float()[0]
            exact = copy.deepcopy(network).double()
            low, high = (x - radius)[0].double(), (x + radius)[0].double()
            points = low + (high - low) * torch.rand(2000, 3, dtype=torch.float64)
            values = torch.cat([exact(points), network(points.float()).double()])
        model = BoundedModule(network, x)
        for method in ("CROWN", "IBP"):
            lower, upper = rj.output_bounds(model, perturbed_box(x - radius, x + radius), method=method)
            assert bool(((values >= lower.double() - 1e-5) & (values <= upper.double() + 1e-5)).all())


@pytest.mark.parametrize("name", ["sign", "floor", "where"])
def test_their_jacobian_is_refused_with_the_reason(name):
    network = built(name)
    model = BoundedModule(network, torch.zeros(1, 3))
    ball = perturbed_box(torch.zeros(1, 3) - 0.1, torch.zeros(1, 3) + 0.1)
    for call in (rj.jacobian_bounds, rj.local_lipschitz, rj.monotonicity, rj.output_bounds):
        with pytest.raises(rj.UnsupportedError, match=r"piecewise constant.*outputs have bounds by `CROWN`"):
            call(model, ball)
    plain, with_crown = (rj.output_bounds(model, ball, method=name) for name in ("CROWN", "RecurJac+CROWN"))
    assert all(torch.equal(a, b) for a, b in zip(plain, with_crown))
