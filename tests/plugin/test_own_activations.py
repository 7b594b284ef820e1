"""Functions of torch that neither the hosts nor the table know, had from models after one `register_activation`."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cases import Net, on_host
from onnx import TensorProto, helper, numpy_helper
from oracle import Ball, assert_encloses, outputs, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.activation import Activation, Operator
from recurjac_plugin.activations.functions import critical
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.host import BoundedModule, bound_op_map
from recurjac_plugin.plugin.activations import CLASSES, node_class
from recurjac_plugin.plugin.model import bounded_model


class Softshrink(torch.autograd.Function):
    """The exporter takes torch's own apart into comparisons; with a symbol it is one operator."""

    @staticmethod
    def symbolic(g, z):
        return g.op("custom::Softshrink", z).setType(z.type())

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return nn.functional.softshrink(z)

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return grad * (z.abs() > 0.5)


@dataclass(frozen=True)
class Own:
    """What a user gives, and how far off its networks are looked at: where float32 still has something to tell."""

    function: Any
    derivative: Any
    critical_points: Any
    options: dict[str, Any] = field(default_factory=dict)
    far: float = 1000.0
    shift: float = 0.0


OWN = {
    "Asinh": Own(torch.asinh, lambda z: (1 + z.square()).rsqrt(), [(0, 1)], {"curvature": 1.0}),
    "Sinh": Own(torch.sinh, torch.cosh, [(0, 1)], far=3.0),
    "Cosh": Own(torch.cosh, torch.sinh, (), far=3.0),
    "Expm1": Own(torch.expm1, torch.exp, (), far=3.0),
    "Erfc": Own(torch.erfc, lambda z: -2 / math.sqrt(math.pi) * torch.exp(-z.square()), [(0, -2 / math.sqrt(math.pi))]),
    "Ndtr": Own(
        torch.special.ndtr,
        lambda z: torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi),
        [(0, 1 / math.sqrt(2 * math.pi))],
        {"curvature": 0.4},
    ),
    "Acosh": Own(torch.acosh, lambda z: ((z - 1) * (z + 1)).rsqrt(), (), {"domain": (1.0, math.inf)}, shift=9.0),
    "Asin": Own(torch.asin, lambda z: ((1 - z) * (1 + z)).rsqrt(), [(0, 1)], {"domain": (-1.0, 1.0)}, far=0.01),
    "Softshrink": Own(
        Softshrink.apply, lambda z: (z.abs() > 0.5).to(z), [(0.5, (0.0, 1.0)), (-0.5, (0.0, 1.0))], {"curvature": 0.0}
    ),
}
each = pytest.mark.parametrize("name", OWN)


@pytest.fixture(autouse=True)
def _unknown(monkeypatch):
    """Whatever the table may know one day, in these tests it does not."""
    names = {f"Bound{name}" for name in OWN}
    for table, known in (
        (ACTIVATIONS, names),
        (CLASSES, {key for key, ours in CLASSES.items() if ours.__name__ in names}),
    ):
        for key in known:
            monkeypatch.delitem(table, key, raising=False)


def teach(name):
    own = OWN[name]
    rj.register_activation(f"Bound{name}", own.derivative, own.critical_points, function=own.function, **own.options)


@pytest.fixture
def taught(request, monkeypatch):
    """The activation of the test's parameter `name`, until the test ends."""
    before, rows = dict(bound_op_map), dict(ACTIVATIONS)
    name = request.getfixturevalue("name")
    teach(name)
    yield OWN[name]
    rj.unregister_activation(f"Bound{name}")
    assert (dict(bound_op_map), dict(ACTIVATIONS)) == (before, rows)


def network(own, dtype):
    """Two layers of the function, the arguments where it is defined."""
    layers = [nn.Linear(4, 8), Net(lambda s, x: own.function(x)), nn.Linear(8, 8), Net(lambda s, x: own.function(x))]
    net = nn.Sequential(*layers, nn.Linear(8, 3))
    with torch.no_grad():
        for index in (0, 2):
            net[index].weight *= 0.5
            net[index].bias += own.shift * (1 if index else 2)
    return net.to(dtype)


def regions(own, dtype):
    """Wide, 1e-6 wide, and far off."""
    near = 0.2 * torch.randn(2, 4, dtype=torch.float64)
    far = near + own.far * torch.tensor([[1.0], [-1.0]]) * (1 if own.shift == 0 else 0.01)
    return [Ball(center.to(dtype), eps) for center, eps in ((near, 0.2), (near, 5e-7), (far, 0.2), (far, 5e-7))]


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bounds_hold(name, dtype, taught):
    net = network(taught, dtype)
    model = on_host(net, torch.zeros(1, 4, dtype=dtype))
    exact, slack = copy.deepcopy(net).double(), 1e-9 if dtype == torch.float64 else 1e-5
    with torch.no_grad():
        for region in regions(taught, dtype):
            inside = Ball(region.center.double(), region.eps)
            values, jacobians = outputs(exact, inside.sample(300)), truth(exact, inside)
            for method in ("IBP", "CROWN-IBP", "CROWN"):
                lower, upper = model.compute_bounds(x=(region.perturbed(),), method=method)
                assert_encloses(lower, upper, values, slack=slack)
            for method in [prefix + method for prefix in ("", "IBP+") for method in rj.METHODS]:
                bounds = rj.jacobian_bounds(model, region.perturbed(), method=method)
                assert_encloses(bounds.lower, bounds.upper, jacobians, slack=slack)


@each
def test_bounds_are_tight_on_small_regions(name, taught):
    net = network(taught, torch.float64)
    model, region = on_host(net, torch.zeros(1, 4, dtype=torch.float64)), regions(taught, torch.float64)[1]
    with torch.no_grad():
        values = outputs(net, region.sample(2000))
        lower, upper = model.compute_bounds(x=(region.perturbed(),), method="CROWN")
        assert bool((upper - lower <= 1.5 * (values.amax(0) - values.amin(0)) + 1e-12).all())
        bounds, exact = rj.jacobian_bounds(model, region.perturbed()), truth(net, region)
        assert float((bounds.upper - bounds.lower).max()) <= 1e-4 * float(exact.abs().max())


@pytest.mark.parametrize("name", ["Asinh"])
def test_whatever_reads_a_model_can_read_it(name, taught, registered):
    net = network(taught, torch.float64)
    region = regions(taught, torch.float64)[0]
    model = BoundedModule(net, torch.zeros(1, 4, dtype=torch.float64))
    x = region.perturbed()
    lower, upper = model.compute_bounds(x=(x,), method="RecurJac")
    assert_encloses(lower.detach(), upper.detach(), outputs(net, region.sample(300)))
    (lower.sum() - upper.sum()).backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in net.parameters())
    assert bool((rj.local_lipschitz(model, x) > 0).all())
    assert rj.global_lipschitz(model, norm=2.0).isfinite().all()
    inside = Net(lambda s, z: rj.JacobianOP.apply(s.net(z), z).flatten(1), net=net)
    lower, upper = BoundedModule(inside, region.center[:1]).compute_bounds(x=(x,), method="CROWN")
    assert_encloses(lower.detach(), upper.detach(), truth(net, region).flatten(2))


@pytest.mark.parametrize("name", ["Asinh"])
def test_a_file_with_the_operator(name, taught, tmp_path):
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node(name, ["h"], ["y"])]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", 4]) for end in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "W")])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    net, region = rj.load_onnx(path), Ball(torch.zeros(1, 4), 0.3)
    bounds = rj.jacobian_bounds(bounded_model(net, region.center), region.perturbed())
    assert_encloses(bounds.lower, bounds.upper, truth(net.double(), Ball(region.center.double(), 0.3)), slack=1e-5)


def one_layer(function):
    return nn.Sequential(nn.Linear(4, 3), Net(lambda s, x: function(x)))


def test_the_host_is_as_before_in_any_order():
    before = dict(bound_op_map)
    teach("Asinh")
    taught = dict(bound_op_map)
    rj.register()
    teach("Sinh")
    rj.unregister()
    assert dict(bound_op_map) == taught  # one entry for all calls
    rj.unregister_activation("BoundAsinh")
    on_host(one_layer(torch.sinh), torch.zeros(1, 4))
    with pytest.raises(NotImplementedError, match=r"unsupported operations: aten::asinh"):
        on_host(one_layer(torch.asinh), torch.zeros(1, 4))
    # What the host itself has a class for it keeps.
    on_host(one_layer(lambda x: torch.heaviside(x, torch.zeros_like(x))), torch.zeros(1, 4))
    rj.unregister_activation("BoundSinh")
    assert dict(bound_op_map) == before
    with pytest.raises(NotImplementedError):
        on_host(one_layer(torch.sinh), torch.zeros(1, 4))
    with pytest.raises(rj.InputError, match="BoundSinh"):
        rj.unregister_activation("BoundSinh")


def test_calls_that_somebody_else_answers_are_still_answered(monkeypatch):
    seen = []

    def answer(attr, *arguments):
        seen.append(attr["operator"])
        raise NotImplementedError

    monkeypatch.setitem(bound_op_map, "aten::ATen", answer)
    teach("Asinh")
    on_host(one_layer(torch.asinh), torch.zeros(1, 4))
    with pytest.raises(NotImplementedError):
        on_host(one_layer(torch.sinh), torch.zeros(1, 4))
    rj.unregister_activation("BoundAsinh")
    assert seen == ["sinh"]
    assert bound_op_map["aten::ATen"] is answer


@pytest.fixture
def row_of_the_table(monkeypatch):
    """asinh as if it were a row of the table."""
    row = Activation(
        "Asinh",
        lambda z, p: (1 + z.square()).rsqrt(),
        critical((0.0, 1.0)),
        function=lambda z, p: torch.asinh(z),
        operator=Operator("aten::asinh"),
    )
    monkeypatch.setitem(ACTIVATIONS, "BoundAsinh", row)
    monkeypatch.setitem(CLASSES, "aten::asinh", node_class("BoundAsinh", row))


def test_a_row_of_the_table_is_enough(row_of_the_table):
    before, net, region = dict(bound_op_map), one_layer(torch.asinh).double(), Ball(torch.zeros(1, 4).double(), 0.1)
    bounds = rj.jacobian_bounds(bounded_model(net, region.center), region.perturbed())
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))
    assert dict(bound_op_map) == before
    with pytest.raises(NotImplementedError):
        on_host(net, region.center)
    rj.register()
    teach("Sinh")
    on_host(net, region.center)
    rj.unregister()
    on_host(nn.Sequential(net, Net(lambda s, x: torch.sinh(x))), region.center)  # calls are still ours
    rj.unregister_activation("BoundSinh")
    assert dict(bound_op_map) == before


def test_a_model_outlives_its_row():
    teach("Asinh")
    x = torch.zeros(1, 4)
    model = on_host(one_layer(torch.asinh), x)
    rj.unregister_activation("BoundAsinh")
    model.compute_bounds(x=(Ball(x, 0.1).perturbed(),), method="CROWN")
    with pytest.raises(rj.UnsupportedError, match=r"Asinh.*no rule"):
        rj.jacobian_bounds(model, Ball(x, 0.1).perturbed())


def test_an_operator_that_the_host_knows_keeps_its_class(monkeypatch):
    """A row alone, as if the exponential were not in the table: the function changes nothing."""
    monkeypatch.delitem(ACTIVATIONS, "BoundExp")
    before = dict(bound_op_map)
    rj.register_activation("BoundExp", torch.exp, (), function=torch.exp)
    assert dict(bound_op_map) == before
    rj.unregister_activation("BoundExp")


REFUSED = {
    "three": (
        "BoundMine",
        torch.log1p,
        lambda z: 1 / (1 + z),
        (-1.0, math.inf),
        r"one operator.*got.*onnx::Log",
    ),
    "constants": (
        "BoundMine",
        lambda z: nn.functional.elu(z, 1.0),
        None,
        None,
        r"without constants.*onnx::Elu\(alpha\)",
    ),
    "the host's": ("BoundMine", torch.exp, torch.exp, None, "`onnx::Exp`.* is known as `BoundExp` already"),
    "the table's": ("BoundMine", torch.cos, None, None, "`onnx::Cos`.* is known as `BoundCos` already"),
    "another's name": ("BoundUnsqueeze", torch.expm1, torch.exp, None, "`BoundUnsqueeze` already has a linear map"),
    "a name of the host": ("BoundParams", torch.expm1, torch.exp, None, "auto_LiRPA has another `BoundParams`"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_functions_that_cannot_be_taught_are_refused(reason, monkeypatch):
    name, function, derivative, domain, message = REFUSED[reason]
    if derivative is None:  # what it is does not matter
        monkeypatch.setattr("recurjac_plugin.activations.custom._require_range", lambda *_: None)
        monkeypatch.setattr("recurjac_plugin.activations.custom._require_derivative_of", lambda *_: None)
    before = dict(bound_op_map), dict(ACTIVATIONS)
    with pytest.raises(rj.InputError, match=message):
        rj.register_activation(
            name, derivative or torch.exp, (), function=function, domain=domain or (-math.inf, math.inf)
        )
    assert (dict(bound_op_map), dict(ACTIVATIONS)) == before


def test_further_inputs_are_refused():
    """``xlogy`` of one tensor is an operator of two inputs; a class for one must not take it."""
    teach("Asinh")
    try:
        node = bound_op_map["aten::ATen"]
        with pytest.raises(rj.UnsupportedError, match=r"`aten::asinh` with 2 inputs.*takes 1"):
            node({"operator": "asinh"}, [None, None], 0, {})
    finally:
        rj.unregister_activation("BoundAsinh")
