"""How much memory there is, and what a chunk may take of it."""

from __future__ import annotations

import pytest
import torch

import recurjac_plugin as rj
from recurjac_plugin.numerics import memory


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


def test_a_chunk_is_what_fits_and_at_least_one():
    assert memory.chunk_size(1000, 10, torch.zeros((), dtype=torch.float64)) == 12
    assert memory.chunk_size(1000, 10, torch.zeros((), dtype=torch.float32)) == 25
    assert memory.chunk_size(1, 10, torch.zeros(())) == 1


@pytest.mark.parametrize("given", [0, -1, 2.5, True])
def test_a_budget_is_a_number_of_bytes(given):
    with pytest.raises(rj.InputError, match="whole number of bytes"):
        memory.memory_budget(given, torch.device("cpu"))


def test_chunks_are_computed_again_where_too_much_would_be_kept():
    """With the same result and gradient, and twice the number of calls."""
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    gradients, calls = [], []
    for kept in (10, 1000):
        count = 0

        def function(part):
            nonlocal count
            count += 1
            return part.exp()

        of_chunk = memory.recomputed(function, kept, budget=100)
        results = [of_chunk(part) for part in x.split(2)]
        gradients.append(torch.autograd.grad(torch.cat(results).sum(), x)[0])
        calls.append(count)
    assert torch.equal(gradients[0], x.exp()) and torch.equal(gradients[0], gradients[1])
    assert calls == [3, 6]
