"""Jacobians inside a model: values as autograd's, bounds that hold whatever follows, on both hosts."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import pytest
import torch
from cases import CASES, Net, mlp, on_host, parametrized
from jacobian_models import USES, J, Wrapped, built, inside
from oracle import Ball, Box, assert_encloses
from processes import environment, python
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.gains.blocks import Blocks
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT, ROWS
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import ON_GIVEN_BOUNDS, parse
from recurjac_plugin.lipschitz.norms import row_constants
from recurjac_plugin.passes.rules import recurjac_linear
from recurjac_plugin.plugin.jacobian_node import nodes_of
from recurjac_plugin.recursion.backward import backward_order
from recurjac_plugin.recursion.sums import upper_of_sums

pytestmark = pytest.mark.usefixtures("registered", "in_doubles")


def sampled(net, region, *others, count=90):
    return torch.stack([net(point.requires_grad_(), *others).detach() for point in region.sample(count)])


def require_enclosed(model, net, region, method, *others, slack=1e-9):
    lower, upper = model.compute_bounds(x=(region.perturbed(), *others), method=method)
    values = sampled(net, region, *[other.as_subclass(Tensor) for other in others])
    lower, upper = (bound.detach().reshape(values.shape[1:]) for bound in (lower, upper))
    assert_encloses(lower, upper, values, slack)
    return lower, upper, values


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Softplus], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("use", USES)
def test_values_and_bounds_of_what_follows(use, activation):
    net, x, model = built(use, activation)
    assert torch.allclose(model(x), net(x.clone().requires_grad_()), rtol=1e-12, atol=1e-14)
    other = torch.randn(3, 3, dtype=torch.float64)  # another batch size than the model was built with
    assert torch.allclose(model(other), net(other.clone().requires_grad_()), rtol=1e-12, atol=1e-14)
    for method in ("IBP", "CROWN-IBP", "CROWN") if use != "penalised" else ("IBP", "CROWN"):
        region = Ball(x, 0.15)
        lower, upper, values = require_enclosed(model, net, region, method)
        if activation is nn.Tanh:  # they say something
            assert float((upper - lower).mean()) < 60 * float((values.amax(0) - values.amin(0)).mean())
        require_enclosed(model, net, Ball(other, 0.05), method)
    lower, upper = model.compute_bounds(x=(Ball(x, 0.0).perturbed(),), method="CROWN")
    exact = net(x.clone().requires_grad_()).detach()
    for bound in (lower, upper):
        assert torch.allclose(bound.reshape(exact.shape), exact, rtol=0, atol=3e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("method", ["IBP", "CROWN"])
@pytest.mark.parametrize("use", ["jacobian", "lipschitz", "sub_network"])
@pytest.mark.parametrize("kind", ["l2", "box"])
def test_other_regions(kind, use, method):
    net, x, model = built(use)
    region = Ball(x, 0.2, 2.0) if kind == "l2" else Box(x - 0.1 * torch.rand_like(x), x + 0.2 * torch.rand_like(x))
    require_enclosed(model, net, region, method)


def elementwise(case):
    torch.manual_seed(0)
    net, x = case.network(), case.center(2, torch.float64)
    wrapped = Wrapped(lambda s, z: J(s.f(z), z).flatten(1), f=net)
    plain = case.model(net, x)  # skips what this host cannot take, and unregisters
    rj.register()
    try:
        return x, plain, on_host(wrapped, x, case.training), wrapped
    except (AssertionError, AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError):
        if case.reason is None:
            raise
        pytest.skip(case.reason)


def require_the_same_as_outside(case):
    """Bounds of the entries are those of `jacobian_bounds` on the model without the operator."""
    x, plain, model, wrapped = elementwise(case)
    region = Ball(x, 0.1)
    prefix = case.method("")
    host_method = prefix.rstrip("+") or "CROWN"
    assert torch.allclose(model(x), wrapped(x.clone().requires_grad_()), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected = rj.jacobian_bounds(plain, region.perturbed(), method=prefix + "RecurJac-McCormick")
        lower, upper = model.compute_bounds(x=(region.perturbed(),), method=host_method)
    scale = float(expected.magnitude.max())
    for bound, of in ((lower, expected.lower), (upper, expected.upper)):
        assert float((bound.reshape(of.shape) - of).abs().max()) <= 1e-6 * scale
    values = sampled(wrapped, region, count=15)
    assert_encloses(lower.reshape(values.shape[1:]), upper.reshape(values.shape[1:]), values, case.slack)


OFTEN = (
    "relu", "leaky_relu", "prelu", "tanh", "sigmoid", "gelu", "silu", "softplus", "hardswish", "log",
    "residual_convolutions", "branches", "twice_the_same",
)  # fmt: skip


@parametrized([case for case in CASES if case.name in OFTEN])
def test_entries_of_networks(case):
    require_the_same_as_outside(case)


@pytest.mark.slow
@parametrized([case for case in CASES if case.name not in OFTEN])
def test_entries_of_every_other_network(case):
    require_the_same_as_outside(case)


def tan_network():
    return mlp(lambda: Net(lambda s, x: torch.tan(0.4 * x)), (3, 6, 5, 3))


@pytest.mark.parametrize(
    ("name", "make", "method"),
    [
        ("euler", lambda: Wrapped(lambda s, x: x + 0.1 * s.f(x), f=mlp(nn.Tanh, (3, 9, 3))), "CROWN"),
        ("euler_relu", lambda: Wrapped(lambda s, x: x + 0.1 * s.f(x), f=mlp(nn.ReLU, (3, 9, 3))), "CROWN"),
        ("tan", tan_network, "CROWN"),
        ("gelu", lambda: mlp(nn.GELU, (3, 9, 8, 3)), "IBP" if IS_03 else "CROWN"),
        ("gelu_tanh", lambda: mlp(lambda: nn.GELU("tanh"), (3, 9, 8, 3)), "IBP" if IS_03 else "CROWN"),
    ],
)
def test_where_the_operator_of_the_host_is_wrong(name, make, method):
    torch.manual_seed(5)
    net = Wrapped(lambda s, x: J(s.f(x), x).flatten(1), f=make()).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    model = on_host(net, x)
    assert torch.allclose(model(x), net(x.clone().requires_grad_()), rtol=1e-6, atol=1e-8)
    for eps in (1e-3, 0.1, 0.4):
        lower, upper, values = require_enclosed(model, net, Ball(x, eps), method, slack=1e-7)
        if eps == 1e-3:  # near the truth where there is little to bound
            assert float((upper - lower).mean()) < 12 * float((values.amax(0) - values.amin(0)).mean()) + 1e-5


def test_lipschitz_constants_are_those_of_the_pass_with_signs():
    """Behind |J| and a sum CROWN asks for one column with signs, as `row_constants` do."""
    torch.manual_seed(1)
    f, x = mlp(nn.ReLU, (5, 20, 20, 3)).double(), torch.randn(2, 5, dtype=torch.float64)
    net = Wrapped(lambda s, z: J(s.f(z), z).abs().sum(2), f=f)
    model, plain = on_host(net, x), on_host(f, x)
    for eps in (0.02, 0.1, 0.3):
        region = Ball(x, eps)
        upper = model.compute_bounds(x=(region.perturbed(),), method="CROWN", bound_lower=False)[1].detach()
        analysis = analyse(plain, region.perturbed(), parse("RecurJac-McCormick"), None)
        expected = row_constants(analysis, torch.ones_like(x))
        assert bool((upper <= expected * (1 + 1e-9)).all())
        by_entries = rj.jacobian_bounds(plain, region.perturbed(), method="RecurJac-McCormick").magnitude.sum(2)
        assert eps == 0.02 or float((upper / by_entries).mean()) < 0.99


@pytest.mark.skipif(IS_03, reason="0.3 has no Jacobian operator")
@pytest.mark.filterwarnings("ignore")  # tracing the host's gradient modules warns about every shape they look at
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("kind", ["jacobian", "lipschitz", "product"])
def test_bounds_are_no_looser_than_those_of_the_operator_of_the_host(kind, activation):
    from auto_LiRPA.jacobian import JacobianOP as Theirs

    torch.manual_seed(0)
    f, x = mlp(activation, (48, 40, 60, 10)).double(), torch.randn(1, 48)
    vector = torch.rand(1, 1, 48)
    follows = {
        "jacobian": lambda jacobian: jacobian.flatten(1),
        "lipschitz": lambda jacobian: jacobian.abs().sum(2),
        "product": lambda jacobian: (jacobian * vector).sum(2),
    }[kind]
    models = [on_host(Wrapped(lambda s, z, o=o: follows(o.apply(s.f(z), z)), f=f), x) for o in (rj.JacobianOP, Theirs)]
    assert torch.allclose(models[0](x), models[1](x))
    for eps in (1 / 255, 4 / 255, 0.1):
        found = [m.compute_jacobian_bounds((Ball(x, eps).perturbed(),), optimize=False) for m in models]
        (lower, upper), (their_lower, their_upper) = ([bound.detach() for bound in pair] for pair in found)
        if activation is not nn.ReLU:  # single ones of theirs can be better, by little
            assert float((upper - lower).mean()) <= float((their_upper - their_lower).mean()) * (1 + 1e-4)
            assert eps == 0.1 or float(upper.max()) <= float(their_upper.max()) * (1 + 1e-5)
            continue
        slack = 1e-9 * float(their_upper.abs().max())
        assert bool((upper <= their_upper + slack).all() & (lower >= their_lower - slack).all())


def test_products_with_perturbed_vectors_and_factors_from_elsewhere():
    torch.manual_seed(2)
    net = Wrapped(
        lambda s, x, v: (J(s.f(x) * s.g(v) + s.g(v), x) * v.unsqueeze(1)).sum(2),
        f=mlp(nn.Tanh, (3, 8, 3)),
        g=mlp(nn.ReLU, (3, 6, 3)),
    ).double()
    x, v = torch.randn(2, 2, 3, dtype=torch.float64)
    model = BoundedModule(net, (x, v))
    region, around = Ball(x, 0.1), Ball(v, 0.2)
    for method in ("IBP", "CROWN"):
        # Both perturbed, v alone, x alone.
        for first, second in ((region, around), (Ball(x, 0.0), around), (region, Ball(v, 0.0))):
            inputs = [ball.perturbed() if ball.eps else ball.center for ball in (first, second)]
            lower, upper = model.compute_bounds(x=tuple(inputs), method=method)
            values = torch.stack(
                [net(a.requires_grad_(), b).detach() for a, b in zip(first.sample(150), second.sample(150))]
            )
            assert_encloses(lower, upper, values)


def test_another_perturbed_input_is_expanded_too():
    """What the networks' other input adds to the pre-activations belongs to the bounds, as outside of a model."""
    torch.manual_seed(4)
    f = mlp(nn.Tanh, (5, 9, 8, 2)).double()
    net = Wrapped(lambda s, x, u: J(s.f(torch.cat((x, u), 1)), x).flatten(1), f=f)
    plain = Wrapped(lambda s, x, u: s.f(torch.cat((x, u), 1)), f=f)
    x, u = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    model, outside = BoundedModule(net, (x, u)), BoundedModule(plain, (x, u))
    for eps in (1e-3, 0.1):
        box = Ball(torch.cat((x, u), 1), eps)
        regions = (Ball(x, eps).perturbed(), Ball(u, eps).perturbed())
        for method in ("IBP", "CROWN"):
            with torch.no_grad():
                lower, upper = model.compute_bounds(x=regions, method=method)
                expected = rj.jacobian_bounds(outside, regions, method=f"{method}+RecurJac-McCormick")[0]
            assert torch.allclose(lower, expected.lower.flatten(1), rtol=0, atol=1e-9)
            assert torch.allclose(upper, expected.upper.flatten(1), rtol=0, atol=1e-9)
            values = torch.stack([net(p[:, :3].detach().requires_grad_(), p[:, 3:]).detach() for p in box.sample(60)])
            assert_encloses(lower, upper, values)
    with torch.no_grad():
        linear = rj.jacobian_bounds(outside, regions, method="RecurJac-Linear")[0]
    assert float((upper - lower).mean()) < 0.8 * float(linear.width.mean())


def test_the_jacobian_of_a_part_is_expanded_from_bounds_of_what_it_reads():
    torch.manual_seed(4)
    widths = {}
    for method in ("RecurJac-McCormick", "RecurJac-Linear"):
        part = functools.partial(inside, method=method)
        net = Wrapped(part, f=mlp(nn.Tanh, (3, 8, 7, 3)), g=mlp(nn.Tanh, (3, 5, 3))).double()
        torch.manual_seed(5)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.5)
        x = torch.ones(2, 3, dtype=torch.float64)
        model = on_host(net, x)
        for host in ("IBP", "CROWN"):
            lower, upper, _ = require_enclosed(model, net, Ball(x, 0.02), host)
            widths[method, host] = float((upper - lower).mean())
    for host in ("IBP", "CROWN"):
        assert widths["RecurJac-McCormick", host] < 0.8 * widths["RecurJac-Linear", host]


def test_a_plain_input_may_change_between_calls():
    net = Wrapped(lambda s, x, mask: J(s.f(x).matmul(mask), x).abs().sum(2), f=mlp(nn.Tanh, (3, 8, 4))).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    masks = torch.eye(4, dtype=torch.float64)
    model = BoundedModule(net, (x, masks[:, :1]))
    region = Ball(x, 0.1)
    for i in range(4):
        require_enclosed(model, net, region, "CROWN", masks[:, i : i + 1])


@pytest.mark.parametrize("method", ON_GIVEN_BOUNDS)
def test_a_method_may_be_named(method):
    torch.manual_seed(0)
    f, x = mlp(nn.ReLU, (5, 20, 20, 3)).double(), torch.randn(2, 5, dtype=torch.float64)
    net = Wrapped(lambda s, z: rj.JacobianOP.apply(s.f(z), z, method).flatten(1), f=f)
    region = Ball(x, 0.2)
    lower, upper, _ = require_enclosed(on_host(net, x), net, region, "CROWN")
    expected = rj.jacobian_bounds(on_host(f, x), region.perturbed(), method=method)
    assert torch.allclose(lower, expected.lower.flatten(1), rtol=0, atol=1e-12)
    assert torch.allclose(upper, expected.upper.flatten(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["IBP+RecurJac", "RecurJac-Optimized"])
def test_other_methods_are_refused(method):
    net = Wrapped(lambda s, x: rj.JacobianOP.apply(s.f(x), x, method), f=mlp(nn.ReLU))
    with pytest.raises(rj.MethodError, match=f"`JacobianOP` takes RecurJac, .*'{re.escape(method)}'"):
        net(torch.zeros(1, 5, requires_grad=True))


def test_combinations_over_rows_are_tighter_than_sums_of_rows():
    """Two rows that differ in sign only: their sum is 0 whatever the neuron's derivative is."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    layer = Layer(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1).double(), torch.ones(1, 1).double(), None)
    rows = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    gains = Gains(("a",), {"a": layer}, Blocks({(ROWS, "a"): rows, ("a", INPUT): one}), 1, 2, 1, one)
    order = backward_order(gains, recurjac_linear, 2**20)
    coefficients = torch.tensor([[[[1.0], [1.0]], [[1.0], [-1.0]], [[2.0], [0.0]]]], dtype=torch.float64)
    unknown = torch.full((1, 3), torch.inf, dtype=torch.float64)
    assert upper_of_sums(order, coefficients, unknown).constant.tolist() == [[0.0, 2.0, 2.0]]
    assert upper_of_sums(order, -coefficients, unknown).constant.tolist() == [[0.0, 0.0, 0.0]]


def test_torch_computes_it_differentiably():
    torch.manual_seed(0)
    f, x = mlp(nn.Tanh).double(), torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    weight = next(f.parameters())
    found = torch.autograd.grad(J(f(x), x).square().sum(), (weight, x))
    rows = torch.stack([torch.autograd.grad(y.sum(), x, create_graph=True)[0] for y in f(x).unbind(1)], 1)
    for a, b in zip(found, torch.autograd.grad(rows.square().sum(), (weight, x))):
        assert torch.allclose(a, b)
    with torch.no_grad():
        point = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            y = f(point)
        assert not J(y, point).requires_grad


def test_the_model_computes_it_differentiably():
    torch.manual_seed(0)
    net = Wrapped(lambda s, x: J(s.f(x), x).abs().sum(2), f=mlp(nn.Tanh)).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    model = on_host(net, x)
    model.train()
    parameter = next(p for p in model.parameters() if p.shape == (9, 5))
    weight = net.f[0].weight
    ours = torch.autograd.grad(model(x).square().sum(), parameter)[0]
    weight.requires_grad_()
    assert torch.allclose(ours, torch.autograd.grad(net(x.clone().requires_grad_()).square().sum(), weight)[0])
    upper = model.compute_bounds(x=(Ball(x, 0.05).perturbed(),), method="CROWN", bound_lower=False)[1]
    slope = torch.autograd.grad(upper.sum(), parameter)[0]
    direction = torch.randn_like(slope)
    ends = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            parameter.add_(step * direction)
            ends.append(model.compute_bounds(x=(Ball(x, 0.05).perturbed(),), method="CROWN", bound_lower=False)[1])
            parameter.sub_(step * direction)
    difference = float((ends[0] - ends[1]).sum()) / 2e-6
    assert float((slope * direction).sum()) == pytest.approx(difference, rel=1e-4)


def test_jacobian_bounds_as_the_host_gives_them():
    """`compute_jacobian_bounds` without a method, as the host's examples call it, on both hosts and in float32, too."""
    torch.manual_seed(0)
    net = Wrapped(lambda s, x: J(s.f(x), x), f=mlp(nn.ReLU)).float()
    x = torch.randn(1, 5, dtype=torch.float32)
    model = on_host(net, x)
    region = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=0.1))
    lower, upper = model.compute_jacobian_bounds(region)
    torch.set_default_dtype(torch.float32)
    expected = model.compute_bounds(x=(region,), method="CROWN")
    torch.set_default_dtype(torch.float64)
    assert torch.equal(lower, expected[0])
    assert torch.equal(upper, expected[1])
    assert model.compute_jacobian_bounds((region,), bound_lower=False)[0] is None
    assert model.compute_jacobian_bounds((region,), optimize=False, bound_upper=False)[1] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
@pytest.mark.parametrize("use", ["lipschitz", "lyapunov", "squeezed", "contraction"])
def test_models_of_either_type_whatever_the_default_is(use, method, dtype):
    net, x, _ = built(use)
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        model = on_host(net.to(dtype), x.to(dtype))
        region = BoundedTensor(x.to(dtype), PerturbationLpNorm(norm=float("inf"), eps=0.1))
        lower, upper = model.compute_bounds(x=(region,), method=method)
        assert (lower.dtype, torch.get_default_dtype()) == (dtype, default)
        torch.set_default_dtype(torch.float64)
        values = sampled(net.double(), Ball(region.double().as_subclass(Tensor), 0.1), count=40)
        assert_encloses(
            lower.detach().double(), upper.detach().double(), values, 1e-4 if dtype == torch.float32 else 1e-9
        )


@pytest.mark.skipif(IS_03, reason="alpha-CROWN of 0.3 fails where the activations are not behind the output")
def test_optimised_bounds_hold():
    net, x, model = built("lyapunov")
    require_enclosed(model, net, Ball(x, 0.1), "alpha-CROWN")


def test_given_intermediate_bounds_of_a_part_of_the_region():
    """Branching hands over bounds that need not contain the centre: they are taken as they are."""
    _, x, model = built("jacobian", nn.ReLU)
    region = Ball(x, 0.2)
    model.compute_bounds(x=(region.perturbed(),), method="CROWN")
    node = model[nodes_of(model)[0].inputs[2].name]
    given = {node.name: (node.lower.detach().clone(), node.upper.detach().clone())}
    split = given[node.name][0].flatten()
    split[0] = float(node.upper.flatten()[0])  # a single value, away from the centre
    option = "intermediate_layer_bounds" if IS_03 else "interm_bounds"
    lower, upper = model.compute_bounds(x=(region.perturbed(),), method="CROWN", **{option: given})
    assert bool((lower <= upper).all())


def test_nothing_of_the_model_changes():
    torch.manual_seed(0)
    f, x = mlp(nn.ReLU).double(), torch.randn(2, 5, dtype=torch.float64)
    net = Wrapped(lambda s, z: J(s.f(z), z).flatten(1), f=f)
    model = on_host(net, x)
    assert set(model.state_dict()) == {name for name in model.state_dict() if "jacobian" not in name}
    assert {tuple(value.shape) for value in model.state_dict().values()} == {tuple(p.shape) for p in f.parameters()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = model.compute_bounds(x=(Ball(x, 0.1).perturbed(),), method="CROWN")
    second = model.compute_bounds(x=(Ball(x, 0.1).perturbed(),), method="CROWN")
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_grad_norm_takes_two_norms():
    gradient = torch.tensor([[[1.0, -2.0]]])
    assert rj.GradNorm()(gradient).tolist() == [[3.0]]
    assert rj.GradNorm(2)(gradient).tolist() == [5.0]
    with pytest.raises(rj.InputError, match="1 or 2, got 3"):
        rj.GradNorm(3)


EXAMPLE = Path("examples/vision/jacobian.py")
THEIRS = "from auto_LiRPA.jacobian import JacobianOP, GradNorm"
OURS = "from recurjac_plugin import JacobianOP, GradNorm, register; register()"


def test_the_example_of_the_host_runs_with_another_import(tmp_path):
    source = os.environ.get("AUTO_LIRPA_SOURCE")
    if not source:
        pytest.skip("AUTO_LIRPA_SOURCE is not set: no folder with the examples of auto_LiRPA 0.7")
    text = (Path(source) / EXAMPLE).read_text(encoding="utf-8")
    assert THEIRS in text
    first = "" if not IS_03 else "import recurjac_plugin\n"  # which makes 0.3 importable
    (tmp_path / "jacobian.py").write_text(first + text.replace(THEIRS, OURS), encoding="utf-8")
    shown = python(tmp_path / "jacobian.py", env=environment(PYTHONWARNINGS="ignore"))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("Linf local Lipschitz constant") == 3
