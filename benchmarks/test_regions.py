"""Many small regions: the search for a radius, for one sample and for 64, and 10^4 boxes of a controller.

Each group of the printed table is one question; compare with a table of another revision made on the same machine. The
extra information of the boxes has the megabytes that a call took beside what was there (`make bench`, one thread).
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.host.region import perturbed_box

STATUS = Path("/proc/self/statm")


pytestmark = pytest.mark.usefixtures("one_thread")


def _mlp(activation: type[nn.Module], *widths: int) -> tuple[nn.Module, Any]:
    """A network, and the host's model of it."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    net = nn.Sequential(*layers[:-1])
    return net, BoundedModule(net, torch.zeros(1, widths[0]))


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("inputs", [8, 784])
def test_radius_search(benchmark: Any, inputs: int, batch: int) -> None:
    """Ten classes, six layers of 20 neurons, 15 nested balls."""
    benchmark.group = f"certified_radius, tanh {inputs}-20x6-10, 15 steps"
    benchmark.name = f"{batch} samples"
    net, model = _mlp(nn.Tanh, inputs, *[20] * 6, 10)
    x = torch.rand(64, inputs, generator=torch.Generator().manual_seed(3))[:batch]
    C = rj.margin_rows(net(x))
    radius = benchmark.pedantic(
        lambda: rj.certified_radius(model, x, norm=math.inf, C=C, steps=15), rounds=3 if batch == 1 else 1
    )
    assert bool((radius > 0).all())


def test_reading(benchmark: Any) -> None:
    """The graph of a network whose graph has been read before, with its values at four points."""
    benchmark.group = "reading tanh 784-20x6-10"
    _, model = _mlp(nn.Tanh, 784, *[20] * 6, 10)
    x = BoundedTensor(torch.rand(4, 784), PerturbationLpNorm(norm=math.inf, eps=0.01))
    benchmark.pedantic(lambda: read(model, x).graph, rounds=50, warmup_rounds=2)


CONTROLLERS = {"tanh 3-48-48-1": (nn.Tanh, 3, 48, 48, 1), "ReLU 12-64-64-4": (nn.ReLU, 12, 64, 64, 4)}
QUESTIONS: dict[str, Callable[..., Any]] = {
    "jacobian_bounds": rj.jacobian_bounds,
    "local_lipschitz": rj.local_lipschitz,
    "monotonicity": rj.monotonicity,
}


@pytest.mark.parametrize("count", [1_000, 10_000])
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_boxes(benchmark: Any, controller: str, question: str, count: int) -> None:
    benchmark.group = f"{question}, boxes of {controller}"
    benchmark.name = f"{count} boxes"
    _, model = _mlp(*CONTROLLERS[controller])
    x = _boxes(count, CONTROLLERS[controller][1])
    QUESTIONS[question](model, _boxes(2, CONTROLLERS[controller][1]))
    before = _megabytes()
    benchmark.pedantic(QUESTIONS[question], args=(model, x), rounds=1)
    benchmark.extra_info["megabytes"] = round(_largest(lambda: QUESTIONS[question](model, x)) - before)


def _boxes(count: int, inputs: int) -> Any:
    generator = torch.Generator().manual_seed(1)
    center: Tensor = 2 * torch.rand(count, inputs, generator=generator) - 1
    radius = 0.05 * torch.rand(count, inputs, generator=generator)
    return perturbed_box(center - radius, center + radius, center)


def _megabytes() -> float:
    """What the process holds; 0 where the system does not say."""
    return int(STATUS.read_text().split()[1]) * 4096 / 2**20 if STATUS.is_file() else 0.0


def _largest(function: Callable[[], Any]) -> float:
    """The most that the process held while a function ran."""
    most, over = _megabytes(), threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.005):
            most = max(most, _megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    over.set()
    watcher.join()
    return most
