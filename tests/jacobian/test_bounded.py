"""What constants and output bounds ask of a bounded Jacobian, and who answers: an analysis, gains, or anybody else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from cases import hosted
from oracle import Ball
from torch import Tensor

from recurjac_plugin.errors import MethodError
from recurjac_plugin.jacobian.analysis import analyse, gathered_rows
from recurjac_plugin.jacobian.bounded import BoundedByOrder, BoundedJacobian
from recurjac_plugin.jacobian.methods import HOST_METHODS, METHODS, TREATMENTS, Treatment, parse, parse_jacobian_method
from recurjac_plugin.lipschitz.mean_value import largest_drop
from recurjac_plugin.lipschitz.norms import row_constants
from recurjac_plugin.numerics.intervals import intersection
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.recursion.backward import backward_order
from recurjac_plugin.recursion.fast_lip import IntervalArithmetic

BUDGET = 1 << 20


@dataclass
class Certain:
    """A Jacobian that is known exactly: nothing of the package is behind it."""

    J: Tensor  # shape: (b, k, columns)
    region: Region
    treatment: Treatment
    start: None = None

    @property
    def center_value(self):
        return self.J.new_zeros(self.J.shape[:2])

    @property
    def jacobian(self):
        return self.J, self.J

    def upper_of_sum(self, weights):
        return (weights * self.J).sum(2)

    def upper_of_sums(self, coefficients):
        return (coefficients * self.J.unsqueeze(1)).sum((2, 3))

    @property
    def exact_part(self):
        return None


def certain(norm: float) -> Certain:
    center = torch.zeros(2, 4, dtype=torch.float64)
    radius = torch.rand(2, 4 if norm == math.inf else 1, dtype=torch.float64)
    return Certain(torch.randn(2, 3, 4, dtype=torch.float64), Region(center, norm, radius), TREATMENTS["RecurJac"])


def asked(bounded: BoundedJacobian) -> tuple[Tensor, ...]:
    """All that is asked of a bounded Jacobian anywhere."""
    lower, upper = bounded.jacobian
    weights = torch.linspace(-1, 1, lower.numel(), dtype=lower.dtype).reshape(lower.shape)
    ones = torch.ones_like(lower[:, 0])
    drop = largest_drop(bounded, bounded.region.radius)
    return lower, upper, bounded.upper_of_sum(weights), row_constants(bounded, ones), drop, bounded.center_value


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_constants_of_a_certain_jacobian_are_dual_norms(norm):
    bounded = certain(norm)
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]
    constants = row_constants(bounded, torch.ones(2, 4, dtype=torch.float64))
    assert torch.allclose(constants, torch.linalg.vector_norm(bounded.J, ord=dual, dim=2))
    assert torch.allclose(largest_drop(bounded, bounded.region.radius), bounded.region.concretize(bounded.J))


def test_one_sided_reaches_of_a_certain_jacobian():
    """The largest ``-sum_r J_r d_r`` with ``-below <= d <= above``."""
    bounded = certain(math.inf)
    below, above = torch.rand(2, 2, 4, dtype=torch.float64)
    expected = torch.maximum(below[:, None] * bounded.J, -above[:, None] * bounded.J).sum(2)
    assert torch.allclose(largest_drop(bounded, below, above), expected)


@pytest.mark.parametrize("method", ["RecurJac", "RecurJac-Linear", "Fast-Lip"])
@torch.no_grad()
def test_gains_that_are_there_answer_as_an_analysis_does(method):
    _, center, model = hosted("relu")
    analysis = analyse(model, Ball(center, 0.2).perturbed(), parse(method), None, memory_budget=BUDGET)
    line = analysis.treatment.upper_line
    if line is None:
        order = IntervalArithmetic(analysis.graph, analysis.derivatives, analysis.rows, BUDGET)
    else:
        order = backward_order(analysis.gains, line, BUDGET)
    other = BoundedByOrder(analysis.region, analysis.center_value, analysis.treatment, order)
    for mine, its in zip(asked(analysis), asked(other), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_both_orders_are_their_intersection(method):
    _, center, model = hosted("mixed")
    x = Ball(center, 0.3).perturbed()
    each = {order: analyse(model, x, parse(method), None, order=order) for order in ("forward", "backward", "both")}
    lower, upper = intersection(each["forward"].jacobian, each["backward"].jacobian)
    assert torch.equal(lower, each["both"].jacobian[0]) and torch.equal(upper, each["both"].jacobian[1])
    weights = torch.randn_like(lower)
    sums = torch.stack([each[order].upper_of_sum(weights) for order in ("forward", "backward")])
    assert torch.equal(each["both"].upper_of_sum(weights), sums.amin(0))


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_part_answers_for_its_regions_and_rows(method):
    _, center, model = hosted("mixed")
    whole = analyse(model, Ball(center, 0.2).perturbed(), parse(method), None)
    rows = torch.tensor([[1, 0], [0, 0], [1, 1]])
    regions = torch.tensor([1, 0, 1])
    part = whole.part(regions, rows)
    for mine, of_all in zip(part.jacobian, whole.jacobian, strict=True):
        chosen = gathered_rows(of_all[regions], rows)
        assert torch.allclose(mine, chosen, rtol=1e-9, atol=1e-9)
    assert torch.equal(part.center_value, whole.center_value[regions].gather(1, rows))
    assert part.host_output is None
    assert torch.equal(part.region.center, whole.region.center[regions])


def test_methods_of_the_host_alone_have_no_jacobian():
    assert parse_jacobian_method("ibp+recurjac").treatment is TREATMENTS["RecurJac"]
    for name in HOST_METHODS:
        assert not parse(name).bounds_jacobian
        with pytest.raises(MethodError, match="gives no Jacobian bounds"):
            parse_jacobian_method(name)
        with pytest.raises(MethodError, match="gives no Jacobian bounds"):
            _ = parse(name).treatment
