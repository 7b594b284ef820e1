"""Certificates of Jacobian bounds: exact differences lie in what is accepted, and changed ones are rejected."""

from __future__ import annotations

import copy
import json
import math
from fractions import Fraction

import numpy as np
import onnx
import pytest
from certified import perceptron
from places import DATA
from processes import python

from recurjac_plugin.checker import Rejected, check_jacobian
from recurjac_plugin.checker.files import check_bounds, network_of
from recurjac_plugin.checker.jacobian import load_claims
from recurjac_plugin.verification.jacobian_certificate import BoundsOnABox, write_jacobian_certificate

LOW, HIGH = np.array([-0.5, -0.3]), np.array([0.7, 0.4])


def outputs(path, x: list[Fraction]) -> list[Fraction]:
    """Of a perceptron, exactly."""
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    depth = len(stored) // 2
    for i in range(depth):
        W, b = stored[f"W{i}"], stored[f"b{i}"]
        x = [sum(Fraction(float(W[j, k])) * x[j] for j in range(len(x))) + Fraction(float(b[k])) for k in range(len(b))]
        x = x if i == depth - 1 else [max(each, Fraction(0)) for each in x]
    return x


def sampled_quotients(path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and largest exact difference quotients between points of the box, as Fractions (k, 2)."""
    random, found = np.random.default_rng(seed), []
    for _ in range(300):
        x = [Fraction(float(each)) for each in random.uniform(LOW, HIGH)]
        row = []
        for r in range(2):
            y = [*x]
            y[r] = Fraction(float(random.uniform(LOW[r], HIGH[r])))
            pairs = zip(outputs(path, y), outputs(path, x))
            row.append([(one - other) / (y[r] - x[r]) for one, other in pairs])
        found.append(row)
    quotients = np.array(found, dtype=object)  # shape: (points, 2, k)
    return quotients.min(0).T, quotients.max(0).T


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("factor", [0.0, 0.6, 2.0])
def test_accepted_bounds_hold(tmp_path, seed, factor):
    """Whatever bounds are asked for: none that an exact difference contradicts is accepted, and few are given up."""
    path = perceptron(tmp_path, (2, 8, 8, 2), seed)
    smallest, largest = sampled_quotients(path, seed)
    low, high = smallest.astype(float), largest.astype(float)
    claim = BoundsOnABox(LOW, HIGH, low - factor * (high - low), high + factor * (high - low))
    certified = write_jacobian_certificate(*network_of(path), [claim], tmp_path / "j.json")
    accepted = check_jacobian(path, tmp_path / "j.json")
    assert accepted.boxes == certified.boxes
    (tree,) = load_claims((tmp_path / "j.json").read_bytes()).trees
    lower, upper = tree.bounds
    for k in range(2):
        for r in range(2):
            assert Fraction(lower[k, r]) <= smallest[k, r] <= largest[k, r] <= Fraction(upper[k, r])
    assert (lower <= claim.lower).all()
    assert (upper >= claim.upper).all()
    if factor == 2.0:
        assert certified.widened < 1e-6
    if factor == 0.6:
        assert certified.boxes > 1  # RecurJac alone does not show it, its parts do


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Network, its hash, and a certificate with cuts as JSON."""
    folder = tmp_path_factory.mktemp("jacobian")
    path = perceptron(folder, (2, 8, 8, 2), 0)
    smallest, largest = sampled_quotients(path, 0)
    low, high = smallest.astype(float), largest.astype(float)
    claim = BoundsOnABox(LOW, HIGH, low - 0.6 * (high - low), high + 0.6 * (high - low))
    write_jacobian_certificate(*network_of(path), [claim, claim], folder / "j.json")
    assert load_claims((folder / "j.json").read_bytes()).dumped() == (folder / "j.json").read_bytes()
    return (*network_of(path), json.loads((folder / "j.json").read_text()))


def tighter(values):
    values["regions"][0]["jacobian"]["lower"][0][0] = values["regions"][0]["jacobian"]["upper"][0][0]


def ends_exchanged(values):
    jacobian = values["regions"][0]["jacobian"]
    jacobian["lower"], jacobian["upper"] = jacobian["upper"], jacobian["lower"]


def larger_box(values):
    values["regions"][0]["upper"] = [(3.0).hex()] * 2


def box_turned_around(values):
    region = values["regions"][0]
    region["lower"], region["upper"] = region["upper"], region["lower"]


def leaf_missing(values):
    values["regions"][0]["nodes"].pop()


def cut_missing(values):
    values["regions"][0]["nodes"][0] = {}


def node_twice(values):
    cut = values["regions"][0]["nodes"][0]["cut"]
    cut[3] = cut[2]


def circle(values):
    values["regions"][0]["nodes"][0]["cut"][3] = 0


def cut_outside(values):
    values["regions"][0]["nodes"][0]["cut"][1] = (9.0).hex()


def other_input(values):
    values["regions"][0]["nodes"][0]["cut"][0] = 5


def output_missing(values):
    values["regions"][0]["jacobian"]["lower"].pop()


def no_proof(values):
    values["regions"][0]["nodes"] = []


def ragged(values):
    values["regions"][0]["jacobian"]["lower"][0].pop()


def nan(values):
    values["regions"][0]["jacobian"]["lower"][0][0] = "nan"


def infinite(values):
    values["regions"][0]["jacobian"]["lower"][0][0] = "-inf"


def number(values):
    values["regions"][0]["jacobian"]["lower"][0][0] = math.nan


def other_claim(values):
    values["claim"] = "unsat"


def other_network(values):
    values["network"]["sha256"] = "0" * 64


CHANGES = [
    tighter, ends_exchanged, larger_box, box_turned_around, leaf_missing, cut_missing, node_twice, circle, cut_outside,
    other_input, output_missing, no_proof, ragged, nan, infinite, number, other_claim, other_network,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_certificates_are_rejected(certificate, change):
    network, network_hash, values = certificate
    values = copy.deepcopy(values)
    check_bounds(network, network_hash, json.dumps(values).encode())
    change(values)
    with pytest.raises(Rejected):
        check_bounds(network, network_hash, json.dumps(values).encode())


def test_the_program_takes_them(tmp_path):
    path = DATA / "digits_relu.onnx"
    network, network_hash = network_of(path)
    n, k = network.vectors[0].size, network.vectors[-1].size
    wide = np.full((k, n), 1e6)
    claim = BoundsOnABox(np.zeros(n), np.full(n, 0.1), -wide, wide)
    certified = write_jacobian_certificate(network, network_hash, [claim], tmp_path / "j.json.gz")
    assert certified == (1, 0.0)
    shown = python("-m", "recurjac_plugin.checker", path, tmp_path / "j.json.gz")
    assert (shown.returncode, shown.stdout) == (0, "accepted: 1 box in 1 region\n")
    shown = python("-m", "recurjac_plugin.checker", DATA / "digits_cnn.onnx", tmp_path / "j.json.gz")
    assert shown.returncode == 1
    assert shown.stdout.startswith("rejected: it is about another network")
