"""How far upper and lower bounds of the l_inf constant are apart on seeded ReLU networks, by undetermined neurons."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from math import inf
from statistics import median

import torch
from ours import BRANCHING, METHODS, box, hosted, sampled
from tables import machine, show
from torch import nn

from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse

NETWORKS = [
    ((8, 32, 32, 32, 4), (0.05, 0.1, 0.3)),
    ((784, 50, 50, 50, 10), (0.01,)),
    ((784, 100, 100, 10), (0.02,)),
]


def network(sizes: tuple[int, ...], seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A ReLU network with torch's own initial weights, and the centre of its region."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().eval(), torch.randn(sizes[0], dtype=torch.float64)


def rows(seeds: int) -> Iterator[list[object]]:
    for sizes, radii in NETWORKS:
        for radius in radii:
            undetermined, gaps = [], {label: ([], []) for label, _ in METHODS + BRANCHING}
            for seed in range(seeds):
                net, center = network(sizes, seed)
                x = box(center - radius, center + radius)
                analysis = analyse(hosted(net, sizes[0]), x, parse("RecurJac"), None)
                undetermined.append(sum(map(analysis.gains.count, analysis.gains.layers)))
                least = sampled(net, x, inf, 2000)
                for label, method in METHODS + BRANCHING:
                    found = method(net, x, inf)
                    if found.upper < least * (1 - 1e-9):
                        raise SystemExit(f"{sizes}, seed {seed}, {label}: {found.upper} is below a sampled {least}.")
                    gaps[label][0].append(found.upper / max(found.lower, least))
                    gaps[label][1].append(found.seconds)
            for label, (ratios, seconds) in gaps.items():
                name = "-".join(map(str, sizes))
                yield [
                    name, radius, f"{min(undetermined)} to {max(undetermined)}", label,
                    median(ratios), max(ratios), median(seconds),
                ]  # fmt: skip


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="networks of each size, from seed 0 on")
    print(machine())
    columns = ("ReLU network", "radius", "undetermined", "method", "upper / lower, median", "worst", "seconds, median")
    show("Random ReLU networks, l_inf", columns, rows(parser.parse_args().seeds))


if __name__ == "__main__":
    main()
