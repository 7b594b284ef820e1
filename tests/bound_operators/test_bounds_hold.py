"""Values of the module in float64 lie inside the host's bounds, whatever the operator, its use, and the interval."""

from __future__ import annotations

import warnings

import pytest
import torch
from operator_kinds import KINDS, Operator, regions
from oracle import Box
from torch import nn

from recurjac_plugin.bound_operators.installation import installed
from recurjac_plugin.host import IS_03, BoundedModule
from recurjac_plugin.preactivations.host import _host_settings

pytestmark = pytest.mark.usefixtures("registered")
METHODS = ("IBP", "CROWN-IBP", "CROWN", "alpha-CROWN")
ROWS = 4


def built(net, x):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.onnx")
        return BoundedModule(net, torch.zeros_like(x), bound_opts={"optimize_bound_args": {"iteration": 3}})


def bounded(model, lower, upper, rows, method):
    """The host's bounds by a method, with our operators."""
    with _host_settings(method, lower.dtype), installed():
        low, high = model.compute_bounds(x=(Box(lower, upper).perturbed(),), C=rows, method=method)
    return low.detach(), high.detach()


def optimisable(model):
    """Whether alpha-CROWN has anything to do; 0.3 fails where it has not."""
    return not IS_03 or bool(model.optimizable_activations)


def extremes(net, lower, upper, rows):
    """Smallest and largest values of the rows found: at random points, at corners, and by ascent from the best."""
    lower, upper = lower.double(), upper.double()
    share = torch.rand(200, *lower.shape, dtype=torch.float64)
    share[:120] = share[:120].round()
    points = Box(lower, upper).project(lower + share * (upper - lower))

    def values(points):  # (n, b, *shape) -> (n, b, rows)
        return torch.einsum("bkj,nbj->nbk", rows.double(), net(points.flatten(0, 1)).unflatten(0, points.shape[:2]))

    with torch.no_grad():
        found = values(points)
    ends = []
    for sign in (-1, 1):
        best = (sign * found).amax(0)  # (b, rows)
        start = (sign * found).argmax(0).T  # (rows, b)
        x = torch.stack([points[start[k], torch.arange(len(lower))] for k in range(rows.shape[1])])
        for step in (0.5, 0.25, 0.1, 0.03):
            x = x.detach().requires_grad_()
            value = sign * torch.diagonal(values(x), dim1=0, dim2=2)  # (b, rows)
            (gradient,) = torch.autograd.grad(value.sum(), x)
            x = Box(lower, upper).project(x + step * gradient.sign() * (upper - lower)).detach()
            with torch.no_grad():
                best = torch.maximum(best, sign * torch.diagonal(values(x), dim1=0, dim2=2))
        ends.append(sign * best.detach())
    return ends


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_values_lie_inside(name, dtype):
    kind = KINDS[name]
    if kind.not_03 if IS_03 else kind.not_07:
        pytest.skip("the host cannot build it")
    torch.manual_seed(0)
    net = Operator(kind).to(dtype)
    lower, upper = regions(kind, dtype)
    size = net(lower).shape[1]
    rows = torch.cat((torch.eye(size)[None, :1].expand(len(lower), -1, -1), torch.randn(len(lower), ROWS, size)), 1)
    rows = rows.to(dtype)
    model = built(net, lower)
    exact = Operator(kind).double()
    exact.load_state_dict({key: value.double() for key, value in net.state_dict().items()})
    smallest, largest = extremes(exact, lower, upper, rows)
    terms = rows.double().abs().sum(2) * exact(lower.double()).abs().amax(1, keepdim=True).detach()
    far = torch.maximum(lower.abs(), upper.abs()).double().flatten(1).amax(1, keepdim=True)
    for method in METHODS if optimisable(model) else METHODS[:3]:
        low, high = bounded(model, lower, upper, rows, method)
        # What the sums of the pass itself, outside of the operator, are off by.
        slack = 8 * torch.finfo(dtype).eps * (terms + rows.double().abs().sum(2) * far)
        assert bool((low.double() <= smallest + slack).all()), (method, float((low - smallest - slack).max()))
        assert bool((high.double() >= largest - slack).all()), (method, float((largest - slack - high).max()))
        assert low.isfinite().all() and high.isfinite().all(), method


class Between(nn.Module):
    """An operator between dense layers, and a ReLU with its kink inside its values behind it."""

    def __init__(self, kind, size):
        super().__init__()
        numel = torch.Size(kind.shape).numel()
        self.kind, self.before, self.operator = kind, nn.Linear(4, numel), Operator(kind)
        self.after = nn.Linear(size, 5)

    def forward(self, x):
        return self.after(self.operator(self.before(x).reshape(-1, *self.kind.shape))).relu()


@pytest.mark.parametrize("name", KINDS)
def test_a_kink_behind_is_not_missed(name):
    """Bounds that end too early make a ReLU look stable."""
    kind = KINDS[name]
    if kind.not_03 if IS_03 else kind.not_07:
        pytest.skip("the host cannot build it")
    torch.manual_seed(0)
    offset = kind.offsets[0]
    size = Operator(kind)(torch.full((1, *kind.shape), offset)).shape[1]
    net = Between(kind, size).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    rows = torch.eye(5, dtype=torch.float64).unsqueeze(0)
    with torch.no_grad():
        net.before.bias += offset - 0.5 * net.before(x)[0] * (offset > 0)
        net.before.weight *= 0.5
    for eps in (0.0, 1e-12, 1e-10, 1e-9, 3e-8, 1e-6, 1e-2):
        with torch.no_grad():
            net.after.bias -= net.after(net.operator(net.before(x).reshape(-1, *kind.shape)))[0]
        model = built(net, x)
        smallest, largest = extremes(net, x - eps, x + eps, rows)
        for method in METHODS[:3]:
            low, high = bounded(model, x - eps, x + eps, rows, method)
            slack = 1e-12
            assert bool((low <= smallest + slack).all() & (high >= largest - slack).all()), (method, eps)
