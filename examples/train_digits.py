"""Train the small networks of `examples/data` and write them as ONNX, with properties in VNN-LIB 1.0 and 2.0.

Three classifiers of scikit-learn's 8x8 digits: a ReLU and a tanh MLP, and a ReLU CNN with batch
normalisation, a residual block and average pooling. For one test image that all of them get right, each
network gets three robustness properties, "is there an image within eps (norm inf) that gets another label?",
at radii that the script finds itself:

    small   CROWN proves that there is none (unsat)
    mid     CROWN cannot tell and projected gradient descent finds none
    large   projected gradient descent finds one (sat)

Run `python examples/train_digits.py` to make them again; it takes less than a minute and needs scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from recurjac_plugin import host

SEED = 1
CLASSES = 10
TIMEOUT = 60  # seconds, for instances.csv


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the input and the body's output."""
        return x + self.body(x)


def networks() -> dict[str, nn.Sequential]:
    """The untrained networks by name."""
    return {
        "relu": nn.Sequential(
            *(nn.Linear(64, 64), nn.ReLU()),
            *(nn.Linear(64, 64), nn.ReLU()),
            *(nn.Linear(64, 64), nn.ReLU()),
            nn.Linear(64, CLASSES),
        ),
        "tanh": nn.Sequential(
            *(nn.Linear(64, 48), nn.Tanh()),
            *(nn.Linear(48, 48), nn.Tanh()),
            nn.Linear(48, CLASSES),
        ),
        "cnn": nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, CLASSES),
        ),
    }


def digits(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; images lie in [0, 1] and have the given shape."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.25, random_state=SEED, stratify=labels)
    train_x, test_x = (torch.tensor(part, dtype=torch.float32).reshape(-1, *shape) for part in split[:2])
    train_y, test_y = (torch.tensor(part) for part in split[2:])
    return train_x, train_y, test_x, test_y


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int = 40) -> None:
    """Fit a network with noisy images, which also makes it a little more robust."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            noisy = (images[batch] + 0.1 * torch.randn_like(images[batch])).clamp(0, 1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(noisy), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    net.eval()


class OnnxWriter:
    """Writes networks of the layers used here as ONNX, the same bytes with every release of torch."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], *weights: Tensor | None, **attributes: Any) -> str:
        """Append a node with constant inputs after its computed ones; returns the name of its output."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        given = [weight.detach().numpy() for weight in weights if weight is not None]
        constants = [f"{name}_weight_{i}" for i in range(len(given))]
        self.weights += map(numpy_helper.from_array, given, constants)
        self.nodes.append(helper.make_node(operator, inputs + constants, [name], name, **attributes))
        return name

    def layer(self, layer: nn.Module, x: str) -> str:
        """Append one torch layer that reads `x`; returns the name of its output."""
        match layer:
            case nn.Sequential():
                for part in layer:
                    x = self.layer(part, x)
                return x
            case Residual():
                return self.add("Add", [x, self.layer(layer.body, x)])
            case nn.Linear():
                return self.add("Gemm", [x], layer.weight, layer.bias, transB=1)
            case nn.Conv2d():
                shape = {"kernel_shape": layer.kernel_size, "pads": [int(p) for p in layer.padding] * 2}
                return self.add("Conv", [x], layer.weight, layer.bias, **shape)
            case nn.BatchNorm2d():
                statistics = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
                return self.add("BatchNormalization", [x], *statistics, epsilon=layer.eps)
            case nn.AvgPool2d():
                size = [layer.kernel_size] * 2
                return self.add("AveragePool", [x], kernel_shape=size, strides=size)
            case nn.ReLU() | nn.Tanh() | nn.Flatten():
                return self.add({nn.ReLU: "Relu", nn.Tanh: "Tanh", nn.Flatten: "Flatten"}[type(layer)], [x])
        raise TypeError(f"`{type(layer).__name__}` has no ONNX form here.")


def write_onnx(net: nn.Sequential, shape: tuple[int, ...], path: Path) -> None:
    """Write a network with a free batch dimension."""
    writer = OnnxWriter()
    output = writer.layer(net, "image")
    graph = helper.make_graph(
        writer.nodes,
        path.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", CLASSES])],
        writer.weights,
    )
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, producer_name="train_digits")
    model.ir_version = 8  # read by every onnxruntime of the last years
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def real(value: float) -> str:
    """A decimal without exponent, as both versions of VNN-LIB accept it."""
    return np.format_float_positional(round(value, 6), trim="0")


def vnnlib_1(lower: Tensor, upper: Tensor, label: int, title: str) -> str:
    """The property in VNN-LIB 1.0: one scalar per pixel and per class."""
    box = zip(lower.flatten().tolist(), upper.flatten().tolist(), strict=True)
    lines = [f"; {title}", ""]
    lines += [f"(declare-const X_{i} Real)" for i in range(lower.numel())]
    lines += [f"(declare-const Y_{i} Real)" for i in range(CLASSES)]
    for i, (low, high) in enumerate(box):
        lines += [f"(assert (>= X_{i} {real(low)}))", f"(assert (<= X_{i} {real(high)}))"]
    others = [f"    (and (>= Y_{j} Y_{label}))" for j in range(CLASSES) if j != label]
    return "\n".join([*lines, "(assert (or", *others, "))", ""])


def vnnlib_2(lower: Tensor, upper: Tensor, label: int, title: str) -> str:
    """The property in VNN-LIB 2.0: tensors with a batch dimension of 1, as the network has them."""
    shape = ", ".join(str(size) for size in (1, *lower.shape))
    lines = [f"; {title}", "(vnnlib-version <2.0>)", "(declare-network digits"]
    lines += [f"    (declare-input X float32 [{shape}])"]
    lines += [f"    (declare-output Y float32 [1, {CLASSES}])", ")"]
    for index in np.ndindex(*lower.shape):
        x = f"X[{', '.join(str(i) for i in (0, *index))}]"
        low, high = real(float(lower[index])), real(float(upper[index]))
        lines += [f"(assert (and (>= {x} {low}) (<= {x} {high})))"]
    others = [f"    (>= Y[0, {j}] Y[0, {label}])" for j in range(CLASSES) if j != label]
    return "\n".join([*lines, "(assert (or", *others, "))", ""])


def ball(image: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The images within eps of one (norm inf) whose pixels stay in [0, 1]."""
    return (image - eps).clamp(0, 1), (image + eps).clamp(0, 1)


def margins(label: int) -> Tensor:
    """The specification ``y[label] - y[j]`` for every other class j; shape: (1, 9, 10)."""
    others = torch.tensor([j for j in range(CLASSES) if j != label])
    identity = torch.eye(CLASSES)
    return (identity[label] - identity[others]).unsqueeze(0)


def proved(net: nn.Module, image: Tensor, label: int, eps: float) -> bool:
    """Whether CROWN proves that every image in the ball keeps the label."""
    lower, upper = ball(image, eps)
    region = host.PerturbationLpNorm(norm=float("inf"), x_L=lower.unsqueeze(0), x_U=upper.unsqueeze(0))
    model = host.BoundedModule(net, image.unsqueeze(0))
    x = host.BoundedTensor(image.unsqueeze(0), region)
    bound, _ = model.compute_bounds(x=(x,), C=margins(label), method="CROWN", bound_upper=False)
    return bool((bound > 0).all())


def attacked(net: nn.Module, image: Tensor, label: int, eps: float) -> bool:
    """Whether projected gradient descent finds an image in the ball with another label."""
    starts, steps = 50, 60
    lower, upper = ball(image, eps)
    generator = torch.Generator().manual_seed(SEED)
    x = lower + (upper - lower) * torch.rand(starts, *image.shape, generator=generator)
    for _ in range(steps):
        x.requires_grad_()
        worst = (net(x) @ margins(label)[0].T).min(dim=1).values
        if bool((worst < 0).any()):
            return True
        (slope,) = torch.autograd.grad(worst.sum(), x)
        x = torch.minimum(torch.maximum(x.detach() - eps / 10 * slope.sign(), lower), upper)
    return False


def radii(net: nn.Module, image: Tensor, label: int) -> dict[str, float]:
    """A small, a mid and a large radius as the module's text describes them."""
    grid = [step / 200 for step in range(1, 101)]
    unproved = next(i for i, eps in enumerate(grid) if not proved(net, image, label, eps))
    unsafe = next(i for i, eps in enumerate(grid) if i >= unproved and attacked(net, image, label, eps))
    return {
        "small": round(grid[unproved - 1] * 0.7, 3),
        "mid": round((grid[unproved] + grid[unsafe - 1]) / 2, 3),
        "large": round(grid[unsafe] * 1.3, 3),
    }


def check(net: nn.Module, path: Path, images: Tensor, labels: Tensor) -> float:
    """Assert what the shipped file is good for; returns its test accuracy, computed by onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert np.abs(outputs - net(images).numpy()).max() < 1e-4, f"onnxruntime disagrees on {path.name}"
    accuracy = float((outputs.argmax(1) == labels.numpy()).mean())
    assert accuracy >= 0.95, f"{path.name} is right on {accuracy:.1%} of the test images only"
    return accuracy


def write_properties(net: nn.Module, name: str, image: Tensor, label: int, out: Path) -> list[str]:
    """Write the properties of one network; returns its lines of instances.csv."""
    instances = []
    found = radii(net, image, label)
    for size, eps in found.items():
        title = f"Another label than {label} within {eps} (norm inf) of a digit? Network: digits_{name}.onnx"
        bounds = ball(image, eps)
        (out / f"digits_{name}_{size}.vnnlib").write_text(vnnlib_1(*bounds, label, title))
        instances.append(f"digits_{name}.onnx,digits_{name}_{size}.vnnlib,{TIMEOUT}")
        if size == "mid":
            (out / f"digits_{name}_{size}.v2.vnnlib").write_text(vnnlib_2(*bounds, label, title))
    assert proved(net, image, label, found["small"])
    assert attacked(net, image, label, found["large"])
    print(f"  eps {found}")
    return instances


def main() -> None:
    """Train, write and check everything."""
    parser = argparse.ArgumentParser(description="Train the networks of examples/data.")
    data = Path(__file__).parent / "data"
    parser.add_argument("--out", type=Path, default=data, help="where to write the files")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums in one order: the same bytes on every run

    shapes = {"relu": (64,), "tanh": (64,), "cnn": (1, 8, 8)}
    trained = networks()
    right = torch.ones(())
    for name, net in trained.items():
        train_x, train_y, test_x, test_y = digits(shapes[name])
        train(net, train_x, train_y)
        write_onnx(net, shapes[name], out / f"digits_{name}.onnx")
        accuracy = check(net, out / f"digits_{name}.onnx", test_x, test_y)
        print(f"digits_{name}.onnx: {accuracy:.1%} of {len(test_y)} test images")
        right = right * (net(test_x).argmax(1) == test_y)

    chosen = int(right.nonzero()[0])
    instances = []
    for name, net in trained.items():
        _, _, test_x, test_y = digits(shapes[name])
        instances += write_properties(net, name, test_x[chosen], int(test_y[chosen]), out)
    (out / "instances.csv").write_text("\n".join(instances) + "\n")

    size = sum(path.stat().st_size for path in out.glob("*.onnx"))
    assert size < 300_000, f"the networks take {size} bytes together"
    print(f"{size} bytes of ONNX, {len(instances)} properties in {out}")


if __name__ == "__main__":
    main()
