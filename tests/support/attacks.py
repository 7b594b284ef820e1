"""Attacks on margins: descent within balls."""

from __future__ import annotations

import math

import torch
from oracle import Ball, outputs


def attacked(net, points, C, radius, norm, clip=None, steps=40, restarts=60):
    """The smallest margin found in balls, (b,): descent from corners, the boundary and inside."""
    region = Ball(points, radius, norm)

    def project(x):
        x = region.project(x)
        return x if clip is None else region.project(x.clamp(*clip)).clamp(*clip)

    x = project(region.sample(restarts))
    smallest = (outputs(net, x, C).amin(2)).amin(0)
    for step in range(steps):
        x = x.detach().requires_grad_()
        y = net(x.flatten(0, 1)).flatten(1).unflatten(0, x.shape[:2])
        margin = (C @ y.unsqueeze(3)).squeeze(3).amin(2)
        (gradient,) = torch.autograd.grad(margin.sum(), x)
        reach = radius.reshape(-1, *(1,) * (points.dim() - 1)) / (1 + step / 4)
        if norm == math.inf:
            move = gradient.sign() * reach
        elif norm == 2:
            size = torch.linalg.vector_norm(gradient.flatten(2), dim=2)
            move = gradient / size.reshape(*size.shape, *(1,) * (points.dim() - 1)).clamp(min=1e-30) * reach
        else:
            flat = gradient.flatten(2)
            one = torch.nn.functional.one_hot(flat.abs().argmax(2), flat.shape[2]) * flat.sign()
            move = one.reshape(gradient.shape) * reach
        x = project(x.detach() - move)
        smallest = torch.minimum(smallest, outputs(net, x, C).amin(2).amin(0))
    return smallest
