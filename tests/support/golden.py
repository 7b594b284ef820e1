"""Numbers of the published RecurJac code.

The full set of cases is found through RECURJAC_GOLDEN or in a folder ``shared/golden`` next to the repository; without
it there is the subset in ``tests/data/golden``.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from cases import mlp
from oracle import Ball
from places import ROOT
from torch import nn

from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.host import BoundedModule

SUBSET = ROOT / "tests" / "data" / "golden"
BESIDE = ROOT.parent / "shared" / "golden"
FOLDER = Path(os.environ.get("RECURJAC_GOLDEN") or (BESIDE if BESIDE.is_dir() else SUBSET))
CASES = {case["name"]: case for case in json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))["cases"]}
for case in CASES.values():
    with np.load(FOLDER / case["file"], allow_pickle=False) as file:
        case["arrays"] = set(file.files)
LOCAL = [name for name, case in CASES.items() if case["kind"] == "local"]
NORMS = (1.0, 2.0, math.inf)


class Arctan(nn.Module):
    """As a layer; torch has none."""

    def forward(self, x):
        return torch.arctan(x)


MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "arctan": Arctan}


class Golden:
    """One case: the network on the host, and its arrays."""

    def __init__(self, name, dtype):
        self.case, self.dtype = CASES[name], dtype
        with np.load(FOLDER / self.case["file"], allow_pickle=False) as file:
            self.arrays = {key: torch.tensor(file[key]) for key in file.files}
        activation = MODULES.get(self.case["activation"], lambda: nn.LeakyReLU(self.case["slope"]))
        self.net = mlp(activation, self.case["widths"])
        linear = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        for i, layer in enumerate(linear):
            layer.weight.data, layer.bias.data = self.arrays[f"W{i}"], self.arrays[f"b{i}"]
        self.net.to(dtype)
        self.center = self.arrays["x0"].to(dtype).unsqueeze(0)
        self.model = BoundedModule(self.net, self.center)

    def region(self, norm=None):
        """The ball that it was computed on, or that of the same radius in another norm."""
        return Ball(self.center, float(self.arrays["eps"]), float(self.arrays["norm"]) if norm is None else norm)

    def given(self):
        """The published code's pre-activation bounds, by the host's names of the nodes."""
        readers = [node for node in self.model._modules.values() if type(node).__name__ in ACTIVATIONS]
        assert len(readers) == len(self.case["widths"]) - 2
        return {
            node.inputs[0].name: tuple(
                self.arrays[f"pre{side}{i}"].to(self.dtype).unsqueeze(0) for side in ("LB", "UB")
            )
            for i, node in enumerate(readers)
        }
