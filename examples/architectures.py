"""Ten architectures as people write them in PyTorch, from the module to bounds of its Jacobian, and through a file.

Each network is small and has random weights. Its Jacobian is bounded over a box around a random input, by RecurJac on
CROWN's bounds, and compared with Jacobians sampled in the box. Then the network is exported to ONNX, by both of torch's
exporters where they are there, read again, and bounded once more.

Run `python examples/architectures.py [--plot FILE] [NAME ...]`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

# What torch's exporters say concerns files that are run elsewhere.
warnings.filterwarnings("ignore", module=r"torch\.onnx")
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", category=FutureWarning)

SAMPLES = 40
STATISTICS = {"running_mean": (-0.2, 0.2), "running_var": (0.7, 1.3), "weight": (0.7, 1.3), "bias": (-0.2, 0.2)}


class Residual(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c', h', w')."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class ResNet20(nn.Module):
    """Three stages of three blocks (He et al., 2016), with few channels."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        blocks, channels = [], width
        for stage in range(3):
            for i in range(3):
                blocks.append(Residual(channels, width * 2**stage, 2 if stage and not i else 1))
                channels = width * 2**stage
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, classes)."""
        x = self.blocks(functional.relu(self.bn(self.conv(x))))
        x = functional.avg_pool2d(x, x.size(3))
        return self.fc(x.view(x.size(0), -1))


class Inverted(nn.Module):
    """Wider, by channel, narrower again (MobileNetV2, Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 3 * inputs
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True), nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c', h', w')."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNet(nn.Module):
    """Depthwise blocks, dropout in front of the classifier."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        first = [nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(inplace=True)]
        self.features = nn.Sequential(*first, Inverted(4, 4, 1), Inverted(4, 6, 2), Inverted(6, 6, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, classes)."""
        x = functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, size) -> (b, n, size)."""
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token, attention (Dosovitskiy et al., 2021)."""

    def __init__(self, patch: int = 4, size: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, size, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, size))
        self.positions = nn.Parameter(torch.randn(1, 5, size))
        self.blocks = nn.Sequential(Block(size, 2), Block(size, 2))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1, 8, 8) -> (b, classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with a batch norm and a ReLU."""
    first = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True))


class UNet(nn.Module):
    """Down and up again (Ronneberger et al., 2015): once by interpolation, once by a transposed convolution."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.up_conv = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.down1, self.down2 = double_conv(1, width), double_conv(width, 2 * width)
        self.bottom, self.up1 = double_conv(2 * width, 2 * width), double_conv(4 * width, 2 * width)
        self.up2, self.out = double_conv(2 * width, width), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1, h, w) -> (b, 1, h, w)."""
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.up1(torch.cat([second, self.up(self.bottom(self.pool(second)))], dim=1))
        return self.out(self.up2(torch.cat([first, self.up_conv(x)], dim=1)))


class PointNet(nn.Module):
    """Points moved by a matrix that depends on them, the largest of their features (Qi et al., 2017)."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.points, self.turn = nn.Conv1d(3, 8, 1), nn.Linear(8, 9)
        self.conv1, self.bn1 = nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8)
        self.conv2, self.bn2 = nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16)
        self.fc1, self.bn3, self.fc2 = nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, points) -> (b, classes)."""
        b = x.size(0)
        t = self.turn(torch.max(functional.relu(self.points(x)), 2)[0])
        t = (t + torch.eye(3, dtype=x.dtype).view(1, 9).repeat(b, 1)).view(-1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), t).transpose(2, 1)
        x = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        x = torch.max(x, 2, keepdim=True)[0].view(-1, 16)
        return functional.log_softmax(self.fc2(functional.relu(self.bn3(self.fc1(x)))), dim=1)


class DeepONet(nn.Module):
    """An operator between functions: a branch for the function, a trunk for the place (Lu et al., 2021)."""

    def __init__(self, sensors: int = 8, features: int = 6) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(sensors, 16), nn.Tanh(), nn.Linear(16, features))
        self.trunk = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, features), nn.Tanh())
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        """(b, sensors), (b, 2) -> (b, 1)."""
        return torch.sum(self.branch(u) * self.trunk(y), dim=-1, keepdim=True) + self.bias


class GRU(nn.Module):
    """A cell, step by step, with an output at every step."""

    def __init__(self, inputs: int = 2, hidden: int = 4) -> None:
        super().__init__()
        self.hidden, self.cell, self.head = hidden, nn.GRUCell(inputs, hidden), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, steps, inputs) -> (b, steps)."""
        h, outputs = torch.zeros(x.size(0), self.hidden, dtype=x.dtype), []
        for t in range(x.size(1)):
            h = self.cell(x[:, t, :], h)
            outputs.append(self.head(h))
        return torch.stack(outputs, dim=1).squeeze(-1)


class Flow(nn.Module):
    """Affine coupling blocks (RealNVP, Dinh et al., 2017), up to the logarithm of the density."""

    def __init__(self, size: int = 4, blocks: int = 3) -> None:
        super().__init__()
        make = [nn.Sequential(nn.Linear(size // 2, 8), nn.Tanh(), nn.Linear(8, size)) for _ in range(blocks)]
        self.nets = nn.ModuleList(make)

    def forward(self, x: Tensor) -> Tensor:
        """(b, size) -> (b, 1)."""
        volume: Tensor | int = 0
        for i, net in enumerate(self.nets):
            kept, changed = x.chunk(2, dim=1)[:: 1 if i % 2 else -1]
            scale, shift = net(kept).chunk(2, dim=1)
            scale = torch.tanh(scale)
            changed = changed * torch.exp(scale) + shift
            x = torch.cat([kept, changed] if i % 2 else [changed, kept], dim=1)
            volume = volume + scale.sum(dim=1)
        density = -0.5 * (x**2).sum(dim=1) - 0.5 * x.size(1) * math.log(2 * math.pi) + volume
        return density.unsqueeze(1)


class GNN(nn.Module):
    """Two graph convolutions (Kipf and Welling, 2017) on a fixed graph, the mean over its nodes."""

    adjacency: Tensor

    def __init__(self, nodes: int = 5, features: int = 3, hidden: int = 6, classes: int = 2) -> None:
        super().__init__()
        near = (torch.rand(nodes, nodes) < 0.4).float()
        near = ((near + near.T + torch.eye(nodes)) > 0).float()
        degree = near.sum(1).pow(-0.5)
        self.register_buffer("adjacency", degree[:, None] * near * degree[None, :])
        self.first, self.second = nn.Linear(features, hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(b, nodes, features) -> (b, classes)."""
        x = functional.elu(self.adjacency @ self.first(x))
        x = functional.elu(torch.matmul(self.adjacency, self.second(x)))
        return self.out(x.mean(dim=1))


class KANLayer(nn.Module):
    """A function of its own on every edge: SiLU and radial basis functions (FastKAN, Li, 2024)."""

    grid: Tensor

    def __init__(self, inputs: int, outputs: int, size: int = 5) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2, 2, size))
        self.width = 4 / (size - 1)
        self.weights = nn.Parameter(torch.randn(outputs, inputs, size) * 0.3 / inputs)
        self.base = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs) -> (b, outputs)."""
        basis = torch.exp(-(((x.unsqueeze(-1) - self.grid) / self.width) ** 2))
        return self.base(functional.silu(x)) + torch.einsum("big,oig->bo", basis, self.weights)


class Architecture(NamedTuple):
    """How a network is made, the shapes of its inputs, and the radius of the box."""

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    eps: float


ARCHITECTURES = {
    "ResNet-20": Architecture(ResNet20, ((3, 8, 8),), 0.01),
    "MobileNet": Architecture(MobileNet, ((3, 8, 8),), 0.02),
    "ViT": Architecture(ViT, ((1, 8, 8),), 0.01),
    "U-Net": Architecture(UNet, ((1, 8, 8),), 0.02),
    "PointNet": Architecture(PointNet, ((3, 6),), 0.01),
    "DeepONet": Architecture(DeepONet, ((8,), (2,)), 0.05),
    "GRU": Architecture(GRU, ((4, 2),), 0.05),
    "Coupling": Architecture(Flow, ((4,),), 0.02),
    "GNN": Architecture(GNN, ((5, 3),), 0.1),
    "KAN": Architecture(lambda: nn.Sequential(KANLayer(3, 4), KANLayer(4, 2)), ((3,),), 0.02),
}


class Result(NamedTuple):
    """Bounds of the Jacobian, flattened to (outputs, inputs), what was sampled, and how far the bounds of files are."""

    lower: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor
    seconds: float
    files: dict[str, float]


def made(name: str) -> tuple[nn.Module, tuple[Tensor, ...], float]:
    """A network with random weights, as after training; its inputs, and the radius."""
    torch.manual_seed(sum(map(ord, name)))
    build, shapes, eps = ARCHITECTURES[name]
    net = build().eval()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for statistic, (low, high) in STATISTICS.items():
                nn.init.uniform_(getattr(module, statistic), low, high)
    return net, tuple(torch.randn(1, *shape) for shape in shapes), eps


def bounded(net: nn.Module, inputs: tuple[Tensor, ...], eps: float) -> tuple[Tensor, Tensor]:
    """Bounds of the Jacobian over the box, (outputs, inputs) each."""
    model = BoundedModule(net, inputs if len(inputs) > 1 else inputs[0])
    boxes = tuple(BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=eps)) for x in inputs)
    with torch.no_grad():
        found = rj.jacobian_bounds(model, boxes if len(boxes) > 1 else boxes[0], method="RecurJac")
    parts = (found,) if isinstance(found, rj.Bounds) else found
    lower, upper = (
        torch.cat([each[0].flatten(1) for each in side], 1) for side in zip(*((p.lower, p.upper) for p in parts))
    )
    return lower, upper


def sampled(net: nn.Module, inputs: tuple[Tensor, ...], eps: float) -> tuple[Tensor, Tensor]:
    """Smallest and largest Jacobians at points of the box, in float64."""
    net = net.double()
    found = []
    for i in range(SAMPLES):
        noise = [2 * torch.rand_like(x, dtype=torch.float64) - 1 for x in inputs]
        points = tuple(x.double() + eps * (z.sign() if i % 2 else z) for x, z in zip(inputs, noise))
        jacobians = torch.autograd.functional.jacobian(lambda *x: net(*x).flatten(), points)
        found.append(torch.cat([each.flatten(1) for each in jacobians], 1))
    net.float()
    return torch.stack(found).amin(0), torch.stack(found).amax(0)


def through_file(
    net: nn.Module, inputs: tuple[Tensor, ...], eps: float, own: tuple[Tensor, Tensor], dynamo: bool
) -> float:
    """Largest difference of the bounds of the exported network, relative to the largest entry.

    `load_onnx` makes one flat input of several.
    """
    x = torch.cat([each.flatten(1) for each in inputs], 1) if len(inputs) > 1 else inputs[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(net, inputs, str(path), dynamo=dynamo, verbose=False)
        lower, upper = bounded(rj.load_onnx(path), (x,), eps)
    apart = max(float((a - b).abs().max()) for a, b in zip(own, (lower, upper)))
    return apart / float(torch.maximum(own[0].abs(), own[1].abs()).max())


def shown(name: str) -> Result:
    """Bound one architecture, as it is and through files."""
    net, inputs, eps = made(name)
    start = time.perf_counter()
    lower, upper = own = bounded(net, inputs, eps)
    seconds = time.perf_counter() - start
    low, high = sampled(net, inputs, eps)
    room = 1e-5 * float(torch.maximum(lower.abs(), upper.abs()).max())
    assert bool(((lower <= low + room) & (high <= upper + room)).all()), f"{name}: a sampled Jacobian lies outside"
    exporters = [False, True] if importlib.util.find_spec("onnxscript") else [False]
    files = {"default" if new else "older": through_file(net, inputs, eps, own, new) for new in exporters}
    assert max(files.values()) < 0.01, f"{name}: bounds of the file are others"
    return Result(lower, upper, low, high, seconds, files)


def draw(results: dict[str, Result], path: Path) -> None:
    """The gradient of an output of each network: its entries, sampled and bounded, in the order of their size."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    for i, (name, result) in enumerate(results.items()):
        axes = figure.add_subplot(2, 5, i + 1)
        row = len(result.lower) // 2
        order = (result.low[row] + result.high[row]).argsort()
        places = range(len(order))
        for low, high, colour, label in (
            (result.lower, result.upper, "#9ecae1", "RecurJac"), (result.low, result.high, "#08519c", "sampled"),
        ):  # fmt: skip
            axes.fill_between(
                places, low[0][order].numpy(), high[0][order].numpy(), color=colour, label=label, step="mid"
            )
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=7)
        axes.set_xticks([])
    figure.axes[0].legend(fontsize=8, loc="upper left")
    figure.supxlabel("inputs, in the order of the derivatives of one output", fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Bound, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(ARCHITECTURES)}; all by default")
    parser.add_argument("--plot", type=Path, metavar="FILE", default=Path("architectures.png"), help="picture to write")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ARCHITECTURES]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(ARCHITECTURES)}")
    rj.register()
    print(
        "| architecture | weights | Jacobian | eps | largest entry | width, sampled | width, bounded | seconds | file |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    results = {}
    for name in options.names or ARCHITECTURES:
        results[name] = result = shown(name)
        weights = sum(parameter.numel() for parameter in made(name)[0].parameters())
        sizes = " x ".join(map(str, result.lower.shape))
        found, bound = (float((b - a).mean()) for a, b in ((result.low, result.high), (result.lower, result.upper)))
        largest = float(torch.maximum(result.low.abs(), result.high.abs()).max())
        files = ", ".join(f"{apart:.0e}" for apart in result.files.values())
        print(
            f"| {name} | {weights} | {sizes} | {ARCHITECTURES[name].eps:g} | {largest:.3g} | {found:.2g} | {bound:.2g} "
            f"| {result.seconds:.1f} | {files} |",
            flush=True,
        )
    rj.unregister()
    draw(results, options.plot)
    print(f"wrote {options.plot}")


if __name__ == "__main__":
    main()
