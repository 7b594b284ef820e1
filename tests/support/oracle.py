"""The truth to test bounds against: Jacobians at points of a region, by autograd in float64.

Regions are described here a second time, without the package, so that a misread region cannot hide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurjac_plugin.host import BoundedTensor, PerturbationLpNorm


@dataclass
class Ball:
    """l_p balls of radius eps, one per sample: center (b, *shape), eps a number or (b,)."""

    center: Tensor
    eps: float | Tensor
    norm: float = math.inf

    def _radius(self):
        return torch.as_tensor(self.eps, dtype=self.center.dtype).reshape(-1, *(1,) * (self.center.dim() - 1))

    def perturbed(self):
        eps = self.eps if isinstance(self.eps, float) else self._radius().reshape(-1, 1)
        if isinstance(self.eps, Tensor) and self.norm == math.inf:
            eps = self._radius()
        return BoundedTensor(self.center.clone(), PerturbationLpNorm(norm=self.norm, eps=eps))

    def project(self, points):  # points: (n, b, *shape)
        offset, radius = points - self.center, self._radius()
        if self.norm == math.inf:
            return self.center + offset.clamp(-radius, radius)
        size = torch.linalg.vector_norm(offset.flatten(2), ord=self.norm, dim=2)
        size = size.reshape(*size.shape, *(1,) * (self.center.dim() - 1))
        return self.center + offset * (radius / size.clamp(min=1e-300)).clamp(max=1)

    def sample(self, count):
        """Corners (unit vectors for p = 1), points on the boundary and points inside, and the centre."""
        shape = (count, *self.center.shape)
        third = count // 3
        direction = torch.randn(shape, dtype=self.center.dtype)
        if self.norm == math.inf:
            direction[:third] = direction[:third].sign()
        else:
            flat = direction.flatten(2)
            one = torch.nn.functional.one_hot(torch.randint(flat.shape[2], flat.shape[:2]), flat.shape[2])
            direction[:third] = (one * flat.sign()).reshape(shape)[:third]
        size = torch.linalg.vector_norm(direction.flatten(2), ord=self.norm, dim=2)
        direction = direction / size.reshape(*size.shape, *(1,) * (self.center.dim() - 1))
        scale = torch.ones(count, *(1,) * self.center.dim(), dtype=self.center.dtype)
        scale[2 * third :] = torch.rand_like(scale[2 * third :])
        scale[-1] = 0
        return self.project(self.center + direction * self._radius() * scale)


@dataclass
class Box:
    """Boxes with sides of any length: lower and upper of shape (b, *shape)."""

    lower: Tensor
    upper: Tensor
    norm: float = math.inf

    @property
    def center(self):
        return (self.lower + self.upper) / 2

    def perturbed(self):
        # The tensor handed over is not the middle of the box: only x_L and x_U say where the region is.
        inside = self.lower + 0.25 * (self.upper - self.lower)
        return BoundedTensor(inside, PerturbationLpNorm(norm=math.inf, x_L=self.lower, x_U=self.upper))

    def project(self, points):
        return torch.minimum(torch.maximum(points, self.lower), self.upper)

    def sample(self, count):
        fraction = torch.rand(count, *self.lower.shape, dtype=self.lower.dtype)
        fraction[: count // 2] = fraction[: count // 2].round()
        return self.project(self.lower + fraction * (self.upper - self.lower))


def outputs(net: nn.Module, points: Tensor, C: Tensor | None = None) -> Tensor:
    """(n, b, *shape) -> (n, b, k), without gradients."""
    with torch.no_grad():
        y = net(points.flatten(0, 1)).flatten(1).unflatten(0, points.shape[:2])
        return y if C is None else (C @ y.unsqueeze(3)).squeeze(3)


@torch.enable_grad()
def jacobian(net: nn.Module, x: Tensor, C: Tensor | None = None, differentiable: bool = False) -> Tensor:
    """Jacobian of ``C f`` at every sample of x: (b, *shape) -> (b, k, *shape)."""
    if not x.requires_grad:
        x = x.detach().requires_grad_()
    y = net(x).flatten(1)
    if C is not None:
        y = (C.repeat(len(y) // len(C), 1, 1) @ y.unsqueeze(2)).squeeze(2)
    rows = [
        torch.autograd.grad(row.sum(), x, retain_graph=True, create_graph=differentiable, materialize_grads=True)[0]
        for row in y.unbind(1)
    ]
    return torch.stack(rows, 1)


def jacobians(net: nn.Module, points: Tensor, C: Tensor | None = None) -> Tensor:
    """(n, b, *shape) -> (n, b, k, *shape), all points of all samples in one batch."""
    return jacobian(net, points.flatten(0, 1), C).detach().unflatten(0, points.shape[:2])


@torch.enable_grad()
def attacked(net: nn.Module, region: Ball | Box, C: Tensor | None = None, targets: int = 6, steps: int = 8) -> Tensor:
    """Points where single entries of the Jacobian are extreme: gradient ascent on the entry, random where it is flat.

    Args:
        targets: how many (entry, side) pairs are attacked; each by its own point per sample.
        steps: ascent steps; a step is kept where the entry grew.

    Returns:
        Points of shape (targets, b, *shape).
    """
    start = region.sample(12)
    values = jacobians(net, start, C).flatten(3).flatten(2)  # (n, b, entries)
    entry = torch.randint(values.shape[2], (targets,))
    side = torch.ones(targets, dtype=values.dtype)
    side[::2] = -1

    def pick(entries):  # (targets, b, entries) -> (targets, b)
        return side[:, None] * entries.gather(2, entry[:, None, None].expand(-1, entries.shape[1], 1)).squeeze(2)

    scores = side[:, None] * values[:, :, entry].permute(0, 2, 1)  # (n, targets, b)
    score, best = scores.max(0)
    points = torch.stack([start[best[t], torch.arange(start.shape[1])] for t in range(targets)])
    reach = (region.sample(30) - region.center).abs().amax(0)
    for step in range(steps):
        x = points.flatten(0, 1).detach().requires_grad_()
        value = pick(jacobian(net, x, C, differentiable=True).flatten(1).unflatten(0, points.shape[:2]))
        gradient = torch.zeros_like(points)
        if value.requires_grad:
            found = torch.autograd.grad(value.sum(), x, allow_unused=True)[0]
            gradient = gradient if found is None else found.unflatten(0, points.shape[:2])
        gradient = torch.where(gradient == 0, torch.randn_like(gradient), gradient)
        trial = region.project(points + gradient.sign() * reach / (1 + step / 2))
        new = pick(jacobians(net, trial, C).flatten(2).flatten(2))
        better = new > score
        score = torch.where(better, new, score)
        points = torch.where(better.reshape(*better.shape, *(1,) * (points.dim() - 2)), trial, points)
    return points


def truth(net: nn.Module, region: Ball | Box, C: Tensor | None = None, count: int = 60, targets: int = 6) -> Tensor:
    """Jacobians all over a region: random points, corners, points found by attack. (n, b, k, *shape)."""
    points = torch.cat([region.sample(count), attacked(net, region, C, targets)])
    return jacobians(net, points, C)


def assert_encloses(lower: Tensor, upper: Tensor, values: Tensor, slack: float = 1e-9) -> None:
    """`lower <= values <= upper`, up to `slack` of the largest value; shapes (...) and (n, ...)."""
    assert lower.shape == upper.shape == values.shape[1:]
    assert bool(lower.isfinite().all() & upper.isfinite().all())
    assert bool((lower <= upper).all())
    scale = values.abs().max().clamp(min=1e-30)
    escape = torch.maximum(lower.to(values) - values, values - upper.to(values)).max() / scale
    assert escape <= slack, f"a sampled value is outside the bounds by {float(escape):.3e} of the largest"
