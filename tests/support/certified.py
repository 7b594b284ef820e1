"""Small problems with certificates, and certificates with one thing changed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx_files import model, node, save

from recurjac_plugin.checker import Accepted
from recurjac_plugin.checker.document import Certificate, load
from recurjac_plugin.checker.files import Problem, check_content
from recurjac_plugin.verification.certificate import write_certificate


@dataclass(frozen=True)
class Certified:
    """The files of a problem, and its certificate.

    Attributes:
        network: ONNX file.
        prop: VNN-LIB file.
        certificate: JSON file.
    """

    network: Path
    prop: Path
    certificate: Path

    @property
    def values(self) -> Any:
        """The certificate as JSON."""
        return json.loads(self.certificate.read_text())

    @property
    def document(self) -> Certificate:
        """The certificate as the checker reads it."""
        return load(self.certificate.read_bytes())

    def check(self, values: Any) -> Accepted:
        """What the checker says about a changed certificate."""
        return check_content(Problem.read(self.network, self.prop), json.dumps(values).encode())


def perceptron(folder: Path, sizes: tuple[int, ...], seed: int, scale: float = 1.0) -> Path:
    """A ReLU network with these layer sizes and random float32 weights."""
    random = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    nodes, name = [], "x"
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        weights[f"W{i}"] = scale * random.standard_normal((n, m)) / np.sqrt(n)
        weights[f"b{i}"] = 0.1 * random.standard_normal(m)
        last = i == len(sizes) - 2
        nodes.append(node("Gemm", f"{name} W{i} b{i}", "y" if last else f"a{i}"))
        if not last:
            nodes.append(node("Relu", f"a{i}", f"r{i}"))
        name = f"r{i}"
    path = folder / f"{'-'.join(map(str, sizes))}_{seed}.onnx"
    return save(path, model(nodes, ["b", sizes[0]], ["b", sizes[-1]], weights))


def declared(inputs: int, outputs: int) -> str:
    """The declarations of VNN-LIB 1.0."""
    names = [*(f"X_{i}" for i in range(inputs)), *(f"Y_{i}" for i in range(outputs))]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def bounded(ends: list[tuple[str, str]]) -> str:
    """Bounds of all inputs."""
    return " ".join(f"(>= X_{i} {low}) (<= X_{i} {high})" for i, (low, high) in enumerate(ends))


def every_step(folder: Path) -> Certified:
    """A problem with two regions, disjuncts of several rows, and a certificate with steps of every kind."""
    network, prop = perceptron(folder, (3, 12, 12, 3), 2), folder / "every.vnnlib"
    # Decimals that float64 does not have: the ends of the boxes lie outside of these.
    regions = ([("-0.7", "0.3"), ("-0.1", "0.9"), ("0.1", "0.7")], [("0.3", "0.9"), ("-0.7", "-0.3"), ("-0.9", "0.1")])
    boxes = " ".join(f"(and {bounded(ends)})" for ends in regions)
    outputs = "(or (<= Y_0 -0.491) (and (>= Y_1 0.88) (<= Y_0 2.0)) (and (<= Y_2 -0.435) (>= Y_1 Y_2)))"
    prop.write_text(f"{declared(3, 3)}(assert (or {boxes}))\n(assert {outputs})\n")
    write_certificate(Problem.read(network, prop), folder / "every.json")
    return Certified(network, prop, folder / "every.json")


Change = Callable[[Any], None]
"""What is done to a certificate."""
