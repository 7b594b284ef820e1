"""The comparisons with other programs, as far as they go without these: what they read, and what they do without."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import run_script
from torch import nn

FOLDER = Path(__file__).parent.parent / "benchmarks" / "peers"
sys.path.insert(0, str(FOLDER))

import lipbab  # noqa: E402
import ours  # noqa: E402
import tables  # noqa: E402


@pytest.mark.parametrize("name", ["lipbab", "exlipbab", "pasado"])
def test_without_a_checkout_one_sentence(name, tmp_path):
    found = run_script(FOLDER / f"{name}.py", "--checkout", tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("Skipped: no checkout of ") and found.stdout.count("\n") == 1


def test_published_numbers_name_their_source():
    for file in tables.DATA.glob("*.csv"):
        assert file.read_text(encoding="utf-8").startswith("# ")
        assert all(float(row["l_2"]) > 0 for row in tables.published(file.name))


def test_networks_are_read_as_they_are_stored(tmp_path):
    """Object arrays of matrices of shape (in, out)."""
    rng = np.random.default_rng(0)
    weights, biases = [rng.normal(size=(3, 5)), rng.normal(size=(5, 2))], [rng.normal(size=5), rng.normal(size=2)]
    for kind, arrays in (("weights", weights), ("biases", biases)):
        stored = np.empty(2, dtype=object)
        stored[:] = arrays
        np.save(tmp_path / f"net_{kind}.npy", stored, allow_pickle=True)
    W, b = lipbab.read(tmp_path, "net")
    net, x = ours.perceptron(W, b, nn.ReLU).double(), torch.randn(3, dtype=torch.float64)
    expected = np.maximum(x.numpy() @ weights[0] + biases[0], 0) @ weights[1] + biases[1]
    assert np.allclose(net(x).detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_every_method_is_above_what_is_sampled(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    for region in (ours.box(torch.full((3,), -0.5), torch.full((3,), 0.5)), ours.ball(torch.zeros(3), 0.5)):
        least = ours.sampled(net, region, norm, 500)
        assert least > 0
        for _, method in ours.METHODS:
            found = method(net, region, norm)
            assert found.lower <= least * 1.001 and found.upper >= least * 0.999
