"""Verdicts on networks that jump: nothing proved is violated on either side, and counterexamples are onnxruntime's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from jumping import climbed, either_side
from onnx_files import model, node, save

import recurjac_plugin as rj
from recurjac_plugin.networks.onnx import onnx_session
from recurjac_plugin.properties.spec import Box, Polytope, Spec
from recurjac_plugin.verification.attacks.blind import is_flat

RANDOM = np.random.default_rng(5)
LOGIC = [
    node("Greater", "h z", "a"), node("LessOrEqual", "h o", "b"), node("And", "a b", "c"), node("Not", "c", "d"),
    node("Cast", "d", "j", to=1),
]  # fmt: skip
OPERATORS = {
    **{name: [node(name, "h", "j")] for name in ("Sign", "Floor", "Ceil", "Round")},
    "logic": LOGIC,
    "choice": [node("Less", "h z", "a"), node("Where", "a h o", "j")],
    "whole numbers": [node("Cast", "h", "i", to=7), node("Cast", "i", "j", to=1)],
    "position": [node("ArgMax", "h", "i", axis=1, keepdims=1), node("Cast", "i", "p", to=1), node("Mul", "p e", "j")],
}


def network(folder, operator):
    weights = {
        "w": 2 * RANDOM.normal(size=(3, 6)), "v": RANDOM.normal(size=6), "u": RANDOM.normal(size=(6, 2)),
        "z": np.array(0.1), "o": np.array(0.8), "e": np.ones((1, 6)),
    }  # fmt: skip
    nodes = [node("MatMul", "x w", "g"), node("Add", "g v", "h"), *OPERATORS[operator], node("MatMul", "j u", "y")]
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    return rj.load_onnx(save(folder / "net.onnx", model(nodes, (1, 3), (1, 2), weights)))


def at_least(threshold, low, high):
    """Whether the first output gets so large on a box."""
    polytope = Polytope(A=np.array([[-1.0, 0.0]]), b=np.array([-threshold]), strict=np.zeros(1, dtype=bool))
    closed = np.zeros(3, dtype=bool)
    box = Box(lower=low, upper=high, disjuncts=(polytope,), lower_open=closed, upper_open=closed)
    return Spec(boxes=(box,), n_inputs=3, n_outputs=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [None, "CROWN", "IBP"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_verdicts_are_right(operator, method, tmp_path):
    loaded = network(tmp_path, operator)
    session, exact = onnx_session(loaded.path), copy.deepcopy(loaded).double()
    center = RANDOM.normal(size=3)
    for radius in (1e-3, 0.05):
        low, high = center - radius, center + radius
        ends = torch.from_numpy(low), torch.from_numpy(high)
        points = climbed(exact, either_side(exact, *ends, 60), *ends, torch.tensor([[1.0, 0.0]]).double(), 20)
        values = session(points.numpy().astype(np.float32))[:, 0].max(), float(exact(points)[:, 0].max())
        largest = max(map(float, values))
        for threshold, expected in ((largest - 1e-3, "sat"), (largest + 20.0, "unsat"), (largest + 1e-4, None)):
            result = rj.verify(loaded, at_least(threshold, low, high), method=method, timeout=5.0 if expected else 0.5)
            if expected == "sat":
                assert result.verdict is not rj.Verdict.UNSAT
            elif expected == "unsat":
                assert result.verdict is rj.Verdict.UNSAT
            if result.verdict is rj.Verdict.SAT:
                x = np.asarray(result.counterexample.x, dtype=np.float32).reshape(1, -1)
                assert session(x)[0, 0] >= threshold


def test_what_float32_has_on_the_other_side_of_a_jump_is_not_proved(tmp_path):
    """In real arithmetic the sum is 1 and its sign, too; summed up in float32 it may be 0."""
    weights = {"w": np.array([[1.0], [1.0], [-1.0]]), "u": np.array([[1.0, 1.0]])}
    nodes = [node("MatMul", "x w", "h"), node("Sign", "h", "s"), node("MatMul", "s u", "y")]
    path = save(
        tmp_path / "n.onnx", model(nodes, (1, 3), (1, 2), {k: v.astype(np.float32) for k, v in weights.items()})
    )
    point = np.array([1e8, 1.0, 1e8])
    spec = at_least(0.5, point, point)
    lower = Spec(boxes=(replaced(spec.boxes[0]),), n_inputs=3, n_outputs=2)
    result = rj.verify(rj.load_onnx(path), lower, timeout=3.0)
    assert result.verdict is not rj.Verdict.UNSAT


def replaced(box):
    """At most a half, instead of at least."""
    polytope = Polytope(A=np.array([[1.0, 0.0]]), b=np.array([0.5]), strict=np.zeros(1, dtype=bool))
    return Box(box.lower, box.upper, (polytope,), box.lower_open, box.upper_open)


def test_where_gradients_say_nothing_the_search_does_without_them_first(tmp_path):
    box = at_least(0.0, np.zeros(3), np.ones(3)).boxes[0]
    assert is_flat(network(tmp_path, "Sign"), box)
    assert is_flat(network(tmp_path, "logic"), box)
    nodes = [node("MatMul", "x w", "h"), node("Sign", "h", "s"), node("Add", "h s", "y")]
    weights = {"w": np.ones((3, 2), np.float32)}
    assert not is_flat(rj.load_onnx(save(tmp_path / "n.onnx", model(nodes, (1, 3), (1, 2), weights))), box)


@pytest.mark.parametrize("weights", [np.ones((3, 2)), np.array([[1.0, -1.0]] * 3)])
def test_rectifiers_that_are_off_in_the_middle_and_outputs_that_cancel_are_not_flat(weights, tmp_path):
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r s", "y")]
    stored = {"w": weights.astype(np.float32), "s": np.array([[1, -1], [1, -1]], dtype=np.float32)}
    loaded = rj.load_onnx(save(tmp_path / "n.onnx", model(nodes, (1, 3), (1, 2), stored)))
    for centre in (0.0, -0.1):
        box = at_least(0.0, np.full(3, centre - 1.0), np.full(3, centre + 1.0)).boxes[0]
        assert not is_flat(loaded, box)


@pytest.mark.filterwarnings("ignore")
def test_methods_without_outputs_of_their_own_are_refused(tmp_path):
    loaded = network(tmp_path, "Sign")
    with pytest.raises(rj.UnsupportedError, match="piecewise constant"):
        rj.verify(loaded, at_least(100.0, np.zeros(3), np.ones(3)), method="RecurJac-Linear")
