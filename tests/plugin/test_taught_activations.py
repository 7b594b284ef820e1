"""Activations the hosts lack, taught by `register` and by the command line: tight lines that hold, no traces."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from cases import Net, mlp
from onnx import TensorProto, helper, numpy_helper
from oracle import Ball, assert_encloses, jacobians, outputs
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule, bound_op_map
from recurjac_plugin.plugin.activations import CLASSES, missing
from recurjac_plugin.plugin.model import bounded_model

CONSTANTS = {"PRelu": (-0.3,), "Clip": (-0.5, 0.7)}
KINKED = {"PRelu", "Elu", "Selu", "HardSigmoid", "HardSwish", "Clip"}
each_operator = pytest.mark.parametrize("name", [name.rpartition("::")[2] for name in CLASSES])


def node_of(name, dtype):
    node = next(ours for key, ours in CLASSES.items() if key.endswith(f"::{name}"))({}, [], 0, {})
    constants = [torch.tensor(value, dtype=dtype) for value in CONSTANTS.get(name, ())]
    node.inputs = [SimpleNamespace(), *(SimpleNamespace(lower=constant, inputs=()) for constant in constants)]
    return node


def function(node, z):
    """The function itself, in the type of z."""
    return node.forward(z, *(constant.lower.to(z) for constant in node.inputs[1:]))


def intervals(dtype, count=2000):
    width = 10 ** (9 * torch.rand(count, dtype=torch.float64) - 6)
    center = torch.randn(count, dtype=torch.float64) * 10 ** (4 * torch.rand(count, dtype=torch.float64) - 2)
    lower, upper = center - width / 2, center + width / 2
    lower[::10] = 0
    upper[2::10] = 0
    lower, upper = torch.minimum(lower, upper).to(dtype), torch.maximum(lower, upper).to(dtype)
    upper[1::10] = lower[1::10]
    return lower, upper


@each_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_lines_and_intervals_hold(name, dtype):
    node = node_of(name, dtype)
    lower, upper = intervals(dtype)
    if name == "Tan":  # between its poles
        lower, upper = (0.98 * torch.atan(bound) for bound in (lower, upper))
    z = lower.double() + torch.linspace(0, 1, 801, dtype=torch.float64)[:, None] * (upper.double() - lower.double())
    z = torch.minimum(z, upper.double())  # not beyond by rounding
    values = function(node, z)
    node.bound_relax(SimpleNamespace(lower=lower[None], upper=upper[None]))
    slack = 1e-15 * values.abs()
    assert bool((node.lw.double() * z + node.lb.double() <= values + slack).all())
    assert bool((node.uw.double() * z + node.ub.double() >= values - slack).all())
    low, high = node.interval_propagate((lower[None], upper[None]), *[(c.lower, c.lower) for c in node.inputs[1:]])
    assert bool((low.double() <= values + slack).all() & (high.double() >= values - slack).all())


@each_operator
def test_lines_are_tight(name):
    """The area between the lines is that between the convex and the concave hull at the middle, up to 2 %."""
    node = node_of(name, torch.float64)
    reach, widths = (0.7, (1e-3, 0.1, 0.6)) if name == "Tan" else (4, (1e-3, 0.1, 3.0))
    center = torch.linspace(-reach, reach, 160, dtype=torch.float64)
    for width in widths:
        lower, upper = center - width / 2, center + width / 2
        node.bound_relax(SimpleNamespace(lower=lower[None], upper=upper[None]))
        fraction = torch.linspace(0, 1, 129, dtype=torch.float64)
        values = function(node, lower + fraction[:, None] * width)
        gap = ((node.uw - node.lw) * center + node.ub - node.lb)[0]  # its mean over the interval
        left, right = fraction[:65, None, None], fraction[None, 64:, None]
        share = ((0.5 - left) / (right - left).clamp(min=1e-9)).clamp(0, 1)
        chords = values[:65, None] * (1 - share) + values[None, 64:] * share  # heights over the middle
        hull = chords.amax((0, 1)) - chords.amin((0, 1))
        excess = gap - 1.02 * hull
        assert float(excess.max()) <= (0.01 * width if name in KINKED else 1e-3 * width**2)


def networks():
    return {
        "elu": mlp(lambda: nn.ELU(0.6)),
        "selu": mlp(nn.SELU),
        "softplus": mlp(nn.Softplus),
        "erf": mlp(lambda: Net(lambda s, x: torch.erf(x))),
        "hardsigmoid": mlp(nn.Hardsigmoid),
        "sin": mlp(lambda: Net(lambda s, x: torch.sin(2 * x))),
        "prelu": mlp(lambda: nn.PReLU(init=-0.2)),
        "relu6": mlp(lambda: nn.Hardtanh(-0.25, 0.5)),
        "tan": mlp(lambda: Net(lambda s, x: torch.tan(0.1 * x))),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", networks())
def test_host_bounds_of_networks(name, dtype, registered):
    torch.manual_seed(1)
    net, x = networks()[name].to(dtype), torch.randn(3, 5, dtype=dtype)
    model = BoundedModule(net, torch.zeros(1, 5, dtype=dtype))
    for eps in (1e-3, 0.3, 2.0):
        region = Ball(x, eps)
        values = outputs(net, region.sample(300))
        for method in ("IBP", "CROWN-IBP", "CROWN"):
            lower, upper = model.compute_bounds(x=(region.perturbed(),), method=method)
            slack = 1e-5 if dtype == torch.float32 else 1e-12
            assert bool((values >= lower - slack).all() & (values <= upper + slack).all()), (eps, method)
            if eps == 1e-3 and method == "CROWN":  # as tight as a linear function is, nearly
                spread = values.amax(0) - values.amin(0)
                assert float(((upper - lower).detach() / spread).mean()) < 1.7


def test_a_pole_is_refused():
    node = node_of("Tan", torch.float64)
    node.name = "/3"
    low, high = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1.0, 2.0]]).double()
    with pytest.raises(rj.UnsupportedError, match=r"`/3` \(Tan\).*\[1, 2\]"):
        node.interval_propagate((low, high))
    with pytest.raises(rj.UnsupportedError, match=r"`/3` \(Tan\).*\[1, 2\]"):
        node.bound_relax(SimpleNamespace(lower=low, upper=high))


def test_register_teaches_and_unregister_forgets():
    before = dict(bound_op_map)
    rj.register()
    rj.register()
    assert {"onnx::Elu", "onnx::Softplus", "onnx::Erf", "onnx::PRelu"} <= set(bound_op_map) - set(before)
    assert bound_op_map["onnx::Softplus"] is CLASSES["onnx::Softplus"]
    if not IS_03:  # what works there is left alone
        assert bound_op_map["onnx::Clip"] is before["onnx::Clip"]
    assert not missing()
    rj.unregister()
    assert dict(bound_op_map) == before


ONNX = {
    "Elu": {"alpha": 0.7},
    "Celu": {"alpha": 0.7},
    "Selu": {},
    "Softplus": {},
    "Erf": {},
    "Gelu": {},
    "Gelu tanh": {"approximate": "tanh"},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "HardSwish": {},
    "Softsign": {},
    "Mish": {},
    "Abs": {},
    "Sin": {},
    "Cos": {},
    "Tan": {},
    "Exp": {},
    "Log": {"shift": 9.0},
    "Sqrt": {"shift": 9.0},
    "Reciprocal": {"shift": 9.0},
    "Clip": {"constants": (-0.5, 0.7)},
    "Pow": {"constants": (3.0,)},
    "Tanh": {},
    "Sigmoid": {},
    "Atan": {},
    "LeakyRelu": {"alpha": 0.2},
    "PRelu": {"constants": (0.2,)},
}
IBP_ONLY = {"Tan"} if not IS_03 else {"Gelu", "Gelu tanh", "HardSigmoid", "Softsign", "Sqrt", "Reciprocal", "Pow"}


def onnx_network(path, op, constants=(), shift=0.0, **attributes):
    """Gemm, one activation, Gemm."""
    random = np.random.default_rng(0)
    weights = {
        "W": random.standard_normal((4, 6)),
        "b": 0.1 * random.standard_normal(6) + shift,
        "V": random.standard_normal((6, 3)),
        "d": np.zeros(3),
        **{f"c{i}": value for i, value in enumerate(constants)},
    }
    nodes = [
        helper.make_node("Gemm", ["x", "W", "b"], ["h"]),
        helper.make_node(op, ["h", *(f"c{i}" for i in range(len(constants)))], ["a"], **attributes),
        helper.make_node("Gemm", ["a", "V", "d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@pytest.mark.parametrize("name", ONNX)
def test_onnx_round_trip(name, tmp_path):
    """A file with the operator, loaded and bounded as the command line does it, without `register`."""
    net = rj.load_onnx(onnx_network(tmp_path / "net.onnx", name.split()[0], **ONNX[name]))
    before = dict(bound_op_map)
    model = bounded_model(net, torch.zeros(1, 4))
    assert dict(bound_op_map) == before
    x = 0.3 * torch.randn(1, 4)
    region = Ball(x, 0.1)
    with torch.no_grad():
        for prefix in ["IBP+"] if name in IBP_ONLY else ["", "IBP+"]:
            bounds = rj.jacobian_bounds(model, region.perturbed(), method=prefix + "RecurJac")
            exact = jacobians(net.double(), Ball(x.double(), 0.1).sample(100))
            net.float()
            assert_encloses(bounds.lower, bounds.upper, exact, slack=1e-5)
        point = rj.jacobian_bounds(model, Ball(x, 1e-6).perturbed(), method="IBP+RecurJac")
        slack = 1e-3 * float(exact.abs().max())  # the last sample is the centre
        assert float((point.upper - exact[-1]).max()) <= slack and float((exact[-1] - point.lower).max()) <= slack
