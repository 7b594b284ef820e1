"""The two orders of RecurJac side by side: ``make bench``.

Square cases, in which input and output are as wide as the layers, cost both orders the same number of operations.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import finished, group, on_every_device
from torch import nn

from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.preactivations.host import host_bounds

ORDERS = {
    "backward": {"order": "backward"},
    "forward": {"order": "forward"},
    "forward, shifted": {"order": "forward", "shift": 1},
    "both": {"order": "both"},
}
NETWORKS = {"ReLU 128x4": (nn.ReLU, 128, 0.05), "tanh 64x4": (nn.Tanh, 64, 0.05)}


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NETWORKS)
@on_every_device
def test_orders(benchmark: Any, device: str, name: str, order: str) -> None:
    """The pass alone, from the same pre-activation bounds, all elements of the Jacobian."""
    activation, width, eps = NETWORKS[name]
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(width, width), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, width)).to(device)
    center = torch.rand(1, width).to(device)
    model = BoundedModule(net, center, device=device)
    x = BoundedTensor(center, PerturbationLpNorm(norm=float("inf"), eps=eps))
    method, rows = parse("RecurJac"), torch.eye(width, device=device).unsqueeze(0)
    names = [*analyse(model, x, method, rows).graph.reads]
    given = host_bounds(read(model, x), "CROWN", rows, names).intervals
    benchmark.group = group(name, device)
    benchmark.name = order
    benchmark.pedantic(
        finished(lambda: analyse(model, x, method, rows, intermediate_bounds=given, **ORDERS[order]).jacobian, device),
        rounds=7,
        warmup_rounds=1,
    )
