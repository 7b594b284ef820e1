"""Modules that write into their input: the same answers as without, and the input of the caller stays as it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from commands import answer
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedTensor, PerturbationLpNorm


class Scaled(nn.Module):
    """``x -> f((x - 0.5) / 2)``, as image networks do it, in place or not."""

    def __init__(self, net, in_place):
        super().__init__()
        self.net, self.in_place = net, in_place

    def forward(self, x):
        if not self.in_place:
            return self.net((x - 0.5) / 2)
        x -= 0.5
        x /= 2
        return self.net(x)


def rectified(net, in_place):
    return nn.Sequential(nn.ReLU(inplace=in_place), net)


@pytest.fixture(params=[rectified, Scaled], ids=lambda made: made.__name__)
def pair(request):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    return request.param(net, True), request.param(net, False)


# The host traces modules as they are, and torch says that it leaves their writing out of the graph.
pytestmark = pytest.mark.filterwarnings("ignore:ONNX Preprocess")

CENTERS = torch.tensor([[0.3, -0.4, 0.9], [0.1, 0.7, -0.2]], dtype=torch.float64)

PROPERTY = """
(declare-const X_0 Real) (declare-const X_1 Real) (declare-const X_2 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (and (>= X_0 0.0) (<= X_0 1.0) (>= X_1 -1.0) (<= X_1 1.0) (>= X_2 0.25) (<= X_2 0.25)))
(assert (>= Y_0 {bound}))
"""


def ball():
    return BoundedTensor(CENTERS, PerturbationLpNorm(norm=math.inf, eps=0.2))


def columns(table, *names):
    return [[row[name] for name in names] for row in table.rows]


CALLS = {
    "sampled_lipschitz": lambda net: rj.sampled_lipschitz(net, ball(), points=8, steps=3).tolist(),
    "compare": lambda net: columns(
        rj.compare(net, ball(), methods=["RecurJac", "CROWN"]), "method", "jacobian_width", "lipschitz", "output_width"
    ),
    "lipschitz_curve": lambda net: columns(
        rj.lipschitz_curve(net, CENTERS, [0.1], methods=["RecurJac"], samples=8, steps=3), "method", "input", "constant"
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_same_numbers_and_the_input_stays(name, pair):
    kept = CENTERS.clone()
    found, expected = (CALLS[name](net) for net in pair)
    assert torch.equal(CENTERS, kept)
    assert found == expected


@pytest.mark.parametrize("least", [-10.0, 0.0, 10.0])
def test_the_same_verdict(least, pair, tmp_path):
    """And a counterexample that is an input of the box, not what the module made of it."""
    file = tmp_path / "property.vnnlib"
    file.write_text(PROPERTY.format(bound=least))
    spec = rj.load_vnnlib(file)
    found, expected = (rj.verify(net, spec, timeout=20) for net in pair)
    assert found.verdict is expected.verdict
    assert (found.counterexample is None) == (expected.counterexample is None)
    if found.counterexample is not None:
        (box,) = spec.boxes
        x = torch.as_tensor(found.counterexample.x)
        assert bool((x >= torch.as_tensor(box.lower)).all() & (x <= torch.as_tensor(box.upper)).all())
        assert pair[1](x.reshape(1, 3))[0, 0].item() >= least


def test_commands_take_them(tmp_path):
    file = tmp_path / "networks.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n\ndef network(in_place):\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.ReLU(inplace=in_place), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))\n\n\n"
        "def given():\n    return network(True)\n\n\ndef other():\n    return network(False)\n"
    )
    np.save(tmp_path / "x.npy", CENTERS.numpy().astype(np.float32))
    options = ["--input", tmp_path / "x.npy", "--eps", "0.1", "--method", "RecurJac"]
    answers = [answer("jacobian", f"{file}:{name}", *options) for name in ("given", "other")]
    found, expected = ({k: v for k, v in each.items() if k not in ("model", "seconds")} for each in answers)
    assert found == expected
