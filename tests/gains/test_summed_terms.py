"""Sums of absolute terms: what rounding is proportional to where terms cancel."""

from __future__ import annotations

import torch
from small_network import graph, weights

from recurjac_plugin.gains.summed_terms import term_sizes


def test_sums_of_absolute_terms():
    """``2 sum |W| t + |z|`` where the value z is known; ``|z|`` behind factors."""
    W = weights()
    sides = {"x": 3, "w": 2, "a": 4, "s": 4}
    values = {name: torch.randn(2, size, dtype=torch.float64) for name, size in sides.items()}
    sizes = term_sizes(graph(W), values, least=0.5)
    x, w, a, s = (values[name].abs() for name in sides)
    assert sizes.keys() == {"a", "b"}  # what the factors read
    assert torch.allclose(sizes["a"], 2 * (x @ W["A"].abs().T + w @ W["B"].abs().T) + a)
    assert torch.allclose(sizes["b"], s.clamp(min=0.5) @ W["C"].abs().T + x @ W["D"].abs().T)
    del values["s"]
    inside = term_sizes(graph(W), values, least=0.5)["b"]
    assert torch.allclose(inside, sizes["a"].clamp(min=0.5) @ W["C"].abs().T + x @ W["D"].abs().T)


def test_terms_that_cancel_count():
    W = {name: torch.ones_like(matrix) for name, matrix in weights().items()}
    x = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    sizes = term_sizes(graph(W), {"x": x, "w": zero[:, :2], "a": zero})
    assert sizes["a"].tolist() == [[4.0] * 4]
