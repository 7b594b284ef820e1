"""ECLipsE-Gen-Local beside our bounds: l_2 constants of seeded ReLU networks over l_2 balls of four radii.

Its `epsilon` is the radius of an l_2 ball (`local_lipschitz.py` there): over the box of that radius Jacobians are
sampled that are larger than its bounds.

Needs the package eclipse-nn, version 0.1.7, from PyPI; without it nothing is compared.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch
from ours import BRANCHING, METHODS, ball, perceptron, sampled
from tables import machine, show
from torch import Tensor, nn

SIZES = [(5, 10, (0.8, 2.5)), (5, 60, (0.8, 2.5)), (15, 40, (0.8, 2.5)), (25, 60, (0.8, 2.5)), (5, 128, (2.0, 2.5))]
"""Layers, their width, and between what the weights' spectral norms are drawn; seed ``77 width + 9 layers``."""

CENTER = (0.4, 1.8, -0.5, -1.3, 0.9)
RADII = (1.0, 0.2, 0.04, 0.008)


def network(layers: int, width: int, norms: tuple[float, float]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of ECLipsE's kind: each scaled to a spectral norm drawn from a range."""
    rng = np.random.RandomState(width * 77 + layers * 9)
    weights, biases = [], []
    sizes = [len(CENTER), *[width] * (layers - 1), 2]
    for before, after in itertools.pairwise(sizes):
        norm, drawn = rng.uniform(*norms), rng.randn(after, before)
        weights.append(torch.tensor(norm * drawn / np.linalg.norm(drawn, 2)))
        biases.append(torch.tensor(rng.randn(after)))
    return weights, biases


def rows() -> Iterator[list[object]]:
    estimator = importlib.import_module("eclipse_nn").LipConstEstimator
    for layers, width, norms in SIZES:
        weights, biases = network(layers, width, norms)
        net, center = perceptron(weights, biases, nn.ReLU), torch.tensor(CENTER)
        for radius in RADII:
            theirs = {}
            for algorithm in ("CF", "Fast"):
                start = time.process_time()
                with contextlib.redirect_stdout(io.StringIO()):
                    value = estimator(weights=weights, biases=biases).estimate_gen_local(
                        center=list(CENTER), epsilon=radius, actv="relu", algo=algorithm
                    )
                value = float(value[0] if isinstance(value, tuple) else value)
                theirs[algorithm] = value, time.process_time() - start
            x = ball(center, radius)
            least = sampled(net, x, 2)
            cells = [f"{value:.4g} ({seconds:.2f} s)" for value, seconds in theirs.values()]
            found = [method(net, x, 2) for _, method in METHODS + BRANCHING]
            ours = [f"{each.upper:.4g} ({each.seconds:.2f} s)" for each in found]
            yield [f"{layers} layers of {width}", radius, f"{least:.4g}", *cells, *ours]


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    if importlib.util.find_spec("eclipse_nn") is None:
        print("Skipped: the package eclipse-nn (0.1.7) is not installed.")
        return
    print(machine())
    labels = [label for label, _ in METHODS + BRANCHING]
    show("ECLipsE-Gen-Local, over l_2 balls", ("network", "radius", "sampled", "its CF", "its Fast", *labels), rows())


if __name__ == "__main__":
    main()
