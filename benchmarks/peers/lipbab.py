"""LipBaB's four networks: our bounds of the l_1, l_2 and l_inf constants over its exact values.

The networks are read from a checkout of github.com/pyrobits/LipBaB (`--checkout`, or $LIPBAB).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path

import numpy as np
import torch
from ours import BRANCHING, METHODS, box, perceptron
from tables import checkout, machine, present, published, show
from torch import Tensor, nn


def read(path: Path, name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of shape (out, in) and biases, as both LipBaB and ExLipBaB store them."""
    found = []
    for kind in ("weights", "biases"):
        arrays = np.load(path / f"{name}_{kind}.npy", allow_pickle=True)
        found.append([torch.tensor(np.asarray(each, dtype=float).T) for each in arrays])
    return found[0], found[1]


def rows(path: Path) -> Iterator[list[object]]:
    for known in published("lipbab.csv"):
        weights, biases = read(path, known["network"])
        net, columns = perceptron(weights, biases, nn.ReLU), weights[0].shape[1]
        x = box(torch.zeros(columns), torch.full((columns,), float(known["high"])))
        for label, method in METHODS + BRANCHING:
            found = [method(net, x, norm) for norm in (1, 2, inf)]
            exact = [float(known[norm]) for norm in ("l_1", "l_2", "l_inf")]
            for mine, truth in zip(found, exact):
                if not mine.lower * (1 - 1e-6) <= truth <= mine.upper * (1 + 1e-6):
                    raise SystemExit(f"{known['network']}, {label}: {truth} is not in [{mine.lower}, {mine.upper}].")
            ratios = [f"{mine.upper / truth:.4f}" for mine, truth in zip(found, exact)]
            yield [known["network"], label, *ratios, sum(mine.seconds for mine in found)]


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    parser, _ = checkout("LipBaB's networks.", "LIPBAB", "pyrobits/LipBaB")
    path = present(parser.parse_args().checkout, "saved_networks", "pyrobits/LipBaB")
    if path is not None:
        print(machine())
        columns = ("network", "method", "l_1 / exact", "l_2 / exact", "l_inf / exact", "seconds for all three")
        show("LipBaB's networks", columns, rows(path))


if __name__ == "__main__":
    main()
