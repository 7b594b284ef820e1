"""What is bounded in a batch is bounded as it is alone, however different its regions are."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, Net, hosted
from cases.case import on_host
from oracle import Box, assert_encloses, outputs, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03

NAMES = (
    "maximum", "minimum", "reduce_max", "reduce_min", "max_pool", "max_pool_overlapping", "product", "quotient",
    "matrix_product", "softmax", "relu", "leaky_relu", "tanh", "hardswish", "mixed", "branches", "residual",
)  # fmt: skip


def boxes_of_all_sizes(center, count=6, seed=0):
    """Boxes in and around one box, from tiny to larger than it: different neurons are undetermined in each."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, *center.shape[1:])
    middle = center[:1] + 0.4 * (torch.rand(size, generator=generator, dtype=torch.float64) - 0.5)
    radius = torch.logspace(-3, -0.3, count, dtype=torch.float64).reshape(-1, *(1,) * (center.dim() - 1))
    return Box(middle - radius, middle + radius)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_regions_one_by_one(name):
    if IS_03 and name == "softmax":
        pytest.skip("torch takes it apart for 0.3, into a division by what may be 0 on large boxes")
    net, center, model = hosted(name)
    region = boxes_of_all_sizes(center)
    with torch.no_grad():

        def bounds_of(part):
            x = part.perturbed()
            jacobian = rj.jacobian_bounds(model, x, rigorous=True)
            return jacobian, rj.output_bounds(model, x, method="RecurJac+CROWN", rigorous=True)

        together, output = bounds_of(region)
        for i in range(len(region.lower)):
            (alone, alone_output) = bounds_of(Box(region.lower[i : i + 1], region.upper[i : i + 1]))
            for whole, part in (*zip(together, alone), *zip(output, alone_output)):
                scale = float(part.abs().max())
                assert float((whole[i] - part[0]).abs().max()) <= 1e-9 * scale + 1e-12, i
    assert_encloses(together.lower, together.upper, truth(net, region), BY_NAME[name].slack)
    points = region.sample(300)
    assert_encloses(*output, outputs(net, points), 1e-6)


@pytest.mark.skipif(IS_03, reason="0.3 has no maximum or minimum of two tensors")
@pytest.mark.parametrize("function", [torch.maximum, torch.minimum])
def test_an_operand_that_has_won_is_counted_once(function):
    """In the first box another neuron is undetermined than in the second: what fills up its list has won already."""
    a, b, c = (nn.Linear(1, 2).double(), nn.Linear(1, 2).double(), nn.Linear(2, 1).double())
    with torch.no_grad():
        for layer, weight, bias in ((a, [[1.0], [1.0]], [0.0, 10.0]), (b, [[-1.0], [-1.0]], [0.0, 0.0])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
        nn.init.ones_(c.weight)
    net = Net(lambda s, x: s.c(function(s.a(x), s.b(x))), a=a, b=b, c=c)
    low, high = torch.tensor([[-1.0], [-6.0], [-6.0]]).double(), torch.tensor([[1.0], [-4.0], [1.0]]).double()
    region = Box(low, high)
    model = on_host(net, low[:1])
    lower, upper = rj.output_bounds(model, region.perturbed(), method="CROWN", rigorous=True)
    assert_encloses(lower.detach(), upper.detach(), outputs(net, region.sample(1000)), 1e-12)
