"""Where CROWN has no way through an operator it ends there and begins anew; and what else it does without."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.bound_operators.kinds import stopping
from recurjac_plugin.host import IS_03, Bound, BoundedModule, bound_op_map
from recurjac_plugin.host.region import perturbed_box

pytestmark = [pytest.mark.usefixtures("registered"), pytest.mark.filterwarnings("ignore")]


class Wave(torch.autograd.Function):
    """A function of the user's, of which the host has nothing but intervals."""

    @staticmethod
    def symbolic(graph, x):
        return graph.op("custom::Wave", x)

    @staticmethod
    def forward(context, x):
        return x * torch.sin(3 * x)


class BoundWave(Bound):
    def forward(self, x):
        return x * torch.sin(3 * x)

    def interval_propagate(self, *v):
        low, high = v[0]
        grid = torch.stack([torch.lerp(low, high, part) for part in torch.linspace(0, 1, 65, dtype=low.dtype)])
        value = self.forward(grid)
        room = (high - low) / 64 * (1 + 3 * torch.maximum(low.abs(), high.abs())) + 1e-6 * (1 + value.abs().amax(0))
        return value.amin(0) - room, value.amax(0) + room


@pytest.fixture
def waves():
    bound_op_map["custom::Wave"] = BoundWave
    yield
    del bound_op_map["custom::Wave"]


class Network(nn.Module):
    def __init__(self, at_the_end):
        super().__init__()
        torch.manual_seed(1)
        self.before = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5))
        self.behind = nn.Identity() if at_the_end else nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.behind(Wave.apply(self.before(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("at_the_end", [True, False])
def test_layers_around_an_operator_without_a_rule_keep_crown(waves, at_the_end, dtype):
    network = Network(at_the_end).to(dtype)
    model = BoundedModule(network, torch.zeros(2, 4, dtype=dtype), bound_opts={"optimize_bound_args": {"iteration": 2}})
    for radius, place in ((1e-6, 0.0), (0.05, 0.0), (0.05, 20.0)):
        center = torch.randn(2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + place
        low, high = (center - radius).to(dtype), (center + radius).to(dtype)
        region = perturbed_box(low, high)
        with torch.no_grad():
            parts = torch.rand(400, 2, 4, dtype=torch.float64)
            exact = Network(at_the_end).double()
            exact.load_state_dict(network.state_dict())
            inside = low.double() + (high.double() - low.double()) * torch.cat([parts, parts.round()])
            values = exact(inside)
        found = {name: rj.output_bounds(model, region, method=name) for name in ("CROWN", "IBP", "alpha-CROWN")}
        slack = 1e3 * torch.finfo(dtype).eps * (1 + values.abs().max())
        for lower, upper in found.values():
            lower, upper = lower.double(), upper.double()
            assert bool(((values >= lower - slack) & (values <= upper + slack)).all())
        crown, intervals = (float((found[name][1] - found[name][0]).mean()) for name in ("CROWN", "IBP"))
        if radius == 0.05:
            assert crown < intervals / 4
    direct = model.compute_bounds(x=(region,), method="CROWN")
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(direct, found["CROWN"]))


def test_nothing_of_it_is_left_without_the_plugin(waves):
    rj.unregister()
    model = BoundedModule(Network(True), torch.zeros(1, 4))
    region = perturbed_box(torch.zeros(1, 4), torch.ones(1, 4))
    try:
        with pytest.raises(NotImplementedError):
            model.compute_bounds(x=(region,), method="CROWN")
        assert Bound.bound_backward is stopping.RULE
    finally:
        rj.register()


def images(operator):
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), operator, nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 3),
    )  # fmt: skip


class Shifted(nn.Module):
    """A constant with fewer axes than images have, with which the host's windows do not go along."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.5, -0.25]).reshape(2, 1, 1))

    def forward(self, x):
        return x + self.shift


@pytest.mark.parametrize("operator", [Shifted, lambda: nn.AvgPool2d(3, stride=1, padding=1)], ids=["shift", "pool"])
def test_windows_are_done_without_where_they_fail(operator):
    torch.manual_seed(2)
    network = images(operator())
    model, x = BoundedModule(network, torch.zeros(1, 1, 6, 6)), torch.randn(1, 1, 6, 6)
    before = {name: dict(vars(node)) for name, node in model._modules.items()}
    low, high = x - 0.05, x + 0.05
    lower, upper = rj.output_bounds(model, perturbed_box(low, high), method="CROWN")
    below, above = rj.output_bounds(model, perturbed_box(low, high), method="IBP")
    with torch.no_grad():
        values = network(low + 0.1 * torch.rand(2000, 1, 6, 6).round())
    assert bool(((values >= lower - 1e-4) & (values <= upper + 1e-4)).all())
    assert float((upper - lower).mean()) < float((above - below).mean()) / 2
    assert {name: node.get("mode") for name, node in before.items()} == {
        name: vars(node).get("mode") for name, node in model._modules.items()
    }


def test_a_node_on_which_the_host_fails_is_left_out_alone(monkeypatch):
    """Any operator may fail in the host's hands: here its sigmoid does, in the backward pass alone."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4), nn.Flatten(), nn.Linear(4, 3))
    model = BoundedModule(network, torch.zeros(1, 4))
    region = perturbed_box(torch.zeros(1, 4) - 0.2, torch.zeros(1, 4) + 0.2)
    whole = rj.output_bounds(model, region, method="CROWN")
    flatten = next(node for node in model._modules.values() if type(node).__name__ in ("BoundFlatten", "BoundReshape"))
    failed = []

    def fails(self, *args, **more):
        failed.append(self)
        raise RuntimeError("not here")

    rj.unregister()
    try:
        monkeypatch.setattr(type(flatten), "bound_backward", fails)
        lower, upper = rj.output_bounds(model, region, method="CROWN")
        below, above = rj.output_bounds(model, region, method="IBP")
    finally:
        monkeypatch.undo()  # before ours takes the place of what is there
        rj.register()
    assert failed
    assert bool((lower <= whole[0] + 1e-6).all() & (upper >= whole[1] - 1e-6).all())
    assert float((upper - lower).mean()) < float((above - below).mean())
    assert not any("recurjac_stopped" in vars(node) for node in model._modules.values())


DOMAINS = {
    "logistic": lambda z: 1 / (1 + torch.exp(z)),
    "softplus": lambda z: torch.log(1 + torch.exp(z)),
    "swish": lambda z: z / (1 + torch.exp(-z)),
    "norm": lambda z: torch.sqrt((z * z).sum(1, keepdim=True) + 0.1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", DOMAINS)
def test_intervals_of_an_argument_count_where_those_by_crown_leave_the_domain(name, dtype):
    class Curve(nn.Module):
        def forward(self, x):
            return DOMAINS[name](x)

    torch.manual_seed(4)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), Curve()).to(dtype)
    model = BoundedModule(network, torch.zeros(1, 3, dtype=dtype))
    center = torch.zeros(1, 3, dtype=dtype)
    for radius in (0.1, 1.0, 8.0):
        lower, upper = rj.output_bounds(model, perturbed_box(center - radius, center + radius), method="CROWN")
        with torch.no_grad():
            values = network(radius * (2 * torch.rand(4000, 3, dtype=dtype) - 1))
        slack = 1e-4 if dtype == torch.float32 else 1e-10
        assert bool(((values >= lower - slack) & (values <= upper + slack)).all())


@pytest.mark.skipif(not IS_03, reason="the host of this version writes intervals where they belong")
def test_a_relu_beside_a_negation_does_not_take_its_interval():
    """0.3 leaves the interval of the ReLU with what both read, from where the negation takes it."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6))
            self.last = nn.Linear(6, 2)

        def forward(self, x):
            y = self.first(x) * 3
            return self.last(torch.tanh(torch.relu(y)) - torch.tanh(torch.relu(-y)))

    for seed in range(5):
        torch.manual_seed(seed)
        network, x = Both(), 3 * torch.randn(1, 2)
        lower, upper = rj.output_bounds(BoundedModule(network, x), perturbed_box(x - 0.05, x + 0.05), method="CROWN")
        with torch.no_grad():
            values = network(x + 0.1 * torch.rand(500, 2) - 0.05)
        assert bool(((values >= lower - 1e-5) & (values <= upper + 1e-5)).all())
