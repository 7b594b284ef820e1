"""Regions: what a linear function can reach on them, parts and hulls of them, and the way to the host and back."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import Ball, Box

from recurjac_plugin.errors import InputError
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.region import perturbed, perturbed_box, read_region
from recurjac_plugin.numerics.region import Region, joined

BATCH, SHAPE, COLUMNS = 3, (2, 4), 8
NORMS = (1.0, 1.5, 2.0, 3.0, math.inf)


def ball(norm: float) -> Region:
    center = torch.randn(BATCH, *SHAPE, dtype=torch.float64)
    return Region(center, norm, torch.rand(BATCH, COLUMNS if norm == math.inf else 1, dtype=torch.float64))


def points(region: Region, count: int) -> torch.Tensor:
    """Points of a region, (count, b, columns), described without it."""
    if region.norm == math.inf:
        reach = region.radius.reshape(region.center.shape)
        return Box(region.center - reach, region.center + reach).sample(count).flatten(2)
    return Ball(region.center, region.radius.squeeze(1), region.norm).sample(count).flatten(2)


@pytest.mark.parametrize("norm", NORMS)
def test_no_point_exceeds_what_is_concretized(norm):
    region, slopes = ball(norm), torch.randn(BATCH, 5, COLUMNS, dtype=torch.float64)
    most = region.concretize(slopes)
    assert most.shape == (BATCH, 5)
    offsets = points(region, 600) - region.center.flatten(1)
    reached = torch.einsum("bmr,nbr->nbm", slopes, offsets)
    assert bool((reached <= most + 1e-12).all())
    assert bool((reached.amax(0) >= 0.3 * most).all())  # a bound that says nothing would be far above


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_concretized_is_attained(norm):
    """At ``r sign(s) (|s| / |s|_q)^(q-1)``, and for boxes at a corner."""
    region, slopes = ball(norm), torch.randn(BATCH, 5, COLUMNS, dtype=torch.float64)
    size = slopes.abs()
    if norm == math.inf:
        best = region.radius.unsqueeze(1).expand_as(slopes)
    elif norm == 1:
        best = (size == size.amax(2, keepdim=True)) * region.radius.unsqueeze(1)
    else:
        q = norm / (norm - 1)
        best = (size / torch.linalg.vector_norm(slopes, ord=q, dim=2, keepdim=True)) ** (q - 1)
        best = best * region.radius.unsqueeze(1)
        assert torch.allclose(torch.linalg.vector_norm(best, ord=norm, dim=2), region.radius.expand(-1, 5))
    assert torch.allclose((size * best).sum(2), region.concretize(slopes), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("norm", "dual"), [(1.0, math.inf), (1.5, 3.0), (2.0, 2.0), (3.0, 1.5), (math.inf, 1.0)])
def test_balls_are_concretized_by_the_dual_norm(norm, dual):
    region, slopes = ball(norm), torch.randn(BATCH, 5, COLUMNS, dtype=torch.float64)
    assert region.dual_norm == pytest.approx(dual)
    scaled = slopes * region.radius.unsqueeze(1)
    assert torch.allclose(region.concretize(slopes), torch.linalg.vector_norm(scaled, ord=dual, dim=2))


@pytest.mark.parametrize("norm", NORMS)
def test_the_hull_is_the_smallest_box_around_a_region(norm):
    region = ball(norm)
    hull = region.hull()
    assert (hull.norm, hull.center is region.center) == (math.inf, True)
    offsets = (points(region, 600) - region.center.flatten(1)).abs().amax(0)
    assert bool((offsets <= hull.radius + 1e-12).all())
    units = torch.eye(COLUMNS, dtype=torch.float64).expand(BATCH, -1, -1)
    assert torch.allclose(hull.radius, region.concretize(units))  # every side is touched


@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("chosen", [torch.tensor([2, 0, 2]), slice(1, 3)])
def test_parts_are_the_regions_of_some_samples(norm, chosen):
    region = ball(norm)
    part = region.part(chosen)
    assert part.norm == norm
    assert torch.equal(part.center, region.center[chosen])
    assert torch.equal(part.radius, region.radius[chosen])


def test_scaled_regions_keep_their_centres():
    region = ball(math.inf).scaled(0.25)
    assert torch.equal(region.scaled(2).radius, 2 * region.radius)
    assert region.scaled(2).center is region.center


def test_boxes_of_several_inputs_are_one_box():
    first, second = ball(math.inf), ball(math.inf)
    both = joined([first, second])
    slopes = torch.randn(BATCH, 4, 2 * COLUMNS, dtype=torch.float64)
    parts = first.concretize(slopes[..., :COLUMNS]) + second.concretize(slopes[..., COLUMNS:])
    assert torch.allclose(both.concretize(slopes), parts)
    assert joined([first]) is first
    with pytest.raises(InputError, match="norms 2, inf"):
        joined([ball(2.0), first])


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_a_region_comes_back_from_the_host(norm):
    center = torch.randn(BATCH, *SHAPE, dtype=torch.float64)
    width = COLUMNS if norm == math.inf else 1
    region = Region(center, norm, torch.full((BATCH, width), 0.3, dtype=torch.float64))
    again = read_region(perturbed(region))
    assert (again.norm, torch.equal(again.center, center)) == (norm, True)
    assert torch.equal(again.radius, region.radius)


def test_balls_of_several_radii_get_the_largest():
    """The host's convolutions take one radius for all samples: a larger ball holds the smaller ones."""
    region = Region(torch.zeros(2, 3), 2.0, torch.tensor([[0.1], [0.4]]))
    assert torch.equal(read_region(perturbed(region)).radius, torch.full((2, 1), 0.4))


def test_boxes_with_unequal_sides_keep_them():
    region = ball(math.inf)
    again = read_region(perturbed(region))
    assert torch.allclose(again.radius, region.radius, rtol=1e-14)
    assert bool((again.radius >= region.radius - 1e-15).all())


def test_a_box_between_exact_ends_reaches_both_from_its_rounded_middle():
    lower = torch.tensor([[0.1, -1.0, 0.0]])
    upper = torch.tensor([[0.7, 1e-8, 0.0]])
    x = perturbed_box(lower, upper)
    region = read_region(x)
    low, high = (region.center.double() + sign * region.radius.double() for sign in (-1, 1))
    ulp = 2 * torch.finfo(torch.float32).eps  # of the differences between middle and ends
    assert bool((low <= lower + ulp).all() & (high >= upper - ulp).all())
    assert bool((region.radius >= (upper - lower) / 2 - ulp).all())
    assert torch.equal(x.ptb.x_L, lower) and torch.equal(x.ptb.x_U, upper)
    assert bool((x.detach() >= lower).all() & (x.detach() <= upper).all())


def test_the_value_of_a_box_need_not_be_its_middle():
    lower, upper, inside = torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[0.25, 1.0]])
    x = perturbed_box(lower, upper, inside)
    assert torch.equal(x.detach().as_subclass(torch.Tensor), inside)
    assert torch.equal(read_region(x).center, torch.full((1, 2), 0.5))


def test_a_number_and_a_tensor_of_radii_are_the_same_region():
    x = torch.randn(2, 3)
    one = read_region(BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.2)))
    each = read_region(BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=torch.full((2, 3), 0.2))))
    assert torch.equal(one.radius, each.radius) and one.radius.shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_region_reaches_both_ends_though_its_middle_is_rounded(dtype):
    """Between neighbours among the numbers there is none: the middle is one of the ends."""
    lower = torch.tensor([[1.0, 3.0, -1e6]], dtype=dtype)
    upper = torch.nextafter(lower, torch.full_like(lower, math.inf))
    for high in (upper, torch.nextafter(upper, torch.full_like(lower, math.inf)), lower + 0.1):
        found = read_region(perturbed_box(lower, high))
        center, radius = found.center.double(), found.radius.double()
        assert bool((center - radius <= lower.double()).all() & (center + radius >= high.double()).all())


@pytest.mark.parametrize("norm", [1, 2, 3.0])
def test_ends_beside_a_radius_do_not_change_a_ball(norm):
    """The host takes no notice of them, and what holds on the ball holds on the part of it between them."""
    x = torch.randn(2, 3)
    for ends in ({"x_L": x - 0.1, "x_U": x + 0.3}, {"x_L": x, "x_U": x}, {"x_U": x + 0.1}):
        region = read_region(BoundedTensor(x, PerturbationLpNorm(norm=norm, eps=0.3, **ends)))
        assert torch.equal(region.center, x) and region.norm == norm
        assert torch.equal(region.radius, torch.full((2, 1), 0.3))
        for eps in (0.0, torch.tensor([0.3, 0.0])):
            with pytest.raises(InputError, match=r"needs norm inf, got norm .* and no `eps`"):
                read_region(BoundedTensor(x, PerturbationLpNorm(norm=norm, eps=eps, **ends)))


@pytest.mark.parametrize("norm", [1, 2])
def test_the_host_takes_no_notice_of_ends_of_a_ball_either(norm):
    """Its bounds with them are those without: bounds that rest on the host's are of the same region as ours."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    x = torch.randn(2, 3)
    model = BoundedModule(net, x)
    without, beside = (
        model.compute_bounds(x=(BoundedTensor(x, PerturbationLpNorm(norm=norm, eps=0.3, **ends)),), method="CROWN")
        for ends in ({}, {"x_L": x - 0.01, "x_U": x + 0.2})
    )
    assert all(torch.equal(a, b) for a, b in zip(without, beside))


def test_several_inputs_where_one_is_taken():
    x = BoundedTensor(torch.zeros(1, 2), PerturbationLpNorm(norm=math.inf, eps=0.1))
    with pytest.raises(
        InputError, match=r"must be one `BoundedTensor`, got 2 inputs, as `jacobian_bounds`.* `flat_inputs"
    ):
        read_region((x, x))
