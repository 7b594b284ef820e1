"""One traversal each way, against autograd on a network that is written out a second time."""

from __future__ import annotations

import operator
import weakref
from dataclasses import replace

import pytest
import torch
from small_network import SIZES, derivative, graph, weights

from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.linear_maps import Broadcast
from recurjac_plugin.graph.steps import FactorStep, LinearStep
from recurjac_plugin.graph.sweeps import (
    ancestors,
    at_inputs,
    backward,
    descendants,
    forward,
    pull,
    pull_absolute,
    pull_pattern,
    push,
    push_absolute,
    push_pattern,
    seen_from,
    stop,
    times,
)

W = weights()
GRAPH = graph(W)
D = {"s": torch.tensor([0.5, -1.0, 0.0, 2.0]).double(), "t": torch.tensor([1.0, 0.3, -0.7, 0.0, 1.5]).double()}
ABSOLUTE = {name: matrix.abs() for name, matrix in W.items()}
EYE = torch.eye(4, dtype=torch.float64)


def jacobian(by, matrices=W, d=D, sign=-1):
    return derivative(matrices, d["s"], d["t"], by, sign)


def test_rows_arrive_as_derivatives_wherever_they_are_wanted():
    arrived = backward(GRAPH, "out", EYE, times(D), pull, keep=SIZES)
    assert arrived.keys() == SIZES.keys()
    for name, rows in arrived.items():
        assert torch.allclose(rows, jacobian(name)), name
    assert backward(GRAPH, "out", EYE, times(D), pull).keys() == {"x", "w"}


@pytest.mark.parametrize("lead", [(2,), (2, 3), (2, 3, 4)])
def test_any_dimensions_may_lead(lead):
    rows = torch.randn(*lead, 4, dtype=torch.float64)
    for name, pulled in backward(GRAPH, "out", rows, times(D), pull).items():
        assert torch.allclose(pulled, rows @ jacobian(name))
    x, w = (torch.randn(*lead, SIZES[name], dtype=torch.float64) for name in "xw")
    pushed = forward(GRAPH, {"x": x, "w": w}, times(D), push)["out"]
    assert torch.allclose(pushed, x @ jacobian("x").T + w @ jacobian("w").T)


def test_a_traversal_may_begin_within_the_graph():
    pulled = backward(GRAPH, "b", torch.eye(5, dtype=torch.float64), times(D), pull)
    assert torch.allclose(pulled["w"], W["C"] @ torch.diag(D["s"]) @ W["B"])
    assert torch.equal(backward(GRAPH, "x", EYE[:3, :3], times(D), pull)["x"], EYE[:3, :3])


def test_nothing_passes_a_factor_that_stops_it():
    pulled = backward(GRAPH, "out", EYE, lambda step, rows: None if step.name == "s" else D["t"] * rows, pull)
    assert torch.allclose(pulled["x"], jacobian("x", d=D | {"s": torch.zeros(4, dtype=torch.float64)}))
    assert "w" not in pulled
    x = torch.eye(3, dtype=torch.float64)
    assert forward(GRAPH, {"x": x}, stop, push, keep=SIZES).keys() == {"x", "a", "b"}


def test_absolute_values_do_not_cancel():
    d = {name: values.abs() for name, values in D.items()}
    for name, rows in backward(GRAPH, "out", EYE, times(d), pull_absolute).items():
        assert torch.allclose(rows, jacobian(name, ABSOLUTE, d, sign=1))
    ones = {name: torch.ones(1, SIZES[name], dtype=torch.float64) for name in "xw"}
    sums = forward(GRAPH, ones, times(d), push_absolute)["out"]
    assert torch.allclose(sums[0], sum(jacobian(name, ABSOLUTE, d, sign=1).sum(1) for name in "xw"))


@pytest.mark.parametrize("seed", range(5))
def test_patterns_say_what_depends_on_what(seed):
    matrices = weights(zeros=0.7, seed=seed)
    absolute = {name: matrix.abs() for name, matrix in matrices.items()}
    alive = {"s": torch.tensor([1.0, 0, 1, 1]).double(), "t": torch.tensor([0.0, 1, 1, 0, 1]).double()}
    small = graph(matrices)
    for name, rows in backward(small, "out", EYE, times(alive), pull_pattern).items():
        assert torch.equal(rows > 0, jacobian(name, absolute, alive, sign=1) > 0)
    columns = torch.eye(3, dtype=torch.float64)
    pattern = forward(small, {"x": columns}, times(alive), push_pattern)["out"]
    assert torch.equal(pattern, (jacobian("x", absolute, alive, sign=1).T > 0).double())


def test_a_part_sees_one_input_only():
    part = seen_from(GRAPH, "w")
    assert part.inputs == ("w",) and [step.name for step in part.steps] == ["a", "s", "b", "t", "out"]
    assert backward(part, "out", EYE, times(D), pull).keys() == {"w"}
    assert torch.allclose(backward(part, "out", EYE, times(D), pull)["w"], jacobian("w"))
    w = torch.eye(2, dtype=torch.float64)
    assert torch.allclose(forward(part, {"w": w}, times(D), push)["out"], jacobian("w").T)


def test_what_a_part_has_not_is_left_out():
    """The steps behind s, with s for an input: the connection from x around s is missing, and so is x."""
    part = replace(GRAPH, steps=GRAPH.steps[2:], inputs=("s",))
    pulled = backward(part, "out", EYE, times(D), pull, keep=SIZES)
    assert pulled.keys() == {"s", "b", "t", "out"}
    assert torch.allclose(pulled["s"], jacobian("s"))
    assert torch.allclose(forward(part, {"s": EYE}, times(D), push)["out"], jacobian("s").T)
    without = replace(GRAPH, steps=tuple(step for step in GRAPH.steps if step.name != "s"))
    d = D | {"s": torch.zeros(4, dtype=torch.float64)}
    assert torch.allclose(backward(without, "out", EYE, times(D), pull)["x"], jacobian("x", d=d))
    x = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(forward(without, {"x": x}, times(D), push)["out"], jacobian("x", d=d).T)


def test_dependence():
    assert descendants(GRAPH, ["w"]) == {"w", "a", "s", "b", "t", "out"}
    assert descendants(replace(GRAPH, steps=GRAPH.steps[1:]), ["w"]) == {"w"}
    assert ancestors(GRAPH, "b", lambda step: True) == {"b", "s", "a", "x", "w"}
    assert ancestors(GRAPH, "b", lambda step: False) == {"b", "s", "x"}
    assert ancestors(GRAPH, "s", lambda step: False) == {"s"}


def test_gradients_pass_through_absolute_values_that_were_constants_before():
    matrices = {name: matrix.clone().requires_grad_() for name, matrix in W.items()}
    small = graph(matrices)
    with torch.no_grad():
        backward(small, "out", EYE, times(D), pull_absolute)
    rows = backward(small, "out", EYE, times(D), pull_absolute)["x"]
    (gradient,) = torch.autograd.grad(rows.sum(), matrices["A"])
    expected = (derivative(ABSOLUTE, D["s"], D["t"], "a", 1).sum(0)[:, None]) * W["A"].sign()
    assert torch.allclose(gradient, expected)


ALIVE = weakref.WeakSet()


class Counted:
    """A value that is counted in `ALIVE` as long as somebody holds it."""

    def __init__(self):
        ALIVE.add(self)


def chain(length):
    """Linear and factor steps in turn, each linear step reading the factor before it and the one before that."""
    same = Broadcast(1, (1,), (1,))
    factor = GRAPH.factors[0].factor
    steps = []
    for i in range(length):
        sources = [f"f{j}" if j >= 0 else "x" for j in (i - 1, i - 2)]
        steps.append(LinearStep(f"l{i}", (1,), tuple((source, same) for source in sources)))
        steps.append(FactorStep(f"f{i}", (1,), f"l{i}", (), factor))
    names = ["x", *(step.name for step in steps)]
    return Graph(tuple(steps), ("x",), steps[-1].name, dict.fromkeys(names, (1,)), {name: name for name in names})


@pytest.mark.parametrize("length", [5, 50])
def test_values_are_dropped_once_nobody_reads_them(length):
    most = []

    def factor(step, value):
        most.append(len(ALIVE))
        return Counted()

    small = chain(length)
    backward(small, small.output, Counted(), factor, lambda *_: (Counted() for _ in range(2)), lambda a, b: Counted())
    assert len(most) == length and max(most) <= 4
    most.clear()
    forward(small, {"x": Counted()}, factor, lambda _, arrived: Counted() if list(arrived) else None)
    assert len(most) == length and max(most) <= 4


def test_values_are_taken_one_after_the_other():
    """A linear step may drop a value that it was the last to read before it asks for the next one."""
    same, factor = Broadcast(1, (1,), (1,)), GRAPH.factors[0].factor
    layers = tuple(FactorStep(name, (1,), "x", (), factor) for name in ("f", "g"))
    steps = (*layers, LinearStep("out", (1,), (("f", same), ("g", same))))
    small = Graph(steps, ("x",), "out", dict.fromkeys(("x", "f", "g", "out"), (1,)), {})
    counts = []

    def linear(step, arrived):
        for _, value in arrived:
            counts.append(len(ALIVE))
            del value

    forward(small, {"x": None}, lambda step, _: Counted(), linear)
    assert counts == [2, 1]


def test_sums_are_the_callers():
    """Where two paths meet, what arrives is added up by the function that is given."""
    paths = backward(GRAPH, "out", 1, lambda _, n: n, lambda step, n: [n] * len(step.sources), operator.add)
    assert paths == {"x": 1 + 3, "w": 3}  # by D; by s, which b reads once and the output twice


def test_what_arrives_at_inputs_stands_side_by_side():
    """Some of it the same in all regions, whichever input comes first, and 0 where nothing arrived."""
    first, second = torch.randn(1, 3, SIZES["x"]).double(), torch.randn(2, 3, SIZES["w"]).double()
    for one, other in ((first, second), (first.expand(2, -1, -1), second[:1])):
        found = at_inputs(GRAPH, {"x": one, "w": other}, torch.zeros(1, 3))
        assert torch.equal(found, torch.cat((one.expand(2, -1, -1), other.expand(2, -1, -1)), 2))
    alone = at_inputs(GRAPH, {"w": second}, torch.zeros(2, 3).double())
    assert torch.equal(alone, torch.cat((torch.zeros(2, 3, SIZES["x"]).double(), second), 2))
