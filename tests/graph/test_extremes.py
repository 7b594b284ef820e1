"""Which operand wins a maximum: only one that is the larger everywhere, however little the bounds overlap.

And which divisors are refused: those that can be 0, if only at an end.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.graph.extremes import _contenders, _difference, _weight
from recurjac_plugin.graph.node import Node
from recurjac_plugin.graph.products import PRODUCTS, expand
from recurjac_plugin.graph.steps import FactorStep

OVERLAPS = [0.5, 0.02, 1e-3, 1e-6, 1e-9, 1e-13]


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def node(kind, forward, *shapes, **attributes):
    """A node by hand, all of its inputs perturbed."""
    return Node(
        name="/out",
        kind=kind,
        inputs=tuple(f"/{i}" for i in range(len(shapes))),
        perturbed=(True,) * len(shapes),
        constants=(None,) * len(shapes),
        input_shapes=shapes,
        output_shape=tuple(forward(*(torch.zeros(shape) for shape in shapes)).shape),
        attributes=attributes,
        training=False,
        forward=forward,
    )


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("width", "other"), [(1.0, 1.0), (1.0, 1e-3), (1e-3, 1.0), (1e-8, 1e-8), (1e6, 1.0)])
def test_the_smaller_one_may_win_where_bounds_overlap(overlap, width, other):
    """``[-width, part]`` against ``[0, other]`` and the other way round: neither has won, by whatever part."""
    part = overlap * min(width, other)
    first, second = (numbers([-width]), numbers([part])), (numbers([0.0]), numbers([other]))
    for a, b in ((first, second), (second, first)):
        low, high = _weight(_difference(a, b))
        assert (low.item(), high.item()) == (0.0, 1.0)


@pytest.mark.parametrize("gap", OVERLAPS)
def test_the_larger_one_has_won_where_they_do_not(gap):
    first, second = (numbers([gap]), numbers([1.0])), (numbers([-1.0]), numbers([0.0]))
    assert [each.item() for each in _weight(_difference(first, second))] == [1.0, 1.0]
    assert [each.item() for each in _weight(_difference(second, first))] == [0.0, 0.0]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("sign", [1, -1])
def test_contenders_are_all_that_reach_the_best_lower_bound(overlap, sign):
    """Items [-1, overlap], [0, 1], [-1, -overlap] of a maximum: the third alone cannot win."""
    low, high = numbers([-1.0, 0.0, -1.0]), numbers([overlap, 1.0, -overlap])
    pair = (low, high) if sign > 0 else (-high, -low)
    found, _ = _contenders(lambda interval: interval, sign)(pair)
    assert (found[0] > -2).tolist() == [True, True, False]


def factor_ranges(case, intervals):
    """The ranges of all factors of a node, by the bounds of its inputs."""
    steps = expand(case, dict(zip(case.inputs, case.inputs)))
    return [
        step.factor.derivative_range(*(intervals[read.name] for read in step.reads))
        for step in steps
        if isinstance(step, FactorStep)
    ]


NODES = {
    "BoundMax": node("BoundMax", torch.maximum, (1, 1), (1, 1)),
    "BoundMin": node("BoundMin", torch.minimum, (1, 1), (1, 1)),
    "BoundReduceMax": node("BoundReduceMax", lambda x: x.amax(1), (1, 2), axis=1, keepdim=False),
    "BoundReduceMin": node("BoundReduceMin", lambda x: x.amin(1), (1, 2), axis=1, keepdim=False),
    "BoundMaxPool": node(
        "BoundMaxPool", lambda x: functional.max_pool2d(x, (1, 2)), (1, 1, 1, 2),
        kernel_size=(1, 2), stride=(1, 2), padding=(0, 0),
    ),
}  # fmt: skip


def test_every_extreme_is_here():
    assert {*NODES} == {*PRODUCTS} - {"BoundMul", "BoundDiv", "BoundMatMul", "BoundReduceLogSumExp", "BoundSoftmax"}


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("name", NODES)
def test_no_extreme_is_decided_by_bounds_that_overlap(name, overlap):
    case = NODES[name]
    low, high = numbers(-1.0, 0.0), numbers(overlap, 1.0)
    for order in ([0, 1], [1, 0]):
        a, b = low[order], high[order]
        if len(case.inputs) == 2:
            intervals = {n: (a[i].reshape(1, 1), b[i].reshape(1, 1)) for i, n in enumerate(case.inputs)}
        else:
            intervals = {case.inputs[0]: (a.reshape(case.input_shapes[0]), b.reshape(case.input_shapes[0]))}
        ((least, most),) = factor_ranges(case, intervals)
        assert (least.item(), most.item()) == (0.0, 1.0)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 0.0), (0.0, 0.0), (-1e-300, 1e-300)])
def test_divisors_that_end_at_0_are_refused(ends):
    case = node("BoundDiv", torch.div, (1, 1), (1, 1))
    one = torch.ones(1, 1, dtype=torch.float64)
    intervals = {"/0": (one, one), "/1": (ends[0] * one, ends[1] * one)}
    with pytest.raises(UnsupportedError, match="contain 0"):
        factor_ranges(case, intervals)
