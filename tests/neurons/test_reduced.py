"""The small network between undetermined neurons computes what the whole one does, on the region."""

from __future__ import annotations

import pytest
import torch
from reduced_networks import NETWORKS, evaluated, reduced

pytestmark = pytest.mark.usefixtures("registered")  # 0.3 has no maxima of its own


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("radius", [0.02, 0.3])
def test_it_computes_what_the_network_does(name, radius):
    torch.manual_seed(1)
    net, center = NETWORKS[name]().double(), torch.randn(1, 4).double()
    small = reduced(net, center, radius)
    t = radius * (2 * torch.rand(200, 4).double() - 1)
    z, rows = evaluated(small, t)
    assert torch.allclose(rows, net(center + t), atol=1e-12)
    for layer, value in z.items():
        neurons = small.neurons[layer]
        assert (neurons.lower <= value).all()
        assert (value <= neurons.upper).all()
    assert small.count or radius < 0.1
