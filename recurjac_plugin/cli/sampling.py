"""Lipschitz constants from below: the largest one met at random points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from recurjac_plugin.onnx_model import OnnxNetwork


def sampled_constant(
    network: OnnxNetwork,
    center: torch.Tensor,  # shape: (*input_shape)
    norm: float,
    eps: float,
    count: int,
    seed: int,
) -> float:
    """Largest operator norm of the Jacobian at random points of a ball.

    No bound of the Lipschitz constant can be smaller: the slope at one point is one of those it bounds.

    Args:
        network: evaluated and differentiated.
        center: middle of the ball.
        norm: p of the ball and of both sides of the operator norm: 1, 2 or inf.
        eps: its radius.
        count: number of points; the centre is one of them.
        seed: of the points.
    """
    import torch

    offsets = _ball(count, center.numel(), norm, seed).to(center) * eps
    offsets[0] = 0
    points = center + offsets.reshape(count, *center.shape)
    batches = [points] if network.takes_batches else list(points.split(1))
    J = torch.cat([_jacobian(network, batch) for batch in batches])
    if norm == math.inf:
        constants = J.abs().sum(2).amax(1)
    elif norm == 1:
        constants = J.abs().sum(1).amax(1)
    else:
        constants = torch.linalg.matrix_norm(J, ord=2)
    return float(constants.max())


def _ball(count: int, size: int, norm: float, seed: int) -> torch.Tensor:
    """Points of the unit ball, half of them on its surface: (count, size)."""
    import torch

    random = torch.Generator().manual_seed(seed)
    if norm == math.inf:
        points = 2 * torch.rand(count, size, generator=random, dtype=torch.float64) - 1
        points[::2] = points[::2].sign()
        return points
    points = torch.randn(count, size, generator=random, dtype=torch.float64)
    points = points / torch.linalg.vector_norm(points, ord=norm, dim=1, keepdim=True)
    points[1::2] *= torch.rand(len(points[1::2]), 1, generator=random, dtype=torch.float64)
    return points


def _jacobian(
    network: OnnxNetwork, x: torch.Tensor
) -> torch.Tensor:  # x: (b, *input_shape) -> (b, n_outputs, n_inputs)
    import torch

    x = x.detach().requires_grad_()
    y = network(x)
    rows = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(y.shape[1])]
    return torch.stack(rows, dim=1)
