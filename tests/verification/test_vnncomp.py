"""VNN-COMP networks: Jacobian bounds on the box of a property contain the Jacobians sampled there in float64."""

from __future__ import annotations

import copy
import csv

import pytest
import torch
from oracle import Box, attacked, jacobians

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule

# One instance of every category whose layers are supported: category, network, property.
INSTANCES = [
    ("acasxu", "ACASXU_run2a_1_1_batch_2000.onnx", "prop_3.vnnlib"),
    ("mnistfc", "mnist-net_256x2.onnx", "prop_0_0.03.vnnlib"),
    ("eran", "nets/mnist_relu_9_200.onnx", None),
    ("eran", "nets/ffnnSIGMOID__Point_6x200.onnx", None),
    ("cifar10_resnet", "onnx/resnet_2b.onnx", None),
    ("oval21", "nets/cifar_base_kw.onnx", None),
    ("marabou-cifar10", "./nets/cifar10_small.onnx", None),
    ("verivital", "Convnet_avgpool.onnx", None),
    ("verivital", "Convnet_maxpool.onnx", None),
    ("rl_benchmarks", "onnx/cartpole.onnx", None),
    ("rl_benchmarks", "onnx/lunarlander.onnx", None),
    ("reach_prob_density", "onnx/vdp.onnx", None),
    ("reach_prob_density", "onnx/robot.onnx", None),
    ("collins_rul_cnn", "onnx/NN_rul_small_window_20.onnx", None),
    ("tllverifybench", "onnx/tllBench_n=2_N=M=8_m=1_instance_0_0.onnx", None),
    ("test", "test_nano.onnx", None),
    ("test", "test_tiny.onnx", None),
    ("test", "test_small.onnx", None),
]
# Large inputs: a few rows and attacks are enough.
ROWS = 2


def properties(folder, network):
    """Properties of a network in instances.csv, in order."""
    with (folder / "instances.csv").open(newline="", encoding="utf-8") as file:
        return [row[1] for row in csv.reader(file) if row and row[0].removeprefix("./") == network.removeprefix("./")]


def problem(vnncomp, category, network, name):
    folder = vnncomp / category
    name = name or properties(folder, network)[0]
    net, spec = rj.load_onnx(folder / network), rj.load_vnnlib(folder / name)
    shape = (1, *net.input_shape)
    box = spec.boxes[0]
    return net, *(torch.tensor(side).reshape(shape) for side in (box.lower, box.upper))


def check(net, lower, upper, methods, targets=4, count=24):
    """Bounds in the network's own precision against sampled Jacobians in float64."""
    dtype = net.dtype if isinstance(net.dtype, torch.dtype) else torch.float32
    C = torch.eye(net.n_outputs, dtype=dtype)[:ROWS]
    C[0, -1] -= 1.0 if net.n_outputs > 1 else 0.0  # a margin where there are several outputs
    C = C.unsqueeze(0)
    exact = copy.deepcopy(net).double()
    region = Box(lower, upper)
    points = torch.cat([region.sample(count), attacked(exact, region, C.double(), targets, 4)])
    values = jacobians(exact, points, C.double())
    model = BoundedModule(net, torch.zeros_like(lower, dtype=dtype))
    # Rounding the box to the network's type moves its sides by one rounding; the sampled points stay inside it.
    low, high = lower.to(dtype), upper.to(dtype)
    low = torch.where(low.double() > lower, torch.nextafter(low, low - 1), low)
    high = torch.where(high.double() < upper, torch.nextafter(high, high + 1), high)
    for method in methods:
        with torch.no_grad():
            bounds = rj.jacobian_bounds(model, Box(low, high).perturbed(), method=method, C=C)
        scale = values.abs().flatten(3).amax((0, 3))[..., None].clamp(min=1e-30)  # per row
        escape = torch.maximum(bounds.lower - values, values - bounds.upper).flatten(3).amax(0) / scale
        assert bool(bounds.lower.isfinite().all() & bounds.upper.isfinite().all())
        assert float(escape.max()) <= 2e-5, f"{method}: outside by {float(escape.max()):.2e}"


@pytest.mark.parametrize(
    ("category", "network", "name"), INSTANCES, ids=[f"{c}-{n.rpartition('/')[2]}" for c, n, _ in INSTANCES]
)
def test_one_instance_of_every_category(vnncomp, category, network, name):
    check(*problem(vnncomp, category, network, name), ["RecurJac", "RecurJac-Linear"])


def test_every_category_is_covered(vnncomp):
    with (vnncomp / "expected.csv").open(encoding="utf-8") as file:
        assert {row["category"] for row in csv.DictReader(file)} == {category for category, _, _ in INSTANCES}


def everything(vnncomp):
    with (vnncomp / "expected.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first = {}
    for row in rows:
        first.setdefault((row["category"], row["onnx"]), row["vnnlib"])
    return [(category, network, name) for (category, network), name in first.items()]


@pytest.mark.slow
def test_every_network(vnncomp):
    failures = {}
    for category, network, name in everything(vnncomp):
        try:
            check(*problem(vnncomp, category, network, name), [*rj.METHODS, "IBP+RecurJac"], targets=10, count=60)
        except (rj.RecurJacError, AssertionError) as error:
            failures[category, network] = str(error)
    assert failures == {}
