"""An activation that neither auto_LiRPA nor this package knows, and its Jacobian bounds.

asinh(z) = log(z + sqrt(z^2 + 1)). auto_LiRPA wants an autograd function with a symbol for its graph, and a class that
bounds it; this package wants the derivative and the points where that has its peaks, valleys and kinks.

Run `python examples/custom_activation.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

from auto_LiRPA import register_custom_op  # isort: skip
from auto_LiRPA.bound_ops import BoundActivation  # isort: skip


class AsinhOp(torch.autograd.Function):
    """asinh with its own symbol, `custom::Asinh`."""

    @staticmethod
    def symbolic(g: Any, z: Any) -> Any:
        """The node in the traced graph."""
        return g.op("custom::Asinh", z).setType(z.type())

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """Its value."""
        ctx.save_for_backward(z)
        return torch.asinh(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Its gradient: bounds do without, training does not."""
        (z,) = ctx.saved_tensors
        return grads[0] * derivative(z)


class Asinh(nn.Module):
    """asinh as a layer."""

    def forward(self, z: Tensor) -> Tensor:
        """Element-wise."""
        return AsinhOp.apply(z)


class BoundAsinh(BoundActivation):
    """For the host: asinh grows, so intervals map end to end; for CROWN, two parallel lines around it."""

    def forward(self, z: Tensor) -> Tensor:
        """Its value."""
        return torch.asinh(z)

    def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
        """Interval bounds."""
        lower, upper = v[0]
        return self.forward(lower), self.forward(upper)

    def bound_backward(self, last_lA: Any, last_uA: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Linear bounds: with s the least slope on [l, u], f(l) + s (z - l) <= f(z) <= f(u) + s (z - u)."""
        slope = torch.minimum(derivative(x.lower), derivative(x.upper)).unsqueeze(0)
        low = self.forward(x.lower).unsqueeze(0) - slope * x.lower.unsqueeze(0)
        high = self.forward(x.upper).unsqueeze(0) - slope * x.upper.unsqueeze(0)

        def through(A: Any, positive: Tensor, negative: Tensor) -> tuple[Any, Any]:
            if A is None:
                return None, 0.0
            bias = (A.clamp(min=0) * positive + A.clamp(max=0) * negative).flatten(2).sum(2)
            return A * slope, bias

        (lA, lbias), (uA, ubias) = through(last_lA, low, high), through(last_uA, high, low)
        return [(lA, uA)], lbias, ubias


def derivative(z: Tensor) -> Tensor:
    """asinh'(z) = 1 / sqrt(1 + z^2): rises to 1 at 0, then falls."""
    return (1 + z.square()).rsqrt()


register_custom_op("custom::Asinh", BoundAsinh)  # for auto_LiRPA
rj.register_activation("BoundAsinh", derivative, critical_points=[(0.0, 1.0)])  # for this package

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 20), Asinh(), nn.Linear(20, 20), Asinh(), nn.Linear(20, 4)).double()
center, eps = torch.rand(1, 6, dtype=torch.float64), 0.05
model = BoundedModule(net, center)
x = BoundedTensor(center, PerturbationLpNorm(norm=float("inf"), eps=eps))


class Plain(nn.Module):
    """The same layer by torch's own function, without a symbol."""

    def forward(self, z: Tensor) -> Tensor:
        """Element-wise."""
        return torch.asinh(z)


# The Jacobian of the same network built with torch's function must lie within the bounds.
reference = nn.Sequential(*(Plain() if isinstance(layer, Asinh) else layer for layer in net))
points = center + eps * (2 * torch.rand(2000, 6, dtype=torch.float64) - 1)
jacobians = torch.func.vmap(torch.func.jacrev(reference))(points)  # shape: (points, outputs, inputs)

for method in ("RecurJac", "RecurJac-Linear"):
    with torch.no_grad():
        lower, upper = rj.jacobian_bounds(model, x, method=method)
        constant = rj.local_lipschitz(model, x, method=method).item()
    sampled = jacobians.abs().sum(2).max().item()
    print(f"{method:16} Lipschitz constant (l_inf) at most {constant:.4f}, at least {sampled:.4f}")
    assert (jacobians >= lower).all() and (jacobians <= upper).all()
    assert sampled <= constant < 1.2 * sampled
