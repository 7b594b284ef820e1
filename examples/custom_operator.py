"""A linear operator that neither auto_LiRPA nor this package knows, and the Jacobian bounds of a network that has it.

A signal of 16 values on a circle is smoothed in the frequency domain, ``irfft(w * rfft(x))``, between two layers.
torch's exporter has no operator for that: a `torch.autograd.Function` with a symbol makes it one. What the rule of this
package returns, a `LinearMap` of torch's own function, is all that auto_LiRPA's class needs, too.

Run `python examples/custom_operator.py [--plot FILE]`; a few seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from intervals import draw_intervals, picture_file, saved
from matplotlib.figure import Figure
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import Bound, BoundedModule, BoundedTensor, PerturbationLpNorm

from auto_LiRPA import register_custom_op  # isort: skip

PICTURE = picture_file(__file__, "Jacobian bounds of a network that smooths in the frequency domain.")
POINTS = 16


def smoothed(x: Tensor) -> Tensor:
    """High frequencies damped: (b, points) -> (b, points)."""
    frequencies = torch.arange(POINTS // 2 + 1, dtype=x.dtype, device=x.device)
    return torch.fft.irfft(torch.fft.rfft(x) / (1 + frequencies.square()), n=POINTS)


# The derivative of a linear function is itself: pushed forward, or transposed and pulled back, by autograd.
SMOOTHING = rj.linear_map(smoothed, (POINTS,), (POINTS,))


class SmoothOp(torch.autograd.Function):
    """The function with its own symbol, `custom::Smooth`."""

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        """The node in the traced graph."""
        return g.op("custom::Smooth", x).setType(x.type())

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Its value."""
        return smoothed(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Its gradient."""
        return SMOOTHING.pull(grads[0])


class Smooth(nn.Module):
    """Smoothing as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, points) -> (b, points)."""
        return SmoothOp.apply(x)


class BoundSmooth(Bound):
    """For the host: intervals by the absolute values of the matrix, linear bounds by its transpose."""

    def forward(self, x: Tensor) -> Tensor:
        """Its value."""
        return smoothed(x)

    def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
        """Interval bounds, each of shape (b, points)."""
        lower, upper = v[0]
        middle, radius = SMOOTHING.push((lower + upper) / 2), SMOOTHING.absolute().push((upper - lower) / 2)
        return middle - radius, middle + radius

    def bound_backward(self, last_lA: Any, last_uA: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Coefficients of shape (rows, b, points), pulled back."""

        def pulled(A: Any) -> Any:
            return None if A is None else SMOOTHING.pull(A.flatten(0, 1)).unflatten(0, A.shape[:2])

        return [(pulled(last_lA), pulled(last_uA))], 0, 0


def rule(node: rj.Node, position: int) -> rj.LinearMap:
    """For this package: the linear map of a node in one of its inputs."""
    if node.input_shapes[position][1:] != (POINTS,):
        raise rj.Refusal(f"its input has shape {node.input_shapes[position]}, expected (b, {POINTS})")
    return SMOOTHING


register_custom_op("custom::Smooth", BoundSmooth)
rj.register_operator("BoundSmooth", rule)

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, POINTS), nn.Tanh(), Smooth(), nn.Linear(POINTS, 20), nn.ReLU(), nn.Linear(20, 3))
net = net.double()
center, eps = torch.rand(1, 6, dtype=torch.float64), 0.05
model = BoundedModule(net, center)
x = BoundedTensor(center, PerturbationLpNorm(norm=float("inf"), eps=eps))


def reference(point: Tensor) -> Tensor:
    """The same network by torch's own functions."""
    return net[3:](smoothed(net[:2](point)))


# Its Jacobians, by autograd, must lie within the bounds.
points = center + eps * (2 * torch.rand(2000, 6, dtype=torch.float64) - 1)
jacobians = torch.func.vmap(torch.func.jacrev(reference))(points)  # shape: (points, outputs, inputs)

proved = {}
for method in ("Fast-Lip", "RecurJac", "RecurJac-Linear"):
    with torch.no_grad():
        lower, upper = proved[method] = tuple(rj.jacobian_bounds(model, x, method=method))
        constant = rj.local_lipschitz(model, x, method=method).item()
    sampled = jacobians.abs().sum(2).max().item()
    print(f"{method:15} Lipschitz constant (l_inf) at most {constant:.4f}, at least {sampled:.4f}")
    assert (jacobians >= lower).all() and (jacobians <= upper).all()
    assert sampled <= constant < 1.2 * sampled

# The derivatives of the first output by every input.
figure = Figure(figsize=(8, 4), layout="constrained")
axes = figure.add_subplot()
first = {method: (low[0, 0], high[0, 0]) for method, (low, high) in proved.items()}
draw_intervals(axes, [f"input {i}" for i in range(6)], first, (jacobians[:, 0].amin(0), jacobians[:, 0].amax(0)))
axes.set(
    title="Derivatives of an output of a network that smooths in the frequency domain", ylabel="derivative on the box"
)
saved(figure, PICTURE)
