"""What linear programs say of parts: none with a point in it is empty, and points lie where they are said to."""

from __future__ import annotations

import pytest
import torch
from reduced_networks import NETWORKS, evaluated, reduced

from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.points import at_points
from recurjac_plugin.neurons.programs import Programs, joined_intervals
from recurjac_plugin.neurons.tightening import tightened

pytestmark = pytest.mark.usefixtures("registered")  # 0.3 has no maxima of its own


def part_of(small, z, keep):
    """The part in which a random share of the neurons is kept on the side that it has at a point."""
    lower, upper = {}, {}
    for layer, neurons in small.neurons.items():
        kept = torch.rand(z[layer].shape) < keep
        lower[layer] = torch.where(kept & (z[layer] >= 0), neurons.lower.clamp(min=0), neurons.lower)
        upper[layer] = torch.where(kept & (z[layer] <= 0), neurons.upper.clamp(max=0), neurons.upper)
    return Parts(lower, upper, tuple(end.expand(len(z[layer]), -1) for end in small.box))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("keep", [0.3, 0.7, 1.0])
def test_no_part_with_a_point_in_it_is_called_empty(name, keep):
    torch.manual_seed(5)
    small = reduced(NETWORKS[name]().double(), torch.randn(1, 4).double(), 0.5)
    t = 0.5 * (2 * torch.rand(40, 4).double() - 1)
    z, _ = evaluated(small, t)
    parts = part_of(small, z, keep)
    tighter = tightened(small, parts)
    assert not tighter.empty().any()
    for layer in small.layers:
        assert (tighter.lower[layer] <= z[layer]).all()
        assert (z[layer] <= tighter.upper[layer]).all()
    programs = Programs(small)
    lower, upper = joined_intervals(tighter, small.layers)
    for i in range(len(t)):
        answer = programs.solve(lower[i], upper[i], tuple(end[i].numpy() for end in tighter.box))
        assert not answer.empty
        assert answer.point is not None
        if keep == 1:
            at = at_points(small, torch.from_numpy(answer.point).unsqueeze(0))
            for layer in small.layers:
                assert (tighter.lower[layer][i] <= at.z[layer][0] + 1e-9).all()
                assert (at.z[layer][0] <= tighter.upper[layer][i] + 1e-9).all()


def test_some_patterns_are_empty():
    torch.manual_seed(5)
    small = reduced(NETWORKS["relu"]().double(), torch.randn(1, 4).double(), 0.5)
    programs, empty = Programs(small), 0
    for _ in range(40):
        z = {layer: torch.randn(1, small.gains.count(layer)).double() for layer in small.layers}
        parts = part_of(small, z, 1.0)
        lower, upper = joined_intervals(parts, small.layers)
        empty += programs.solve(lower[0], upper[0], tuple(end[0].numpy() for end in parts.box)).empty
    assert empty > 10


@pytest.mark.parametrize("name", NETWORKS)
def test_jacobians_at_points(name):
    torch.manual_seed(1)
    net, center = NETWORKS[name]().double(), torch.randn(1, 4).double()
    small = reduced(net, center, 0.5)
    t = 0.5 * (2 * torch.rand(50, 4).double() - 1)
    at = at_points(small, t)
    x = (center + t).requires_grad_()
    J = torch.stack([torch.autograd.grad(row.sum(), x, retain_graph=True)[0] for row in net(x).unbind(1)], 1)
    assert at.certain.all()
    assert ((J - at.jacobian).abs() <= small.entry_error + 1e-15).all()
