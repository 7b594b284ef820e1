"""How far the network that is bounded is from the one that is judged: seen inside the boxes, and left as room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_files import model, node, save
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin import Verdict, verify
from recurjac_plugin.networks.session import largest_difference, onnx_session
from recurjac_plugin.verification.bounded.probes import difference_inside

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("outputs", "expected", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([1.0, 7.0], [1.5, NAN], 0.5),  # the judge gives no number there
        ([NAN, NAN], [NAN, NAN], 0.0),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([INF, -INF], [INF, -INF], 0.0),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([1.0, 1.0], [INF, 1.0], INF),
        ([INF, 1.0], [1.0, 1.0], INF),
    ],
)
def test_largest_difference(outputs, expected, difference):
    assert largest_difference(np.array([outputs]), np.array([expected])) == difference


class Judge:
    """Another function than the one that is bounded, in one place."""

    def __init__(self, net, where, by, dtype=np.float64):
        self.net, self.where, self.by, self.dtype, self.seen = net, where, by, np.dtype(dtype), []

    def __call__(self, x):
        self.seen.append(np.asarray(x))
        with torch.no_grad():
            y = self.net(torch.from_numpy(np.asarray(x, dtype=np.float64))).numpy()
        return y + np.where(self.where(x), self.by, 0.0)[:, None]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)).double()


@pytest.mark.parametrize(
    "where",
    [
        lambda x: (x == [3.0, 4.0, 5.0]).all(1),
        lambda x: (x == [2.0, 3.0, 4.0]).all(1),
        lambda x: (x == [2.5, 3.5, 4.5]).all(1),
        lambda x: (x != [2.5, 3.5, 4.5]).any(1) & (x > [2.0, 3.0, 4.0]).any(1) & (x < [3.0, 4.0, 5.0]).any(1),
    ],
    ids=["upper end", "lower end", "middle", "elsewhere"],
)
def test_points_of_the_box_are_compared(where):
    net = network()
    inside = box([2.0, 3.0, 4.0], [3.0, 4.0, 5.0], polytope([[1]], 0.0))

    def bounded(x):
        with torch.no_grad():
            return net(torch.from_numpy(x)).numpy()

    judge = Judge(net, where, 0.25)
    assert difference_inside(inside, bounded, judge) == pytest.approx(0.25)
    (points,) = judge.seen
    assert bool(((points >= inside.lower) & (points <= inside.upper)).all())
    difference_inside(inside, bounded, judge)
    assert np.array_equal(*judge.seen)
    assert difference_inside(inside, bounded, Judge(net, where, NAN)) == 0.0
    assert difference_inside(inside, bounded, Judge(net, where, INF)) == INF


def test_points_are_numbers_of_the_networks_type_where_the_box_has_any():
    narrow = box([0.1, 0.0], [0.1, 1.0], polytope([[1]], 0.0))
    seen = []

    class Single:
        dtype = np.dtype(np.float32)

        def __call__(self, x):
            assert x.dtype == np.float32
            return x[:, :1].astype(np.float64)

    def bounded(x):
        seen.append(x)
        return x[:, :1]

    # The judge takes 0.1 for the number of float32 next to it: that is part of the difference.
    assert difference_inside(narrow, bounded, Single()) == abs(0.1 - float(np.float32(0.1)))
    assert np.array_equal(seen[0][:, 1], seen[0][:, 1].astype(np.float32))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_nothing_is_proved_within_the_difference(activation):
    """Inside the box the judge gives 0.3 less than what is bounded, everywhere: a proof needs that much more."""
    net = network()
    net[1] = activation()
    axis = torch.linspace(2, 3, 41, dtype=torch.float64)
    with torch.no_grad():
        least = float(net(torch.cartesian_prod(axis, axis, axis)).min())

    def there(x):
        return (x >= 2).all(1)

    for below, proved in ((0.1, False), (0.5, True)):
        spec = spec_of(box([2.0] * 3, [3.0] * 3, polytope([[1]], least - below)))
        judged = verify(net, spec, session=Judge(net, there, -0.3), timeout=2, attack_seconds=0)
        assert (judged.verdict is Verdict.UNSAT) is proved
        assert verify(net, spec, attack_seconds=0).verdict is Verdict.UNSAT
    # No counterexample is found where the judge is lower at one corner only, but nothing is proved either.
    spec = spec_of(box([2.0] * 3, [3.0] * 3, polytope([[1]], least - 0.1)))
    judge = Judge(net, lambda x: (x == 3).all(1), -0.3)
    assert verify(net, spec, session=judge, timeout=2, attack_seconds=0).verdict is not Verdict.UNSAT
    assert verify(net, spec, session=Judge(net, there, NAN), attack_seconds=0).verdict is Verdict.UNSAT


def test_networks_that_onnxruntime_gives_no_number_for_at_zeros_are_loaded(tmp_path):
    """``x / sum(x)``: 0/0 at the probe of zeros, as in networks that average over what is there."""
    nodes = [
        node("ReduceSum", "x axis", "s"), node("Div", "x s", "q"), node("MatMul", "q W", "y"),
    ]  # fmt: skip
    weights = {"axis": np.array([1]), "W": np.array([[1.0], [2.0]])}
    path = save(tmp_path / "mean.onnx", model(nodes, [1, 2], [1, 1], weights))
    assert np.isnan(onnx_session(path)(np.zeros((1, 2)))).all()
    assert rj.load_onnx(path).max_difference < 1e-5
    nodes = [node("Sub", "x x", "z"), node("Div", "z z", "q"), node("MatMul", "q W", "y")]
    path = save(tmp_path / "never.onnx", model(nodes, [1, 2], [1, 1], weights))
    with pytest.raises(rj.FileError, match="no finite output"):
        rj.load_onnx(path)
