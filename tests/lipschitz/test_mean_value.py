"""Output bounds by the mean value theorem; and that no call changes the model, or the gradients of its weights."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BY_NAME, hosted
from oracle import Ball, Box, assert_encloses, outputs

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule
from recurjac_plugin.jacobian.methods import ON_GIVEN_BOUNDS

NAMES = ["relu", "mixed", "conv2d_stride", "skip_from_input", "residual_convolutions"]
REGIONS = {
    "l1": lambda x: Ball(x, 0.5, 1.0),
    "l2": lambda x: Ball(x, 0.3, 2.0),
    "linf": lambda x: Ball(x, 0.1),
    "linf_per_sample": lambda x: Ball(x, torch.tensor([0.02, 0.2], dtype=x.dtype)),
    "box": lambda x: Box(x - 0.2 * torch.rand_like(x), x + 0.1 * (torch.rand_like(x) > 0.5)),
    "point": lambda x: Ball(x, 0.0),
}


@torch.no_grad()
def bounds_of(model, region, **options):
    return rj.output_bounds(model, region.perturbed(), **options)


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_lie_within(name, kind):
    net, center, model = hosted(name)
    region = REGIONS[kind](center)
    C = torch.randn(1, 2, outputs(net, center[None]).shape[2], dtype=torch.float64)
    values = outputs(net, region.sample(400))
    for rule in (*rj.METHODS, "RecurJac+CROWN"):
        for steps in (1, 3):
            lower, upper = bounds_of(model, region, method=rule, steps=steps)
            assert_encloses(lower, upper, values)
    lower, upper = bounds_of(model, region, C=C)
    assert_encloses(lower, upper, outputs(net, region.sample(400), C.expand(2, -1, -1)))


@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_per_sample_radii_in_the_euclidean_norm(name):
    net, center, model = hosted(name)
    region = Ball(center, torch.tensor([0.05, 0.5], dtype=center.dtype), 2.0)
    for steps in (1, 4):
        lower, upper = bounds_of(model, region, steps=steps)
        assert_encloses(lower, upper, outputs(net, region.sample(400)))
        assert float((upper - lower)[0].max()) < float((upper - lower)[1].min())  # a tenth of the radius


@pytest.mark.parametrize("prefix", ["", "IBP+", "CROWN-IBP+"])
def test_intersection_with_crown(prefix):
    for name in ("relu", "mixed"):
        _, center, model = hosted(name)
        region = Ball(center, 0.15)
        ours = bounds_of(model, region, method=prefix + "RecurJac")
        both = bounds_of(model, region, method=prefix + "RecurJac+CROWN")
        host = bounds_of(model, region, method="CROWN" if prefix == "" else "CROWN-IBP")
        if prefix != "IBP+":  # with IBP the pre-activation bounds of the two differ in origin, not in value
            assert torch.allclose(both[0], torch.maximum(ours[0], host[0]), rtol=0, atol=1e-12)
            assert torch.allclose(both[1], torch.minimum(ours[1], host[1]), rtol=0, atol=1e-12)
        assert bool((both[0] >= host[0] - 1e-12).all() & (both[1] <= host[1] + 1e-12).all())


@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_more_steps_are_tighter_on_the_whole(name):
    """Smaller balls have smaller constants: the sum over nested balls gains, up to jumps of the host's bounds."""
    _, center, model = hosted(name)
    widths = [float((lambda b: (b[1] - b[0]).sum())(bounds_of(model, Ball(center, 0.3), steps=n))) for n in (1, 2, 8)]
    assert widths[0] > widths[1] > widths[2]


def test_point_is_the_output():
    net, center, model = hosted("mixed")
    exact = outputs(net, center[None])[0]
    for norm in (1.0, 2.0, math.inf):
        lower, upper = bounds_of(model, Ball(center, 0.0, norm))
        assert torch.allclose(lower, exact, rtol=0, atol=1e-12)
        assert torch.allclose(upper, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "2", None])
def test_steps_must_count(steps):
    _, center, model = hosted("relu")
    with pytest.raises(rj.InputError, match="steps"):
        bounds_of(model, Ball(center, 0.1), steps=steps)


def snapshot(value, seen=()):
    """Everything reachable from a model's nodes, as comparable data: tensors by value, modules by their state."""
    if id(value) in seen:
        return "..."
    seen = (*seen, id(value))
    if isinstance(value, torch.Tensor):
        return ("tensor", value.dtype, tuple(value.shape), value.requires_grad, value.detach().flatten().tolist())
    if isinstance(value, dict):
        return {str(key): snapshot(item, seen) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return type(value).__name__, [snapshot(item, seen) for item in value]
    if isinstance(value, torch.nn.Module):
        return ("module", id(value))
    if isinstance(value, (str, int, float, bool, type(None), torch.Size, torch.dtype)):
        return repr(value)
    return ("object", type(value).__name__, id(value))


def state_of(model):
    # Tables of tangent points are made in the model's precision once; they hold no result.
    tables = {"d_lower", "d_upper"}
    return {
        getattr(module, "name", "model"): {k: snapshot(v) for k, v in vars(module).items() if k not in tables}
        for module in (model, *model._modules.values())
    }


def refused(model, x):
    with pytest.raises(rj.InputError):
        rj.jacobian_bounds(model, x, C=torch.zeros(1, 1, 99))


CALLS = {
    "jacobian": lambda model, x: rj.jacobian_bounds(model, x),
    "jacobian_ibp": lambda model, x: rj.jacobian_bounds(model, x, method="IBP+RecurJac"),
    "lipschitz": lambda model, x: rj.local_lipschitz(model, x, method="RecurJac-Linear", per_output=True),
    "output": lambda model, x: rj.output_bounds(model, x, method="RecurJac+CROWN", steps=2),
    "host_method": lambda model, x: rj.output_bounds(model, x, method="CROWN"),
    "refused": refused,
}
STATEFUL = [
    "relu",
    "mixed",
    "concat_input",
    "gather",
    "split",
    "transpose",
    "average_pool",
    "reduce_mean_keep",
    "slice",
    "batch_norm1d",
    "constant_shape",
]


@pytest.mark.parametrize("after_host", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("name", STATEFUL)
def test_model_is_left_as_it_was(name, after_host):
    """Down to every attribute of every node; and the host's next call gives what it gave before."""
    case = BY_NAME[name]
    net, center = case.network(), case.center()
    model, region = case.model(net, center), Ball(center, 0.1)
    method = (case.method("") and "IBP") or "CROWN"
    if after_host:
        model.compute_bounds(x=(region.perturbed(),), method="IBP")
    before = state_of(model)
    x = region.perturbed()
    for call, function in CALLS.items():
        if case.method("") and call not in ("jacobian_ibp", "refused"):
            continue
        if name == "mixed" and call == "jacobian":
            function(model, x)  # makes the tables
            before = state_of(model) if not after_host else before
        function(model, x)
        after = state_of(model)
        assert after.keys() == before.keys()
        for node in after:
            assert after[node] == before[node], f"{call} changed `{node}`"
    assert torch.equal(x, center)
    fresh = case.model(net, center)
    torch.set_default_dtype(torch.float64)
    try:
        try:
            expected = fresh.compute_bounds(x=(region.perturbed(),), method=method)
        except (IndexError, RuntimeError):
            assert IS_03  # which cannot bound all of them without our operators
            return
        found = model.compute_bounds(x=(region.perturbed(),), method=method)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_parameters_get_no_gradients_and_stay():
    case = BY_NAME["mixed"]
    net, center = case.network(), case.center()
    before = [p.detach().clone() for p in net.parameters()]
    model = case.model(net, center)
    rj.jacobian_bounds(model, Ball(center, 0.1).perturbed())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before))


@pytest.mark.parametrize("rule", ON_GIVEN_BOUNDS)
@pytest.mark.parametrize("name", ["leaky_relu", "mixed"])
def test_gradients_of_the_weights(name, rule):
    """Against finite differences along random directions of all weights."""
    case = BY_NAME[name]
    net, center = case.network(), case.center()
    region, weights = Ball(center, 0.05), list(net.parameters())
    model = BoundedModule(net, center)  # in evaluation mode the host gives no gradients
    direction = [torch.randn_like(p) for p in weights]
    mix = torch.randn(2, 3, 5, dtype=torch.float64)

    def value():
        lower, upper = rj.jacobian_bounds(model, region.perturbed(), method="IBP+" + rule)
        constant = rj.local_lipschitz(model, region.perturbed(), method="IBP+" + rule)
        return (mix * lower).sum() + (mix.flip(0) * upper).sum() + constant.sum()

    gradient = torch.autograd.grad(value(), weights, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(gradient, direction) if g is not None)
    step = 1e-6
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(weights, direction):
                p += sign * step * d
            if sign == 1:
                above = float(value())
        below = float(value())
    assert abs(slope) > 1e-3
    assert math.isclose(slope, (above - below) / (2 * step), rel_tol=1e-4)


def test_gradients_through_crown():
    """The host's default bounds are differentiable too, and their gradients arrive."""
    case = BY_NAME["leaky_relu"]
    net, center = case.network(), case.center()
    model = BoundedModule(net, center)
    lower, upper = rj.jacobian_bounds(model, Ball(center, 0.05).perturbed())
    (upper - lower).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters() if p.dim() > 1)
    assert any(bool((p.grad != 0).any()) for p in net.parameters() if p.grad is not None)
    with torch.no_grad():
        bounds = rj.jacobian_bounds(model, Ball(center, 0.05).perturbed())
    assert not bounds.upper.requires_grad
