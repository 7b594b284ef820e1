"""Gains that no memory holds are refused beforehand, with their exact size."""

from __future__ import annotations

import pytest
import torch
from cases import hosted
from oracle import Ball

import recurjac_plugin as rj
from recurjac_plugin.gains import gains as capacity
from recurjac_plugin.gains.gains import compute_gains
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.numerics import memory


@pytest.mark.parametrize("eps", [0.01, 0.1, 5.0])
@pytest.mark.parametrize("name", ["relu", "residual_convolutions", "concat_channels", "skip_from_input", "sigmoid"])
def test_size_is_that_of_the_blocks(name, eps):
    _, center, model = hosted(name, batch=1)
    with torch.no_grad():
        found = analyse(model, Ball(center, eps).perturbed(), parse("IBP+RecurJac"), None)
        gains = compute_gains(found.graph, found.derivatives, found.rows, 2**20)
    blocks = sum(block.numel() for block in gains.blocks.values())
    assert capacity.gains_size(found.graph, gains.derivatives, found.rows) == blocks
    assert blocks > 0 or eps < 5


def test_size_is_never_too_large_for_a_batch():
    _, center, model = hosted("residual_convolutions")
    with torch.no_grad():
        found = analyse(model, Ball(center, 0.1).perturbed(), parse("RecurJac"), None)
        gains = compute_gains(found.graph, found.derivatives, found.rows, 2**20)
    blocks = sum(block.numel() for block in gains.blocks.values())
    assert 0 < capacity.gains_size(found.graph, gains.derivatives, found.rows) <= blocks


def test_too_many_undetermined_neurons_are_refused(monkeypatch):
    _, center, model = hosted("relu")
    x = Ball(center, 0.5).perturbed()
    monkeypatch.setattr(capacity, "memory_of", lambda device: 100)
    with pytest.raises(rj.InputError, match=r"derivatives are uncertain.*smaller region.*`Fast-Lip`"):
        rj.local_lipschitz(model, x)
    assert bool((rj.local_lipschitz(model, x, method="Fast-Lip") > 0).all())
    monkeypatch.setattr(capacity, "memory_of", lambda device: None)
    assert bool((rj.local_lipschitz(model, x) > 0).all())


def test_memory_of_the_machine():
    found = memory.memory_of(torch.device("cpu"))
    assert found is None or found > 2**28
    assert memory.memory_of(torch.device("meta")) is None


def test_limit_of_a_container_counts(monkeypatch, tmp_path):
    if memory.memory_of(torch.device("cpu")) is None:
        pytest.skip("this system does not tell its memory")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER", (limit, tmp_path / "missing"))
    limit.write_text("max\n", encoding="ascii")
    whole = memory.memory_of(torch.device("cpu"))
    limit.write_text("123456789\n", encoding="ascii")
    assert memory.memory_of(torch.device("cpu")) == 123456789 < whole
