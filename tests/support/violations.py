"""Looking for derivatives and outputs outside of bounds: sampling, then ascent on the violation, in float64."""

from __future__ import annotations

import torch
from oracle import Ball, Box, jacobian, jacobians
from torch import Tensor, nn


def outside(values: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """How far values (n, b, ...) lie outside of bounds (b, ...), negative inside: (n, b, entries)."""
    return torch.maximum(values - upper, lower - values).flatten(2)


@torch.enable_grad()
def ascended(
    net: nn.Module, region: Ball | Box, lower: Tensor, upper: Tensor, start: Tensor, targets: int, steps: int
) -> Tensor:
    """Points that come nearest to a violation of Jacobian bounds, from the best ones of `start`.

    Args:
        net: in float64.
        region: where points must stay.
        lower: bounds of the Jacobian, (b, k, *shape).
        upper: likewise.
        start: points (n, b, *shape).
        targets: how many entries of each region are followed: those that came nearest, and random ones.
        steps: of ascent; one is kept where the violation grew.

    Returns:
        Points (targets, b, *shape).
    """
    margin = outside(jacobians(net, start), lower, upper)  # (n, b, e)
    best, at = margin.max(0)  # (b, e)
    noise = torch.rand_like(best[:, :1]) if best.shape[1] == 1 else torch.rand_like(best)
    chosen = [best.nan_to_num(nan=-1e300).argsort(1, descending=True), noise.argsort(1)]
    entry = torch.stack([chosen[i % 2][:, (i // 2) % best.shape[1]] for i in range(targets)])  # (targets, b)
    regions = torch.arange(start.shape[1])
    points = start[at[regions, entry], regions]
    score = best[regions, entry]
    reach = (region.sample(30) - region.center).abs().amax(0)
    flat_lower, flat_upper = lower.flatten(1), upper.flatten(1)
    low, high = flat_lower[regions, entry], flat_upper[regions, entry]

    def violation(x: Tensor, differentiable: bool) -> Tensor:
        entries = jacobian(net, x.flatten(0, 1), differentiable=differentiable).flatten(1).unflatten(0, x.shape[:2])
        value = entries.gather(2, entry.unsqueeze(2)).squeeze(2)
        return torch.maximum(value - high, low - value)

    for step in range(steps):
        x = points.detach().requires_grad_()
        value = violation(x, True)
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
        gradient = torch.zeros_like(points) if gradient is None else gradient
        gradient = torch.where(gradient == 0, torch.randn_like(gradient), gradient)
        trial = region.project(points + gradient.sign() * reach / (1 + step) ** 1.5)
        new = violation(trial, False).detach()
        better = new > score
        score = torch.where(better, new, score)
        points = torch.where(better.reshape(*better.shape, *(1,) * (points.dim() - 2)), trial, points)
    return points.detach()


def trial_points(
    net: nn.Module, region: Ball | Box, lower: Tensor, upper: Tensor, count: int = 48, targets: int = 4, steps: int = 8
) -> Tensor:
    """Points of a region to hold bounds of the Jacobian against: sampled ones, and those that were ascended to."""
    start = region.sample(count)
    try:
        return torch.cat([start, ascended(net, region, lower, upper, start, targets, steps)])
    except RuntimeError as error:
        if "not implemented" not in str(error):  # some functions of torch have no second derivative
            raise
        return start


def relative_escape(values: Tensor, lower: Tensor, upper: Tensor, least: float | Tensor = 1e-5) -> Tensor:
    """How far values (n, b, ...) lie outside of bounds, relative to the largest value of each region: (b,).

    Values below `least` count as that: autograd has ``s (1 - s)`` for the derivative of a sigmoid, 0 where the truth
    is 1e-20.
    """
    scale = values.abs().flatten(2).amax((0, 2)).clamp(min=least)
    return outside(values, lower, upper).amax((0, 2)) / scale


def size_of_terms(
    points: Tensor,  # shape: (n, b, *shape)
    values: Tensor,  # shape: (n, b, k, *shape)
) -> Tensor:
    """``1 + max sum_r |J_kr x_r|``: what the rounding of outputs is proportional to, (b,)."""
    return 1 + (values * points.unsqueeze(2)).abs().flatten(3).sum(3).amax((0, 2))
