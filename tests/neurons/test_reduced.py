"""The small network between undetermined neurons computes what the whole one does, on the region."""

from __future__ import annotations

import pytest
import torch
from reduced_networks import NETWORKS, evaluated, reduced
from small_parts import network, points

pytestmark = pytest.mark.usefixtures("registered")  # 0.3 has no maxima of its own


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("radius", [0.02, 0.3])
def test_it_computes_what_the_network_does(name, radius):
    net, center = network(name)
    small = reduced(net, center, radius)
    t = points(small)
    z, rows = evaluated(small, t)
    assert torch.allclose(rows, net(center + t), atol=1e-12)
    for layer, value in z.items():
        neurons = small.neurons[layer]
        assert (neurons.lower <= value).all()
        assert (value <= neurons.upper).all()
    assert small.count or radius < 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_lines_hold_on_every_part(name):
    """With any slope through 0, on intervals on either side of the kink and around it."""
    net, center = network(name)
    small = reduced(net, center, 0.5)
    generator = torch.Generator().manual_seed(0)
    for neurons in small.neurons.values():
        share = torch.rand(2, 50, neurons.lower.shape[1], dtype=torch.float64, generator=generator).sort(0).values
        low, high = (neurons.lower + each * (neurons.upper - neurons.lower) for each in share)
        low = torch.where(torch.rand(low.shape, generator=generator) < 0.3, low.clamp(min=0).minimum(high), low)
        lines = neurons.lines(low, high, torch.rand(low.shape, dtype=torch.float64, generator=generator))
        assert neurons.left is not None
        assert neurons.right is not None
        for at in (0.0, 0.25, 0.5, 1.0):
            z = low + at * (high - low)
            t = z - neurons.center
            change = torch.where(z >= 0, neurons.right, neurons.left) * z
            change = change - torch.where(neurons.center >= 0, neurons.right, neurons.left) * neurons.center
            assert (lines.lower_slope * t + lines.lower_constant <= change).all()
            assert (change <= lines.upper_slope * t + lines.upper_constant).all()
        dl, du = neurons.ranges(low, high)
        assert ((dl == neurons.right) | (low < 0)).all()
        assert ((du == neurons.left) | (high > 0) | (low >= 0)).all()
