"""Rows of one's own: what contradicts itself is refused, in a sentence that says where."""

from __future__ import annotations

import math

import pytest
import torch

import recurjac_plugin as rj
from recurjac_plugin.activations.custom import custom_activation


def asinh(z):
    return (1 + z.square()).rsqrt()


def test_a_row_has_what_was_given():
    row = custom_activation("BoundAsinh", asinh, [(0, 1)], curvature=1.0, function=torch.asinh)
    lower, upper = torch.tensor([-1.0, 1.0, 3.0]), torch.tensor([2.0, 1.0, 4.0])
    assert row.name == "Asinh"
    least, most = row.derivative_range(lower, upper, {})
    assert torch.equal(least, asinh(torch.tensor([2.0, 1.0, 4.0])))
    assert torch.equal(most, torch.cat((torch.ones(1), asinh(lower[1:]))))
    assert torch.equal(row.derivative_curvature(lower, upper, {}), torch.ones(3))
    assert torch.equal(row.function(lower, {}), torch.asinh(lower))
    assert row.domain({}) is None


@pytest.mark.parametrize(
    ("domain", "condition"),
    [((-1.0, 1.0), "above -1 and below 1"), ((1.0, math.inf), "above 1"), ((-math.inf, 0.5), "below 0.5")],
)
def test_a_domain_is_an_open_interval(domain, condition):
    row = custom_activation("BoundSome", torch.ones_like, (), domain=domain)
    ends = [end for end in domain if math.isfinite(end)]
    inside = max(domain[0], -10) + 0.1, min(domain[1], 10) - 0.1
    within = [tuple(torch.tensor([end]) for end in inside)] * 2
    assert row.within_domain("/4", *within, {}) == within[0]
    for end in ends:
        outside = [tuple(torch.tensor([value]).sort().values for value in (end, inside[ends[0] == end]))] * 2
        outside = [tuple(torch.stack(pair).sort(0).values) for pair in outside]
        with pytest.raises(rj.UnsupportedError, match=rf"`/4` \(Some\).* must be {condition}, where"):
            row.within_domain("/4", *outside, {})


def test_what_rounding_alone_takes_out_of_a_domain_is_said():
    row = custom_activation("BoundSome", torch.ones_like, (), domain=(0.0, math.inf))
    given = torch.tensor([0.3]), torch.tensor([1e6])
    with pytest.raises(rj.UnsupportedError) as error:
        row.within_domain("/4", given, (given[0] - 0.5, given[1] + 0.5), {})
    assert "with room for the rounding of torch.float32, e.g. [-0.2, 1e+06], must be above 0" in str(error.value)
    assert "Compute in float64" in str(error.value)


WRONG = {
    "a forgotten peak": ({"derivative": asinh, "critical_points": ()}, r"every peak.*on \[-10000, 10000\].*at -?\d"),
    "forgotten kinks": (
        {"derivative": lambda z: (z.abs() > 0.5).to(z), "critical_points": ()},
        "every peak, valley and kink",
    ),
    "a pole inside": ({"derivative": torch.reciprocal, "critical_points": ()}, "every peak, valley and kink"),
    "another function": (
        {"derivative": asinh, "critical_points": [(0, 1)], "function": torch.sinh},
        r"must be that of `function`: at -\S+ it is \S+, but autograd gives \S+\.$",
    ),
    "a jump": (
        {"derivative": torch.zeros_like, "critical_points": (), "function": lambda z: z.detach().floor()},
        "differentiable by autograd",
    ),
    "a sum": ({"derivative": asinh, "critical_points": [(0, 1)], "function": torch.sum}, "must be element-wise"),
    "no pairs": ({"derivative": asinh, "critical_points": [0.0]}, "must be pairs"),
    "no domain": ({"derivative": asinh, "critical_points": [(0, 1)], "domain": (1.0, 1.0)}, "two numbers in order"),
}


@pytest.mark.parametrize("name", WRONG)
def test_contradictions_are_refused(name):
    given, message = WRONG[name]
    with pytest.raises(rj.InputError, match=rf"of `BoundMine` .*{message}"):
        custom_activation("BoundMine", **given)


def test_rounding_is_no_contradiction():
    """Derivatives with cancellation in the tails, and derivatives that overflow."""
    custom_activation("Tanh", lambda z: 1 - torch.tanh(z) ** 2, [(0, 1)], function=torch.tanh)
    custom_activation("Sinh", torch.cosh, [(0, 1)], function=torch.sinh)
    custom_activation("Reciprocal", lambda z: -1 / z**2, (), domain=(0.0, math.inf), function=torch.reciprocal)
