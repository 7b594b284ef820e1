"""ExLipBaB's networks: our bounds of the l_2 constant, on a large box and on the whole space, over its exact values.

The networks are read from a checkout of github.com/tsplittg/ExLipBaB_Code (`--checkout`, or $EXLIPBAB).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from lipbab import read
from ours import BRANCHING, METHODS, box, hosted, perceptron, sampled
from tables import checkout, machine, present, published, show
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.errors import UnsupportedError

RADIUS = 1000.0
"""The box that stands for the whole space where a method needs a region: inputs are scaled to deviation 1."""


class MaxMin(nn.Module):
    """GroupSort of pairs: neighbours 2 i and 2 i + 1, the smaller one first."""

    def forward(self, x: Tensor) -> Tensor:
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        return torch.stack((torch.minimum(first, second), torch.maximum(first, second)), -1).reshape(x.shape)


def rows(path: Path) -> Iterator[list[object]]:
    for known in published("exlipbab.csv"):
        name, truth = known["network"], float(known["l_2"])
        sorts = "GroupSort" in name  # all of them have half as many groups as neurons
        weights, biases = read(path / known["folder"], name)
        net = perceptron(weights, biases, MaxMin if sorts else nn.ReLU)
        columns = weights[0].shape[1]
        high = torch.full((columns,), RADIUS)
        x = box(-high, high)
        yield [name, "sampled", f"{sampled(net, x, 2) / truth:.4f}", ""]
        if not sorts:  # there is no product of operator norms through the host's Min and Max
            start = time.process_time()
            most = float(rj.global_lipschitz(hosted(net, columns), norm=2))
            yield [name, "Operator-Norm, whole space", f"{most / truth:.4f}", time.process_time() - start]
        for label, method in METHODS + BRANCHING:
            try:
                found = method(net, x, 2)
            except UnsupportedError as refusal:
                yield [name, label, f"refused: {str(refusal)[:60]}...", ""]
                continue
            if found.lower > truth * (1 + 1e-6):
                raise SystemExit(f"{name}, {label}: the lower bound {found.lower} is above {truth}.")
            yield [name, f"{label}, radius {RADIUS:g}", f"{found.upper / truth:.4f}", found.seconds]


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    parser, _ = checkout("ExLipBaB's networks.", "EXLIPBAB", "tsplittg/ExLipBaB_Code")
    path = present(parser.parse_args().checkout, "exlipbab_saved_networks", "tsplittg/ExLipBaB_Code")
    if path is not None:
        print(machine())
        show("ExLipBaB's networks", ("network", "method", "l_2 / exact", "seconds"), rows(path))


if __name__ == "__main__":
    main()
