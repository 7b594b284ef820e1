"""Derivative ranges of a million intervals in float32, for every activation, on one thread or a GPU: `make bench`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import finished, group, on_every_device

from recurjac_plugin.activations.table import ACTIVATIONS

PARAMETERS: dict[str, dict[str, Any]] = {
    "BoundLeakyRelu": {"alpha": 0.1},
    "BoundPRelu": {"slope": torch.tensor(0.25)},
    "BoundSelu": {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
    "HardTanh": {"min": -1.0, "max": 1.0},
    "Pow": {"exponent": 3.0},
}
COUNT = 1_000_000


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", ACTIVATIONS)
@on_every_device
def test_a_million_intervals(benchmark: Any, device: str, kind: str) -> None:
    benchmark.group = group("derivative ranges of a million intervals", device)
    activation, parameters = ACTIVATIONS[kind], PARAMETERS.get(kind, {})
    benchmark.name = activation.name
    generator = torch.Generator().manual_seed(0)
    center = 3 * torch.randn(COUNT, generator=generator)
    # Functions that end at 0 are asked for beyond it.
    lower = center.abs() + 0.1 if activation.domain(parameters) is not None else center
    upper = lower + torch.rand(COUNT, generator=generator)
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in parameters.items()}
    arguments = (lower.to(device), upper.to(device), moved)
    run = finished(activation.derivative_range, device)
    least, most = benchmark.pedantic(run, args=arguments, rounds=9, warmup_rounds=2)
    assert bool((least <= most).all())
