"""Sums of absolute terms: what rounding is proportional to where terms cancel."""

from __future__ import annotations

import torch
from small_network import graph, weights

from recurjac_plugin.gains.summed_terms import term_sizes


def test_sums_of_absolute_terms():
    """``2 sum |W| t + |z|`` at linear steps, ``|z|`` behind factors; what is not known is left out."""
    W = weights()
    values = {
        name: torch.randn(2, size, dtype=torch.float64) for name, size in {"x": 3, "w": 2, "a": 4, "s": 4}.items()
    }
    sizes = term_sizes(graph(W), values, least=0.5)
    x, w, a, s = (values[name].abs() for name in ("x", "w", "a", "s"))
    assert torch.equal(sizes["x"], x) and torch.equal(sizes["w"], w)
    assert torch.allclose(sizes["a"], 2 * (x @ W["A"].abs().T + w @ W["B"].abs().T) + a)
    assert torch.equal(sizes["s"], s.clamp(min=0.5))
    assert torch.allclose(sizes["b"], sizes["s"] @ W["C"].abs().T + x @ W["D"].abs().T)
    assert torch.equal(sizes["t"], sizes["b"].clamp(min=0.5))
    assert torch.allclose(sizes["out"], sizes["t"] @ W["E"].abs().T + sizes["s"] + sizes["s"] @ W["F"].abs().T)


def test_terms_that_cancel_count():
    W = {name: torch.ones_like(matrix) for name, matrix in weights().items()}
    x = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    sizes = term_sizes(graph(W), {"x": x, "w": zero[:, :2], "a": zero})
    assert sizes["a"].tolist() == [[4.0] * 4]
