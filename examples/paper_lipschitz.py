"""Figure 3 of the RecurJac paper: the local Lipschitz constant of a class's output against the radius of the ball.

For a ReLU and a tanh network and balls of norm inf and 2: upper bounds by Fast-Lip, RecurJac and RecurJac-Linear, the
product of the layers' operator norms, which holds everywhere, and from below the largest gradient that sampling meets.
The constants are means over test images.

Run `python examples/paper_lipschitz.py [--plot FILE] [--quick]`. With `--vnncomp`, and the environment variable
VNNCOMP_BENCHMARKS naming a folder of VNN-COMP benchmarks, it takes networks of mnistfc and eran instead.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from paper_networks import class_rows, correct_images, norm_name, panels, save, style, trained
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

BOUNDS = ("Fast-Lip", "RecurJac", "RecurJac-Linear")  # from the loosest to the tightest
CURVES = ("Operator-Norm", *BOUNDS, "sampled")
DECADES = {math.inf: (-3.0, 0.5), 2.0: (-2.0, 1.5)}  # powers of 10 between which the radii lie
VNNCOMP = (  # benchmark, network
    ("mnistfc", "mnist-net_256x4.onnx"),
    ("eran", "nets/mnist_relu_9_200.onnx"),
    ("eran", "nets/ffnnSIGMOID__Point_6x200.onnx"),
)


@dataclass(frozen=True)
class Subject:
    """A network and the images around which it is looked at."""

    name: str
    net: nn.Module
    images: Tensor


def digits_subjects(quick: bool) -> list[Subject]:
    """The two networks trained here."""
    found = []
    for title, activation, hidden in (
        ("ReLU, 6 hidden layers of 64", "relu", [64] * 6),
        ("tanh, 4 hidden layers of 50", "tanh", [50] * 4),
    ):
        net = trained(activation, hidden, epochs=10 if quick else 40)
        found.append(Subject(title, net, correct_images([net], 2 if quick else 10)))
    return found


def vnncomp_subjects(folder: Path) -> list[Subject]:
    """Networks of VNN-COMP, each with the image in the middle of its first property."""
    found = []
    for benchmark, network in VNNCOMP:
        instances = csv.reader((folder / benchmark / "instances.csv").read_text().splitlines())
        prop = next(row[1] for row in instances if row[0].removeprefix("./").endswith(network))
        net, box = rj.load_onnx(folder / benchmark / network), rj.load_vnnlib(folder / benchmark / prop).boxes[0]
        image = torch.tensor((box.lower + box.upper) / 2, dtype=net.dtype).reshape(1, *net.input_shape)
        found.append(Subject(Path(network).stem, net, image))
    return found


def constants(subject: Subject, norm: float, radii: list[float]) -> dict[str, Tensor]:
    """Lipschitz constants of the class's output by method: (radii, images) each."""
    images, C = subject.images, class_rows(subject.net, subject.images)
    model = BoundedModule(subject.net, images)
    everywhere = rj.global_lipschitz(model, norm=norm, method="Operator-Norm", C=C, per_output=True)[:, 0]
    found: dict[str, list[Tensor]] = {name: [] for name in CURVES}
    for radius in radii:
        x = BoundedTensor(images, PerturbationLpNorm(norm=norm, eps=radius))
        found["Operator-Norm"].append(everywhere)
        for method in BOUNDS:
            with torch.no_grad():
                found[method].append(rj.local_lipschitz(model, x, method=method, C=C, per_output=True)[:, 0])
        found["sampled"].append(rj.sampled_lipschitz(model, x, C=C, per_output=True)[:, 0])
    curves = {name: torch.stack(values) for name, values in found.items()}
    curves["sampled"] = curves["sampled"].cummax(0).values  # a larger ball holds the points of the smaller ones
    return curves


def check(curves: dict[str, Tensor], norm: float, dtype: torch.dtype) -> None:
    """What holds of every network, image and radius."""
    slack = 1 + 1e3 * torch.finfo(dtype).eps
    for looser, tighter in (("Fast-Lip", "RecurJac"), ("RecurJac", "RecurJac-Linear")):
        assert (curves[tighter] <= curves[looser] * slack).all(), f"{tighter} is no looser than {looser}"
    for name in CURVES[:-1]:
        assert (curves["sampled"] <= curves[name] * slack).all(), f"{name} is an upper bound"
    assert (curves["RecurJac"][-1] <= 1.01 * curves["RecurJac"][-2]).all(), "RecurJac's constant stops growing"
    if norm == math.inf:  # in l_2 the magnitudes of products of matrices may exceed the product of their norms
        assert (2 * curves["RecurJac"][-1] < curves["Operator-Norm"][-1]).all(), "far below the product of norms"


def report(curves: dict[str, Tensor], radii: list[float], title: str) -> None:
    """Print the means, and where RecurJac ends."""
    print(f"\n{title}\n{'radius':>9}" + "".join(f"{name:>17}" for name in curves))
    for i, radius in enumerate(radii):
        print(f"{radius:9.4g}" + "".join(f"{values[i].mean():17.5g}" for values in curves.values()))
    product, *ends = (curves[name][-1].mean().item() for name in ("Operator-Norm", "RecurJac", "RecurJac-Linear"))
    print(f"product of operator norms / RecurJac: {product / ends[0]:.3g}, / RecurJac-Linear: {product / ends[1]:.3g}")


def main() -> None:
    """Compute, print, draw, check."""
    parser = argparse.ArgumentParser(description="Local Lipschitz constants against the radius.")
    parser.add_argument(
        "--plot", type=Path, default=Path("paper_lipschitz.png"), help="picture to write: .png, .pdf or .svg"
    )
    parser.add_argument("--quick", action="store_true", help="few radii and images, networks trained for a moment")
    parser.add_argument("--vnncomp", action="store_true", help="networks of $VNNCOMP_BENCHMARKS instead of digits")
    options = parser.parse_args()
    folder = os.environ.get("VNNCOMP_BENCHMARKS")
    if options.vnncomp and not folder:
        parser.error("--vnncomp needs the environment variable VNNCOMP_BENCHMARKS, the folder of the benchmarks.")
    subjects = vnncomp_subjects(Path(folder or "")) if options.vnncomp else digits_subjects(options.quick)

    drawn, axes = panels(2, len(subjects), 9.0, 6.6)
    for column, subject in enumerate(subjects):
        for row, (norm, (first, last)) in enumerate(DECADES.items()):
            count = 5 if options.quick else 15
            radii = torch.logspace(first, last, count, dtype=torch.float64).tolist()
            curves = constants(subject, norm, radii)
            report(curves, radii, f"{subject.name}, norm {norm:g}, mean of {len(subject.images)} image(s)")
            for name, values in curves.items():
                axes[row][column].loglog(radii, values.mean(1), **style(name))
            axes[row][column].set_xlabel(f"radius of the {norm_name(norm)} ball")
            axes[row][column].grid(alpha=0.3)
            axes[row][0].set_ylabel(f"Lipschitz constant ({norm_name(norm)})")
            axes[0][column].set_title(subject.name)
            check(curves, norm, subject.images.dtype)
    save(drawn, options.plot)


if __name__ == "__main__":
    main()
