"""A network small enough to be written out twice: as a graph of steps, and as a formula for autograd.

It has two inputs x and w, two layers of factors s and t, a connection around s, and an output that reads s twice:

    a = A x + B w,  s = d_s a,  b = C s + D x,  t = d_t b,  out = E t - s + F s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.linear_maps import Broadcast, Dense
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, LinearStep, Read

SIZES = {"x": 3, "w": 2, "a": 4, "s": 4, "b": 5, "t": 5, "out": 4}
WEIGHTS = {"A": "ax", "B": "aw", "C": ("b", "s"), "D": "bx", "E": ("out", "t"), "F": ("out", "s")}


def weights(zeros: float = 0.0, seed: int = 0) -> dict[str, Tensor]:
    """Random matrices in float64, a part of their elements 0."""
    generator = torch.Generator().manual_seed(seed)
    matrices = {}
    for name, (to, source) in WEIGHTS.items():
        matrix = torch.randn(SIZES[to], SIZES[source], generator=generator, dtype=torch.float64)
        kept = torch.rand(matrix.shape, generator=generator) >= zeros
        matrices[name] = matrix * kept
    return matrices


def graph(matrices: dict[str, Tensor]) -> Graph:
    """The network as steps."""

    def dense(name: str) -> tuple[str, Dense]:
        to, source = WEIGHTS[name]
        return source, Dense(matrices[name], (SIZES[source],), (SIZES[to],))

    relu = ActivationFactor(ACTIVATIONS["BoundRelu"], {})
    steps = (
        LinearStep("a", (4,), (dense("A"), dense("B"))),
        FactorStep("s", (4,), "a", (Read("a", (4,)),), relu),
        LinearStep("b", (5,), (dense("C"), dense("D"))),
        FactorStep("t", (5,), "b", (Read("b", (5,)),), relu),
        LinearStep("out", (4,), (dense("E"), ("s", Broadcast(-1, (4,), (4,))), dense("F"))),
    )
    shapes = {name: (size,) for name, size in SIZES.items()}
    return Graph(steps, ("x", "w"), "out", shapes, {name: name for name in SIZES})


def derivative(
    matrices: dict[str, Tensor],
    d_s: Tensor,  # shape: (4,)
    d_t: Tensor,  # shape: (5,)
    by: str,
    sign: int = -1,
) -> Tensor:
    """The derivative of the output by a step or an input, by autograd, (4, size); `sign` is that of s in the output."""
    around = {name: torch.zeros(size, dtype=torch.float64) for name, size in SIZES.items()}

    def output(moved: Tensor) -> Tensor:
        at = around | {by: moved}
        s = d_s * (matrices["A"] @ at["x"] + matrices["B"] @ at["w"] + at["a"]) + at["s"]
        t = d_t * (matrices["C"] @ s + matrices["D"] @ at["x"] + at["b"]) + at["t"]
        return matrices["E"] @ t + sign * s + matrices["F"] @ s + at["out"]

    return torch.autograd.functional.jacobian(output, around[by])
