"""Pasado's section 5.4 beside this package: derivatives of sigmoid networks by the strength of a haze over an image.

Same networks, images and radii, same process, one thread. The networks and Pasado's code are read from a checkout of
github.com/uiuc-arc/Pasado (`--checkout`, or $PASADO), the images from a CSV file of MNIST's first test images, a label
and 784 pixels from 0 to 255 a line (`--images`, or $MNIST_CSV). Largest derivative of ten outputs, means over images;
`below sampled` counts images on which a bound is below a derivative that was sampled, so that it is none.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from tables import checkout, machine, present, show
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

RADII = [2 * 10 ** (-k / 4) for k in range(2, 18, 2)]
METHODS = [("auto", None), ("RecurJac-Linear", "RecurJac-Linear")]


class Haze(nn.Module):
    """``t -> net(image + t (1 - image))``, the haze folded into the first layer."""

    def __init__(self, net: nn.Sequential, image: Tensor) -> None:
        super().__init__()
        first, linear = net[0], nn.Linear(1, net[0].out_features)
        with torch.no_grad():
            linear.weight.copy_((first.weight @ (1 - image)).unsqueeze(1))
            linear.bias.copy_(first.weight @ image + first.bias)
        self.net = nn.Sequential(linear, *list(net)[1:])

    def forward(self, t: Tensor) -> Tensor:
        return self.net(t)


def network(folder: Path, name: str) -> nn.Sequential:
    """One of Pasado's networks, sigmoid between dense layers."""
    state = torch.load(folder / f"model_{name}.pth", map_location="cpu", weights_only=True)
    layers: list[nn.Module] = []
    for layer in [*(f"fc{i}" for i in range(1, int(name[0]))), "fc_final"]:
        weight = state[f"{layer}.weight"]
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": state[f"{layer}.bias"]})
        layers += [linear, nn.Sigmoid()]
    return nn.Sequential(*layers[:-1]).double().eval()


def theirs(peer: dict[str, Any], net: nn.Sequential, image: Tensor, edges: Tensor) -> float:
    """Pasado's precise bound of the largest derivative, part by part."""
    linear, largest = [layer for layer in net if isinstance(layer, nn.Linear)], 0.0
    for low, high in itertools.pairwise(edges):
        ends = peer["DualIntervalTensor"](real_l=low.reshape(1), real_u=high.reshape(1))
        ends.e1_l[0] = ends.e1_u[0] = 1
        haze = peer["HyperDualIntervalToDualZonotope"](ends)
        x = (torch.tensor([1]) - haze) * image + haze
        for layer in linear:
            x = peer["AffineDualZonotope"](x, layer.weight.T.detach()) + layer.bias.detach()
            if layer is not linear[-1]:
                x = peer["PreciseSigmoidDualZonotope"](x)
        largest = max(largest, float(torch.maximum(x.dual.get_lb().abs(), x.dual.get_ub().abs()).max()))
    return largest


def ours(model: BoundedModule, method: str | None, edges: Tensor) -> float:
    """Our bound on all parts of the interval in one batch."""
    low, high = edges[:-1, None], edges[1:, None]
    x = BoundedTensor((low + high) / 2, PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high))
    return float(rj.jacobian_bounds(model, x, method=method).magnitude.max())


@torch.no_grad()
def rows(folder: Path, images: str, count: int, parts: int, names: list[str]) -> Iterator[list[object]]:
    sys.path.insert(0, str(folder.parents[1] / "forward_mode_tensorized_src"))
    peer: dict[str, Any] = {}
    exec("from SimpleZono import *; from Duals import *; from precise_transformer import *", peer)
    data = np.loadtxt(images, delimiter=",")
    for name in names:
        right = {int(i) for i in torch.load(folder / f"indices_{name}.pth", map_location="cpu", weights_only=False)}
        net, chosen = network(folder, name), [i for i in range(len(data)) if i in right][:count]
        pictures, labels = torch.tensor(data[chosen, 1:] / 255), torch.tensor(data[chosen, 0])
        if not bool((net(pictures).argmax(1) == labels).all()):
            raise SystemExit("The images are not those that the network's list of indices is about.")
        models = [Haze(net, picture).eval() for picture in pictures]
        hosted = [BoundedModule(model, torch.zeros(1, 1), device="cpu") for model in models]
        ours(hosted[0], None, torch.tensor([0.0, 1.0]))  # what is loaded on first use is nobody's time
        for radius in RADII:
            edges = torch.linspace(0, radius, parts + 1)
            found: dict[str, list[float]] = {}
            seconds: dict[str, list[float]] = {}
            for picture, plain, model in zip(pictures, models, hosted, strict=True):
                derivative = torch.func.vmap(torch.func.jacrev(plain))(torch.linspace(0, radius, 400)[:, None])
                found.setdefault("sampled", []).append(float(derivative.abs().max()))
                calls = [("Pasado", partial(theirs, peer, net, picture, edges))]
                calls += [(label, partial(ours, model, method, edges)) for label, method in METHODS]
                for label, call in calls:
                    start = time.process_time()
                    found.setdefault(label, []).append(call())
                    seconds.setdefault(label, []).append(time.process_time() - start)
            peer_value, peer_seconds = mean(found["Pasado"]), mean(seconds["Pasado"])
            below = {key: sum(v < s for v, s in zip(found[key], found["sampled"])) for key in seconds}
            if any(below[label] for label, _ in METHODS):
                raise SystemExit(f"{name}, {radius}: a bound is below a sampled derivative.")
            cells: list[object] = [name, f"{radius:.5f}", mean(found["sampled"]), peer_value, below["Pasado"]]
            for label, _ in METHODS:
                cells += [f"{mean(found[label]) / peer_value:.4f}", f"{mean(seconds[label]) / peer_seconds:.2f}"]
            yield cells


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    parser, _ = checkout("Pasado's section 5.4.", "PASADO", "uiuc-arc/Pasado")
    parser.add_argument("--images", default=os.environ.get("MNIST_CSV"), help="CSV file; by default $MNIST_CSV")
    parser.add_argument("--count", type=int, default=10, help="how many images")
    parser.add_argument("--parts", type=int, default=1, help="into how many parts the interval is cut")
    parser.add_argument("--networks", default="3layer,4layer,5layer")
    options = parser.parse_args()
    folder = present(options.checkout, "Section_5_4/trained", "uiuc-arc/Pasado")
    if folder is None:
        return
    if options.images is None:
        print("Skipped: no file of images was named (`--images FILE`).")
        return
    print(machine())
    columns = ["network", "radius", "sampled", "Pasado", "below sampled"]
    for label, _ in METHODS:
        columns += [f"{label} / Pasado", "time / Pasado's"]
    names = options.networks.split(",")
    title = f"Pasado's section 5.4, {options.count} images, {options.parts} part(s)"
    show(title, columns, rows(folder, options.images, options.count, options.parts, names))


if __name__ == "__main__":
    main()
