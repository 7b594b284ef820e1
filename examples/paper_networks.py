"""What the three experiments of the RecurJac paper (`paper_*.py`) share: networks, images, colours.

The networks are fully connected classifiers of scikit-learn's 8x8 digits, trained in a few seconds, the same on every
run. They are handed out in float64, so that comparisons of methods are not about rounding.

Run `python examples/paper_networks.py` to train the largest of them and see how often they are right.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from train_digits import CLASSES, digits, train

# auto_LiRPA divides by 0 on the way to the dual of p = 1, and gets the right one.
warnings.filterwarnings("ignore", "divide by zero encountered in scalar divide", RuntimeWarning)

PIXELS = 64
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky": lambda: nn.LeakyReLU(0.3),
}

# One colour and marker per method in all pictures; the palette of Okabe and Ito, made for colour-blind readers.
STYLES: dict[str, dict[str, Any]] = {
    "Operator-Norm": {"color": "#555555", "linestyle": ":", "label": "product of operator norms"},
    "Fast-Lip": {"color": "#D55E00", "marker": "s", "markersize": 7},  # seen behind RecurJac where both agree
    "CROWN": {"color": "#CC79A7", "marker": "^"},
    "RecurJac": {"color": "#0072B2", "marker": "o"},
    "RecurJac-Linear": {"color": "#009E73", "marker": "D"},
    "sampled": {"color": "black", "linestyle": "--", "label": "sampled (lower bound)"},
}


def trained(activation: str, hidden: Sequence[int], seed: int = 1, epochs: int = 40) -> nn.Sequential:
    """A classifier of digits with hidden layers of the given sizes."""
    torch.set_num_threads(1)  # sums in one order: the same weights on every run
    torch.manual_seed(seed)
    sizes = [PIXELS, *hidden, CLASSES]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    net = nn.Sequential(*layers[:-1])
    images, labels, _, _ = digits((PIXELS,))
    train(net, images, labels, epochs)
    return net.double()


@torch.no_grad()
def accuracy(net: nn.Module) -> float:
    """The part of the test images that a network gets right."""
    _, _, images, labels = digits((PIXELS,))
    return float((net(images.double()).argmax(1) == labels).double().mean())


@torch.no_grad()
def correct_images(nets: Sequence[nn.Module], count: int) -> Tensor:
    """The first test images that all of the networks get right, (count, pixels)."""
    _, _, images, labels = digits((PIXELS,))
    right = torch.ones(len(images), dtype=torch.bool)
    for net in nets:
        right &= net(images.double()).argmax(1) == labels
    return images[right][:count].double()


@torch.no_grad()
def class_rows(net: nn.Module, images: Tensor) -> Tensor:
    """The matrix C that selects the output of the class an image gets: (images, 1, classes)."""
    return torch.eye(CLASSES, dtype=images.dtype)[net(images).argmax(1)].unsqueeze(1)


def points_in_ball(center: Tensor, norm: float, radius: float, count: int) -> Tensor:
    """Random points of the l_p ball around one image, half of them on its boundary: (count, pixels)."""
    random = torch.Generator().manual_seed(0)
    away = torch.randn(count, center.numel(), generator=random, dtype=center.dtype)
    if norm == torch.inf:
        away = away.sign()
    elif norm == 1:  # few pixels at a time, up to its corners
        away = away * (torch.rand(away.shape, generator=random) < 0.1)
    length = torch.linalg.vector_norm(away, ord=norm, dim=1, keepdim=True).clamp(min=1e-12)
    shrink = torch.rand(count, 1, generator=random, dtype=center.dtype)
    shrink[::2] = 1
    return center + radius * (1 - 1e-9) * shrink * away / length


def norm_name(norm: float) -> str:
    """How a norm is written in tables and on axes."""
    return r"$\ell_\infty$" if norm == torch.inf else rf"$\ell_{norm:g}$"


def style(method: str) -> dict[str, Any]:
    """How the curve of a method is drawn."""
    return {"label": method, "linewidth": 1.8, "markersize": 5, **STYLES[method]}


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure of panels; sizes in inches, 100 pixels each."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots(rows, columns, squeeze=False).tolist()


def save(drawn: Figure, path: Path) -> None:
    """Add one legend below all panels and write the picture; its format is the path's suffix."""
    shown = {label: line for panel in drawn.axes for line, label in zip(*panel.get_legend_handles_labels())}
    drawn.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False, fontsize=10)
    if path.suffix == ".png":  # 64 colours are enough for lines and bars, in a third of the bytes
        content = io.BytesIO()
        drawn.savefig(content, format="png", dpi=100)
        Image.open(content).convert("RGB").quantize(64).save(path, optimize=True)
    else:
        drawn.savefig(path)
    print(f"wrote {path}")


def main() -> None:
    """Train the deepest network of each kind."""
    for activation, hidden, epochs in (("relu", [64] * 6, 40), ("tanh", [50] * 4, 40), ("leaky", [20] * 6, 80)):
        right = accuracy(trained(activation, hidden, epochs=epochs))
        print(f"{activation:6}{len(hidden)} hidden layers of {hidden[0]}: {right:.1%} of the test images")
        assert right > 0.9, "a network that learned little says little about bounds"


if __name__ == "__main__":
    main()
