"""Values that hold the batch elsewhere than in their first axis: the same function, for batches of any length."""

from __future__ import annotations

import math

import pytest
import torch
from cases import Case, Net, hosted, parametrized
from oracle import Ball, assert_encloses, jacobian, truth
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import recurjac_plugin as rj
from recurjac_plugin.forms.batch.values import is_lifted
from recurjac_plugin.forms.marks import depends, mark_as_input
from recurjac_plugin.forms.writing import Writing


def heads_in_the_batch(s, x):
    """Attention as it was written before torch had any."""
    b, n, d = x.shape
    q, k, v = (each(x).view(b, n, 2, d // 2).transpose(1, 2).reshape(b * 2, n, d // 2) for each in (s.q, s.k, s.v))
    shares = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(d // 2), -1)
    return s.out(torch.bmm(shares, v).view(b, 2, n, d // 2).transpose(1, 2).reshape(b, n, d).flatten(1))


def parts_in_front(s, x):
    """Attention as in timm."""
    b, n, c = x.shape
    q, k, v = s.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    shares = ((q * (c // 2) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
    return s.out((shares @ v).transpose(1, 2).reshape(b, n, c).mean(1))


def fused_attention(s, x):
    b, n, c = x.shape
    qkv = s.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
    with sdpa_kernel(SDPBackend.MATH):  # of others torch has no second derivatives
        found = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
    return s.out(found.transpose(1, 2).reshape(b, n, c)[:, 0])


def steps_first(s, x):
    y = torch.tanh(s.first(x.transpose(0, 1))) * s.scale
    y = s.norm(s.attention(y, y, y)[0] + s.places[: x.size(1)].unsqueeze(1))
    return s.out(y.permute(1, 0, 2).flatten(1))


def images_of_steps(s, x):
    b, t = x.shape[:2]
    y = functional.relu(s.norm(s.conv(x.reshape(b * t, 1, 4, 4))))
    return s.out(s.layer(functional.max_pool2d(y, 2).flatten(1)).view(b, t, -1).mean(1))


def pixels(s, x):
    b, c, h, w = x.shape
    y = s.last(torch.tanh(s.first(x.permute(0, 2, 3, 1).reshape(-1, c))))
    return y.reshape(b, h, w, -1).permute(0, 3, 1, 2).flatten(1)


def heads_before_the_batch(s, x):
    b, n, d = x.shape
    y = torch.tanh(s.layer(x.view(b, n, 2, d // 2).permute(2, 0, 1, 3).reshape(2 * b, n, d // 2)))
    return s.out(torch.bmm(y, y.transpose(1, 2)).view(2, b, n, n).permute(1, 0, 2, 3).flatten(1))


def members_stacked(s, x):
    return torch.stack([member(x) for member in s.members]).logsumexp(0)


def columns(s, x):
    return s.out(torch.tanh(s.weight @ x.t()).t())


def several_weights(s, x):
    return s.out(torch.tanh(x.unsqueeze(0) * s.weight.unsqueeze(1)).sum(-1).transpose(0, 1))


def masked(s, x):
    b, n, _ = x.shape
    y = torch.cat([x.transpose(0, 1), s.layer(x).transpose(0, 1)], -1).masked_fill(torch.arange(6) % 2 == 0, 0.3)
    first, second = y.reshape(n * b, 6).split(3, -1)
    y = torch.maximum(first, second).reshape(n, b, 3) - torch.ones(n * b, 3, dtype=x.dtype).reshape(n, b, 3)
    return s.out(torch.stack([y, y.exp()], 1).sum((0, 1)))


def attention(**layers):
    return {"q": nn.Linear(4, 4), "k": nn.Linear(4, 4), "v": nn.Linear(4, 4), **layers}


NETWORKS = [
    ("heads_in_the_batch", heads_in_the_batch, lambda: attention(out=nn.Linear(12, 2)), (3, 4)),
    ("parts_in_front", parts_in_front, lambda: {"qkv": nn.Linear(4, 12), "out": nn.Linear(4, 2)}, (3, 4)),
    ("fused_attention", fused_attention, lambda: {"qkv": nn.Linear(4, 12), "out": nn.Linear(4, 2)}, (3, 4)),
    ("steps_first", steps_first, lambda: {
        "first": nn.Linear(4, 4), "scale": torch.randn(3, 1, 4), "attention": nn.MultiheadAttention(4, 2),
        "norm": nn.LayerNorm(4, eps=0.3), "places": torch.randn(5, 4), "out": nn.Linear(12, 2)}, (3, 4)),
    ("images_of_steps", images_of_steps, lambda: {
        "conv": nn.Conv2d(1, 2, 3, padding=1), "norm": nn.BatchNorm2d(2), "layer": nn.Linear(8, 3),
        "out": nn.Linear(3, 2)}, (3, 4, 4)),
    ("pixels", pixels, lambda: {"first": nn.Linear(2, 5), "last": nn.Linear(5, 1)}, (2, 3, 3)),
    ("heads_before_the_batch", heads_before_the_batch, lambda: {"layer": nn.Linear(2, 2), "out": nn.Linear(18, 2)},
     (3, 4)),
    ("members_stacked", members_stacked, lambda: {
        "members": nn.ModuleList([nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(3)])},
     (4,)),
    ("columns", columns, lambda: {"weight": nn.Parameter(torch.randn(3, 4)), "out": nn.Linear(3, 2)}, (4,)),
    ("several_weights", several_weights, lambda: {"weight": nn.Parameter(torch.randn(3, 4)), "out": nn.Linear(3, 2)},
     (4,)),
    ("masked", masked, lambda: {"layer": nn.Linear(3, 3), "out": nn.Linear(3, 2)}, (2, 3)),
]  # fmt: skip


def network(forward, parts):
    parts = parts()
    net = Net(forward, **{key: value for key, value in parts.items() if isinstance(value, nn.Module)})
    for key, value in parts.items():
        if isinstance(value, nn.Parameter):
            net.register_parameter(key, value)
        elif not isinstance(value, nn.Module):
            net.register_buffer(key, value)
    return net


CASES = [
    Case(name, lambda forward=forward, parts=parts: network(forward, parts), shape, taught=True)
    for name, forward, parts, shape in NETWORKS
]


@pytest.mark.parametrize("batch", [1, 2, 3])
@parametrized(CASES)
def test_written_out_it_is_the_same_function(case, batch):
    """The result has the batch first, and nothing that holds it elsewhere is left over."""
    net, x = case.network(), case.center(batch)
    again = x.clone().requires_grad_()
    mark_as_input(again)
    with Writing(batch=batch):
        written = net(again)
    assert not is_lifted([written]) and depends(written)
    assert torch.allclose(written, net(x), rtol=1e-9, atol=1e-12)
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        (own,) = torch.autograd.grad(net(x).square().sum(), x)
    (other,) = torch.autograd.grad(written.square().sum(), again)
    assert torch.allclose(other, own, rtol=1e-7, atol=1e-9)


def bounds_of(case, model, region, rule):
    rj.register()
    try:
        with torch.no_grad():
            try:
                return rj.jacobian_bounds(model, region.perturbed(), method=rule)
            except rj.UnsupportedError:
                return rj.jacobian_bounds(model, region.perturbed(), method="IBP+" + rule)
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
        assert (bounds.upper - bounds.lower).max() <= 0.05 * jacobian(net, center).abs().max()


@parametrized(CASES)
def test_far_off_and_in_float32_and_another_batch(case):
    net, center, model = hosted(case, dtype=torch.float32)
    center = (1 + 0.2 * center) * 3
    center = torch.cat([center, center[:1] + 0.5])  # three samples on a model that was made with two
    bounds = bounds_of(case, model, Ball(center, 0.02), "RecurJac")
    assert bounds.lower.dtype == torch.float32
    values = truth(net.double(), Ball(center.double(), 0.02), count=30, targets=3)
    net.float()
    assert_encloses(bounds.lower, bounds.upper, values, slack=2e-5)


MIXING = {
    "mean_over_the_batch": lambda x: x.transpose(0, 1).mean(1),
    "product_over_the_batch": lambda x: x.t() @ x,
    "softmax_over_the_batch": lambda x: x.t().softmax(1),
    "samples_exchanged": lambda x: x.reshape(3, 4) * 2,
    "one_sample": lambda x: x.t()[:, 0],
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_samples_is_refused(name):
    net = Net(lambda s, x: s.out(MIXING[name](torch.tanh(s.first(x)))), first=nn.Linear(2, 3), out=nn.Identity())
    rj.register()
    try:
        model = rj.host.BoundedModule(net, torch.randn(4, 2))
        with pytest.raises((rj.UnsupportedError, rj.InputError)):
            rj.jacobian_bounds(model, Ball(torch.randn(4, 2), 0.1).perturbed())
    finally:
        rj.unregister()
