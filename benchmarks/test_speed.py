"""What the Jacobian pass costs beside the bounds it starts from: `make bench`.

Each group of the printed table is one problem; read the ratios to its fastest line, all taken in the same run. `CROWN`
is the host's bounds (pre-activations and output), `RecurJac` everything from the network to the Jacobian bounds
(CROWN included), and a line ending in "pass" the Jacobian pass alone, from given pre-activation bounds. Rigorous lines
are computed in float64, from bounds by CROWN of our own; all others are in float32 here. Where there is a CUDA device,
every problem is measured there, too, in a group of its own.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import finished, group, on_every_device
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.preactivations.host import host_bounds

VNNCOMP = os.environ.get("VNNCOMP_BENCHMARKS")
needs_vnncomp = pytest.mark.skipif(VNNCOMP is None, reason="$VNNCOMP_BENCHMARKS is not set")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def _ball(center: Tensor, eps: float) -> Any:
    return BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=eps))


def _mlp(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _problem(name: str, device: str = "cpu") -> tuple[Any, Any, Tensor]:
    """Model, region and rows of a named problem, on a device."""
    network, center, eps, rows = _parts(name)
    model = BoundedModule(network.to(device), torch.zeros_like(center[:1]).to(device), device=device)
    return model, _ball(center.to(device), eps), rows.to(device)


def _parts(name: str) -> tuple[nn.Module, Tensor, float, Tensor]:
    """Network, centre, radius and rows of a named problem."""
    torch.manual_seed(1)
    if name.startswith("784-"):  # 784-WIDTHxDEPTH-OUTPUTS
        width, depth, outputs = map(int, name.split()[0].removeprefix("784-").replace("x", "-").split("-"))
        network = _mlp(784, *[width] * (depth - 1), outputs)
        return network, torch.rand(1, 784), float(name.split()[-1]), torch.eye(outputs)[None]
    if VNNCOMP is None:
        pytest.skip("$VNNCOMP_BENCHMARKS is not set")
    folder = Path(VNNCOMP)
    if name.startswith("mnist-net_256x4"):
        return rj.load_onnx(folder / "mnistfc/mnist-net_256x4.onnx"), torch.rand(1, 784, 1), 0.01, torch.eye(10)[None]
    if name.startswith("resnet_2b"):
        margin = torch.zeros(1, 1, 10)
        margin[0, 0, 0], margin[0, 0, 1] = 1, -1
        network = rj.load_onnx(folder / "cifar10_resnet/onnx/resnet_2b.onnx")
        return network, torch.rand(1, 3, 32, 32), 0.008, margin
    network = rj.load_onnx(folder / "acasxu/ACASXU_run2a_1_1_batch_2000.onnx")
    margin = torch.zeros(1024, 1, 5)
    margin[:, 0, 0], margin[:, 0, 1] = 1, -1
    return network, torch.rand(1024, 1, 1, 5) - 0.5, 0.01, margin


def _crown(model: Any, x: Any, rows: Tensor) -> Callable[[], Any]:
    return lambda: model.compute_bounds(x=(x,), C=rows, method="CROWN")


def _pass(model: Any, x: Any, rows: Tensor, method: str, order: str = "backward") -> Callable[[], Any]:
    parsed = parse(method)
    names = [*analyse(model, x, parsed, rows).graph.reads]
    given = host_bounds(read(model, x), "CROWN", rows, names).intervals
    return lambda: analyse(model, x, parsed, rows, order=order, intermediate_bounds=given).jacobian


def _full(model: Any, x: Any, rows: Tensor, method: str, rigorous: bool = False) -> Callable[[], Any]:
    return lambda: rj.jacobian_bounds(model, x, C=rows, method=method, rigorous=rigorous)


def _proven(model: Any, x: Any, rows: Tensor) -> Callable[[], Any]:
    return lambda: rj.output_bounds(model, x, C=rows, method="CROWN", rigorous=True)


PROBLEMS = (
    "784-1024x6-1 eps 0.0002",
    "784-1024x6-1 eps 0.001",
    "784-1024x6-10 eps 0.0002",
    "mnist-net_256x4 eps 0.01",
    "resnet_2b eps 0.008",
    "1024 boxes of ACAS Xu 1_1 eps 0.01",
)
LINES: dict[str, Callable[[Any, Any, Tensor], Callable[[], Any]]] = {
    "CROWN": _crown,
    "rigorous CROWN": _proven,
    "RecurJac": lambda *problem: _full(*problem, "RecurJac"),
    "rigorous RecurJac": lambda *problem: _full(*problem, "RecurJac", rigorous=True),
    "RecurJac pass": lambda *problem: _pass(*problem, "RecurJac"),
    "RecurJac-Linear pass": lambda *problem: _pass(*problem, "RecurJac-Linear"),
    "Fast-Lip pass": lambda *problem: _pass(*problem, "Fast-Lip"),
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("problem", PROBLEMS)
@on_every_device
def test_against_crown(benchmark: Any, device: str, problem: str, line: str) -> None:
    benchmark.group = group(problem, device)
    benchmark.name = line
    run = finished(LINES[line](*_problem(problem, device)), device)
    benchmark.pedantic(run, rounds=7, warmup_rounds=1)


@needs_vnncomp
@pytest.mark.skipif(IS_03, reason="auto_LiRPA 0.3 has no Jacobian operator")
@pytest.mark.filterwarnings("ignore")  # tracing the host's gradient modules warns about every shape they look at
@pytest.mark.parametrize("line", ["JacobianOP", "RecurJac-Linear"])
def test_against_the_hosts_jacobian(benchmark: Any, line: str) -> None:
    """mnist-net_256x4, all ten outputs, pre-activation bounds included on both sides."""
    benchmark.group = "Jacobian of mnist-net_256x4 eps 0.01"
    benchmark.name = line
    model, x, _ = _problem("mnist-net_256x4 eps 0.01")
    if line == "RecurJac-Linear":
        benchmark.pedantic(lambda: rj.jacobian_bounds(model, x, method=line), rounds=5, warmup_rounds=1)
        return
    operator = importlib.import_module("auto_LiRPA.jacobian").JacobianOP

    class Jacobian(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> Tensor:
            return operator.apply(self.network(z), z).flatten(1)

    network = rj.load_onnx(Path(str(VNNCOMP)) / "mnistfc/mnist-net_256x4.onnx")
    with torch.enable_grad():
        theirs = BoundedModule(Jacobian(network), torch.zeros(1, 784, 1))
    result = benchmark.pedantic(lambda: theirs.compute_jacobian_bounds((x,), optimize=False), rounds=1)
    ours = rj.jacobian_bounds(model, x, method="RecurJac-Linear")
    width, host_width = ours.upper - ours.lower, (result[1] - result[0]).reshape(ours.lower.shape)
    benchmark.extra_info["largest excess of our width"] = float((width - host_width).max())
    benchmark.extra_info["mean width, ours / theirs"] = float(width.mean() / host_width.mean())
