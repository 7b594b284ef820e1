"""Bounds of networks whose functions are written out: the Jacobian of torch's own functions lies inside.

On wide, narrow and far-off regions, in both number types, against samples and ascent in float64.
"""

from __future__ import annotations

import pytest
import torch
from cases import Case, Net, head, hosted, parametrized
from oracle import Ball, assert_encloses, jacobian, truth
from torch import nn
from torch.nn import functional

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03


def pair(function, wide=6, out=6):
    """A function between two layers."""
    return lambda: Net(lambda s, x: s.c(function(s.a(x))), a=nn.Linear(4, wide), c=head(out))


def unrolled(cell):
    def forward(s, x):
        h = s.start(x[:, 0])
        for t in range(2):
            h = s.cell(x[:, t], h)
        return s.out(h)

    return lambda: Net(forward, cell=cell(2, 3), start=nn.Linear(2, 3), out=nn.Linear(3, 2))


def images(*layers, size):
    return lambda: nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.Tanh(), *(make() for make in layers), nn.Flatten(), nn.Linear(size, 2)
    )


def van_der_pol(s, x):
    a, b = x[:, 0], x[:, 1]
    return torch.stack([b, (1 - a**2) * b - a], dim=1)


def cart_pole(s, x):
    angle, speed, force = x[:, 0], x[:, 1], s.u(x).squeeze(1)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    t = (force + 0.05 * speed**2 * sine) / 1.1
    acceleration = (9.8 * sine - cosine * t) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    return torch.stack([speed, acceleration, t], dim=-1)


def max_min(z):
    a, b = z.chunk(2, 1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


def changed_in_place(z):
    y = z.clone()
    y[:, 0] = torch.tanh(z[:, 1])
    y[:, 1:3] *= z[:, 3:5]
    y[:, -1] = 0.3
    found = torch.zeros(z.shape[0], 6, dtype=z.dtype)
    found[:, ::2] = y[:, :3]
    found[:, 1::2] = y[:, 3:].sigmoid()
    return found


def determinants(z):
    return torch.cat([z[:, :4].unflatten(1, (2, 2)).det().unsqueeze(1), z[:, 4:]], 1)


def attended(s, x):
    return s.out(s.attention(x, x, x)[0].flatten(1))


def causal(s, x):
    scores = s.q(x) @ s.k(x).transpose(1, 2)
    later = torch.ones(3, 3, dtype=torch.bool).triu(1)
    return s.out((torch.softmax(scores.masked_fill(later, -torch.inf), -1) @ x).flatten(1))


CASES = [
    Case("numbers_per_sample", lambda: Net(van_der_pol), (2,), prefix_03="IBP+"),
    Case("dynamics", lambda: Net(cart_pole, u=nn.Linear(2, 1)), (2,)),
    Case("unit_vectors", pair(lambda z: z / torch.sqrt((z * z).sum(-1, keepdim=True) + 0.5)), (4,)),
    Case("rms_norm", pair(lambda z: functional.rms_norm(z, (6,), eps=0.3)), (4,)),
    Case("group_norm", images(lambda: nn.GroupNorm(2, 4, eps=0.2), size=36), (2, 3, 3), prefix_03="IBP+"),
    Case("instance_norm", images(lambda: nn.InstanceNorm2d(4, eps=0.2), size=36), (2, 3, 3)),
    Case("standard_deviation", pair(lambda z: torch.tanh(z).std(1, keepdim=True), out=1), (4,)),
    Case("norm", pair(lambda z: torch.linalg.vector_norm(z + 3, dim=1, keepdim=True), out=1), (4,)),
    Case("sort", pair(lambda z: torch.sort(z, 1)[0]), (4,)),
    Case("group_sort", pair(lambda z: z.unflatten(1, (2, 3)).sort(-1, descending=True)[0].flatten(1)), (4,)),
    Case("max_min", pair(max_min), (4,)),
    Case("top_k", pair(lambda z: z.topk(2, 1)[0], out=2), (4,)),
    Case("glu", pair(lambda z: functional.glu(z, 1), out=3), (4,)),
    Case("log_sum_exp", pair(lambda z: torch.logsumexp(z, 1, keepdim=True), out=1), (4,)),
    Case("log_softmax", pair(lambda z: functional.log_softmax(z, 1)), (4,)),
    Case("running_sum", pair(lambda z: torch.tanh(z).cumsum(1)), (4,)),
    Case("masked", pair(lambda z: torch.where(torch.arange(6) % 2 == 0, z.tanh(), z)), (4,)),
    Case("two_slopes", pair(lambda z: torch.where(z > 0, z, 0.1 * z)), (4,)),
    Case("softshrink", pair(lambda z: functional.softshrink(z, 0.2)), (4,)),
    Case("clamped_from_below", pair(lambda z: z.clamp(min=-0.1)), (4,)),
    Case("sinh", pair(torch.sinh), (4,), prefix_03="IBP+"),
    Case("cosh", pair(torch.cosh), (4,), prefix_03="IBP+"),
    Case("angle", pair(lambda z: torch.atan2(z, z.sigmoid() + 1)), (4,)),
    Case("einsum", lambda: Net(lambda s, x: torch.einsum("bi,ji,bj->b", x, s.a.weight, s.b(x).tanh()).unsqueeze(1),
         a=nn.Linear(4, 3), b=nn.Linear(4, 3)), (4,)),
    Case("bilinear", lambda: Net(lambda s, x: s.b(x, x.tanh()), b=nn.Bilinear(4, 4, 2)), (4,)),
    Case("repeated", pair(lambda z: z.repeat(1, 2).tanh(), out=12), (4,)),
    Case("attention", lambda: Net(attended, attention=nn.MultiheadAttention(4, 2, batch_first=True),
         out=nn.Linear(12, 2)), (3, 4)),
    Case("causal_attention", lambda: Net(causal, q=nn.Linear(4, 2), k=nn.Linear(4, 2), out=nn.Linear(12, 2)), (3, 4)),
    Case("elu_written_out", pair(lambda z: torch.where(z > 0, 1.5 * z, 0.7 * (torch.exp(z) - 1))), (4,)),
    Case("gru_cell", unrolled(nn.GRUCell), (2, 2)),
    Case("lstm", lambda: Net(lambda s, x: s.out(s.lstm(x)[0][:, 1]), lstm=nn.LSTM(2, 3, batch_first=True),
         out=nn.Linear(3, 2)), (2, 2), prefix_03="IBP+"),
    Case("upsample", images(lambda: nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU, size=144), (2, 3, 3),
         prefix_03="IBP+"),
    Case("pixel_shuffle", images(lambda: nn.PixelShuffle(2), nn.ReLU, size=36), (2, 3, 3)),
    Case("max_pool_ceil", images(lambda: nn.MaxPool2d(2, ceil_mode=True), size=16), (2, 3, 3)),
    Case("adaptive_average", images(lambda: nn.AdaptiveAvgPool2d(2), nn.ReLU, size=16), (2, 3, 3), prefix_03="IBP+"),
    Case("padded_by_reflection", images(lambda: nn.Conv2d(4, 2, 2, padding=1, padding_mode="reflect"), nn.ReLU,
         size=32), (2, 3, 3)),
    Case("changed_in_place", pair(changed_in_place), (4,)),
    Case("determinants", pair(determinants, out=3), (4,)),
    Case("orthogonal", lambda: nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 6)), nn.Tanh(), head(6)),
         (4,)),
    Case("volumes", lambda: nn.Sequential(nn.Conv3d(2, 4, 2, 1, (1, 0, 1), groups=2), nn.Tanh(), nn.Conv3d(4, 2, 2),
         nn.Flatten(), head(8)), (2, 2, 3, 2)),
    Case("transposed_with_groups", images(lambda: nn.ConvTranspose2d(4, 4, 2, 2, 1, 1, groups=2), nn.ReLU, size=100),
         (2, 3, 3)),
    Case("transposed_line", lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.ConvTranspose1d(3, 2, 3, 2, 1, 1),
         nn.Flatten(), head(16)), (2, 5)),
    Case("max_pool_of_a_line", lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.MaxPool1d(2), nn.Flatten(), head(6)),
         (2, 5)),
]  # fmt: skip

CASES = [Case(**{**vars(case), "taught": True}) for case in CASES]


@torch.no_grad()
def bounds_of(case, model, region, rule):
    rj.register()
    try:
        return rj.jacobian_bounds(model, region.perturbed(), method=case.method(rule))
    finally:
        rj.unregister()


@parametrized(CASES)
@pytest.mark.parametrize("radius", [0.1, 1e-5])
def test_jacobians_lie_inside(case, radius):
    net, center, model = hosted(case)
    region = Ball(center, radius)
    values = truth(net, region)
    for rule in rj.METHODS:
        bounds = bounds_of(case, model, region, rule)
        assert_encloses(bounds.lower, bounds.upper, values, case.slack)
    if radius < 1e-3:
        exact = jacobian(net, center)
        assert (bounds.upper - bounds.lower).max() <= 0.05 * exact.abs().max()


@parametrized(CASES)
def test_far_off_and_in_float32(case):
    net, center, model = hosted(case, dtype=torch.float32)
    where = (1 + 0.2 * center) * (2 if case.name == "dynamics" else 4)
    bounds = bounds_of(case, model, Ball(where, 0.02), "RecurJac")
    assert bounds.lower.dtype == torch.float32
    region = Ball(where.double(), 0.02)
    values = truth(net.double(), region, count=30, targets=3)
    net.float()
    assert_encloses(bounds.lower, bounds.upper, values, slack=2e-5)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("prefix", ["IBP+"] if IS_03 else ["", "IBP+"])  # 0.3 wants an axis for CROWN
def test_one_number_per_sample_is_an_output(prefix):
    """It is bounded as a vector of length 1."""
    net = Net(lambda s, x: torch.tanh(s.a(x))[:, 0] * x[:, 1], a=nn.Linear(4, 3)).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    model, region = rj.host.BoundedModule(net, x), Ball(x, 0.2)
    values = truth(Net(lambda s, x: s.f(x).unsqueeze(1), f=net), region)
    bounds = rj.jacobian_bounds(model, region.perturbed(), method=prefix + "RecurJac")
    assert bounds.lower.shape == (2, 1, 4)
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), values)
    lower, upper = rj.output_bounds(model, region.perturbed(), method=prefix + "RecurJac")
    for point in region.sample(30):
        assert bool(((lower <= net(point).unsqueeze(1) + 1e-12) & (net(point).unsqueeze(1) <= upper + 1e-12)).all())


@pytest.mark.usefixtures("registered")
def test_numbers_per_sample_beside_the_features_are_refused():
    """`(b,) * (b, b)` multiplies samples with each other."""
    model = rj.host.BoundedModule(Net(lambda s, x: x[:, 0] * x), torch.rand(3, 3))
    with pytest.raises(rj.UnsupportedError, match=r"it aligns one number per sample.*`x\[:, 0:1\]`"):
        rj.jacobian_bounds(model, Ball(torch.rand(3, 3), 0.1).perturbed())


@pytest.fixture
def registered():
    rj.register()
    yield
    rj.unregister()
