"""The local l_inf constant of a margin of a ResNet-18 with 11 million weights, from all kinds of pre-activation bounds.

The network is made for 32x32 colour images, its weights are random, its batch norms have the statistics of random
images, all 3072 inputs are perturbed. `--bounds` chooses where the pre-activation bounds come from: `zonotopes`
(`rj.zonotope_bounds`), or the host's `IBP`, `CROWN-IBP`, `CROWN`. On auto_LiRPA 0.7.1 CROWN is told to take 256 neurons
at a time, because all at once do not fit. Printed are, for every radius, the undetermined neurons, the constants by the
methods, the largest l_1 norm of a gradient found by sampling, and what each part took.

Run `python benchmarks/scale_resnet.py [--bounds KIND] [--eps E,E,...] [--width N] [--double] [--most N]`.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import warnings
from functools import partial
from typing import Any

import torch
from scale import METHODS, box, measured
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor

Bounds = dict[str, tuple[Tensor, Tensor]]
KINDS = ("zonotopes", "IBP", "CROWN-IBP", "CROWN")

# 0.7.1 sizes the batches for the memory of a GPU, unless the device is the word "cpu".
BATCHES = {"bound_opts": {"crown_batch_size": 256, "batched_crown_max_vram_ratio": 0.9}, "device": "cpu"}


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        same = inputs == outputs and stride == 1
        projection = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential() if same else nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, behind a ReLU."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(width: int = 64) -> nn.Sequential:
    """ResNet-18 for 32x32 images (He et al., 2016), statistics of the batch norms from random images."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        layers += [Block(channels, outputs, stride), Block(outputs, outputs, 1)]
        channels = outputs
    net = nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels, 10))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over what it sees
    net.train()
    with torch.no_grad():
        net(torch.rand(32, 3, 32, 32))
    return net.eval()


def host_bounds(model: Any, x: BoundedTensor, C: Tensor, kind: str) -> Bounds:
    """Pre-activation bounds by one of the host's methods, as `intermediate_bounds` takes them."""
    model.compute_bounds(x=(x,), C=C, method=kind)
    activations = [node for node in model._modules.values() if type(node).__name__ == "BoundRelu"]
    read = [activation.inputs[0] for activation in activations]
    return {node.name: (node.lower.detach(), node.upper.detach()) for node in read}


def steepest(net: nn.Module, center: Tensor, eps: float, C: Tensor) -> float:
    """The largest l_1 norm of the margin's gradient at the centre and some corners: a lower bound of the constant."""
    signs = [torch.zeros_like(center), *(torch.randn_like(center).sign() for _ in range(8))]
    norms = []
    for sign in signs:
        leaf = (center + eps * sign).requires_grad_()
        norms.append(float(torch.autograd.grad((net(leaf) * C[0]).sum(), leaf)[0].abs().sum()))
    return max(norms)


def peak() -> float:
    """The most memory the process has had so far, in MB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@torch.no_grad()
def bound(model: Any, x: BoundedTensor, C: Tensor, kind: str, most: int) -> dict[str, float]:
    """Print what the bounds are worth and what they took; the constants by method.

    Gains pull a row back from every undetermined neuron, so that more than `most` of them take hours.
    """
    if kind == "zonotopes":
        bounds, cost = measured(lambda: rj.zonotope_bounds(model, x))
    else:
        bounds, cost = measured(lambda: host_bounds(model, x, C, kind))
    crossing = [int(((low < 0) & (high > 0)).sum()) for low, high in bounds.values()]
    print(f"  {kind}: {sum(crossing)} undetermined neurons, {cost.seconds:.1f} s, {cost.megabytes:.0f} MB", flush=True)
    constants = {}
    for method in METHODS if sum(crossing) <= most else ["Fast-Lip"]:
        constant, cost = measured(partial(rj.local_lipschitz, model, x, method=method, C=C, intermediate_bounds=bounds))
        constants[method] = float(constant)
        took = f"{cost.seconds:.1f} s, {cost.megabytes:.0f} MB"
        print(f"  {method}: local constant {constants[method]:.6g}, {took}", flush=True)
    return constants


def main() -> None:
    """Bound one network at every radius."""
    parser = argparse.ArgumentParser(description="Local Lipschitz constants of a ResNet-18.")
    parser.add_argument("--bounds", choices=KINDS, default="zonotopes", help="pre-activation bounds by (zonotopes)")
    parser.add_argument("--eps", default="1e-6", help="l_inf radii, separated by commas (1e-6)")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage (64)")
    parser.add_argument("--double", action="store_true", help="float64; in float32 radii below 6e-8 round to nothing")
    parser.add_argument("--most", type=int, default=20_000, help="undetermined neurons up to which gains are computed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dtype = torch.float64 if options.double else torch.float32
    net = resnet18(options.width).to(dtype)
    center = torch.rand(1, 3, 32, 32).to(dtype)
    batched = options.bounds == "CROWN" and not IS_03
    model = BoundedModule(net, center, **(BATCHES if batched else {}))
    C = center.new_tensor([1.0, -1.0, *[0.0] * 8]).reshape(1, 1, 10)
    print(f"ResNet-18, {sum(p.numel() for p in net.parameters()):,} weights")
    for eps in map(float, options.eps.split(",")):
        sampled = steepest(net, center, eps, C)
        print(f"l_inf {eps:g}, sampled {sampled:.6g}:")
        constants = bound(model, box(center, eps), C, options.bounds, options.most)
        assert all(sampled <= constant * (1 + 1e-4) for constant in constants.values()), "no gradient is larger"
        assert constants.get("RecurJac-Linear", 0) <= constants.get("RecurJac", math.inf) * (1 + 1e-4), "chords"
    print(f"peak of the process {peak():.0f} MB")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"torch\.onnx")
    main()
