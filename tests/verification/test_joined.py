"""Properties about inputs, or about inputs and outputs together: verdicts, held against a fine grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from properties import box, spec_of
from torch import nn

from recurjac_plugin import Verdict, host, load_vnnlib, verify
from recurjac_plugin.errors import InputError
from recurjac_plugin.properties.spec import Polytope, Spec

GRID = np.stack(np.meshgrid(np.linspace(-1, 1, 129), np.linspace(-1, 1, 129)), -1).reshape(-1, 2)


class Sine(nn.Module):
    """An activation that only the host reads."""

    def forward(self, x):
        return torch.sin(x)


def network(activation, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 6), activation(), nn.Linear(6, 2))


def rows(A, B, b, strict=False):
    A, B = np.array(A, dtype=float), np.array(B, dtype=float)
    return Polytope(A, np.array(b, dtype=float), np.full(len(b), strict), B)


def holds(polytope, x, y):
    """Whether points (n, 2) with outputs (n, 2) lie in it."""
    return (y @ polytope.A.T + x @ polytope.B.T <= polytope.b).all(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, Sine])
@pytest.mark.parametrize("seed", range(4))
def test_verdicts_agree_with_a_grid(activation, dtype, seed):
    """Conditions on inputs are what makes some of these hold and others not: without them all would be violated."""
    net = network(activation, seed).to(dtype)
    with torch.no_grad():
        y = net(torch.from_numpy(GRID).to(dtype)).double().numpy()
    random = np.random.default_rng(seed)
    B, A = random.integers(-2, 3, (1, 2)).astype(float), random.integers(-2, 3, (1, 2)).astype(float)
    B[0, 0] += 3
    inside = GRID @ B[0] <= 0.25
    values = y @ A[0] + GRID[:, 1]
    least, everywhere = values[inside].min(), values.min()
    for right, expected in ((least - 0.1, Verdict.UNSAT), (least + 0.05, Verdict.SAT)):
        each = rows([[0, 0], A[0]], [B[0], [0, 1]], [0.25, right])
        result = verify(net, spec_of(box([-1, -1], [1, 1], each)), timeout=60)
        assert holds(each, GRID, y).any() == (expected is Verdict.SAT)
        assert result.verdict is expected, (everywhere, least)
        if result.counterexample is not None:
            point = result.counterexample
            assert point.y.shape == (2,)
            assert each.contains(point.y, point.x) and (np.abs(point.x) <= 1).all()


def test_the_condition_on_inputs_is_what_proves():
    """y0 = |x0 - x1| is at most x1 - x0 where x0 <= x1, and larger elsewhere."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    net[0].weight.data, net[2].weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.ones(1, 2)
    net[0].bias.data, net[2].bias.data = torch.zeros(2), torch.zeros(1)
    larger = ([-1.0], [-1.0, 1.0], -0.01)  # y0 >= x1 - x0 + 0.01
    ordered = ([0.0], [1.0, -1.0], 0.0)
    alone, both = (rows(*map(list, zip(*each))) for each in ([larger], [larger, ordered]))
    assert verify(net, spec_of(box([-1, -1], [1, 1], alone))).verdict is Verdict.SAT
    assert verify(net, spec_of(box([-1, -1], [1, 1], both))).verdict is Verdict.UNSAT


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_equal_inputs_are_met_exactly(activation):
    net = network(activation, 3)
    equal = [([0, 0], [1, -1], 0), ([0, 0], [-1, 1], 0)]
    with torch.no_grad():
        least = float(net(torch.linspace(-0.5, 1, 500)[:, None].expand(-1, 2))[:, 0].min())
    for right, expected in ((least + 0.05, Verdict.SAT), (least - 0.05, Verdict.UNSAT)):
        each = rows(*map(list, zip(*equal, ([1, 0], [0, 0], right))))
        result = verify(net, spec_of(box([-1, -0.5], [1, 1], each)), timeout=60)
        assert result.verdict is expected
        if result.counterexample is not None:
            assert result.counterexample.x[0] == result.counterexample.x[1]


def test_conditions_on_inputs_alone():
    """Such a disjunct is violated by any input that fulfils it, and never by one that no input does."""
    net = network(nn.ReLU, 0)
    for right, expected in ((-1.9, Verdict.SAT), (-2.1, Verdict.UNSAT)):
        result = verify(net, spec_of(box([-1, -1], [1, 1], rows([[0, 0]], [[1, 1]], [right]))), timeout=60)
        assert result.verdict is expected


def test_a_row_is_strict_at_the_edge_of_the_box():
    net = network(nn.ReLU, 0)
    for strict, expected in ((False, {Verdict.SAT}), (True, {Verdict.UNSAT, Verdict.UNKNOWN})):
        each = rows([[0, 0]], [[1, 1]], [-2], strict)
        assert verify(net, spec_of(box([-1, -1], [1, 1], each))).verdict in expected


def test_no_box_is_a_proof():
    result = verify(network(nn.ReLU, 0), Spec((), n_inputs=2, n_outputs=2))
    assert (result.verdict, result.lower_bound, result.boxes) == (Verdict.UNSAT, np.inf, 0)


def test_a_property_from_a_file(tmp_path):
    net = network(nn.Tanh, 1)
    with torch.no_grad():
        least = float((net(torch.from_numpy(GRID).float())[:, 0] - torch.from_numpy(GRID)[:, 0]).min())
    names = "".join(f"(declare-const {v}_{i} Real)" for v in "XY" for i in range(2))
    ends = "".join(f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(2))
    for gap, expected in ((0.05, Verdict.SAT), (-0.05, Verdict.UNSAT)):
        (tmp_path / "p.vnnlib").write_text(f"{names}{ends}(assert (<= Y_0 (+ X_0 {least + gap})))")
        assert verify(net, load_vnnlib(tmp_path / "p.vnnlib"), timeout=60).verdict is expected


def test_the_hosts_model_is_refused():
    model = host.BoundedModule(network(nn.ReLU, 0), torch.zeros(1, 2))
    with pytest.raises(InputError, match="give the module itself in place of a `BoundedModule`"):
        verify(model, spec_of(box([-1, -1], [1, 1], rows([[0, 0]], [[1, 1]], [0]))))
