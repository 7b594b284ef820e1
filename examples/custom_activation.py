"""An activation that neither auto_LiRPA nor this package knows, and the Jacobian bounds of a network that has it.

asinh(z) = log(z + sqrt(z^2 + 1)) grows without end, but slowly. One call says what is needed of it: its derivative,
where that has peaks, valleys and kinks, how much it bends, and torch's own function. What auto_LiRPA needs to bound a
network that calls ``torch.asinh`` (intervals, CROWN's lines), and what this package needs, follows from these.

Run `python examples/custom_activation.py [--plot FILE]`; a few seconds.
"""

from __future__ import annotations

import torch
from intervals import draw_intervals, picture_file, saved
from matplotlib.figure import Figure
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

PICTURE = picture_file(__file__, "Jacobian bounds of a network with asinh.")


class Asinh(nn.Module):
    """asinh as a layer."""

    def forward(self, z: Tensor) -> Tensor:
        """Element-wise."""
        return torch.asinh(z)


def derivative(z: Tensor) -> Tensor:
    """asinh'(z) = 1 / sqrt(1 + z^2): rises to 1 at 0, then falls."""
    return (1 + z.square()).rsqrt()


# asinh'''(z) = (2 z^2 - 1) / (1 + z^2)^(5/2) has its largest absolute value, 1, at 0.
rj.register_activation("BoundAsinh", derivative, critical_points=[(0.0, 1.0)], curvature=1.0, function=torch.asinh)

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 20), Asinh(), nn.Linear(20, 20), Asinh(), nn.Linear(20, 4)).double()
center, eps = torch.rand(1, 6, dtype=torch.float64), 0.05
model = BoundedModule(net, center)
x = BoundedTensor(center, PerturbationLpNorm(norm=float("inf"), eps=eps))

# Everything must lie within the bounds: outputs within the host's, Jacobians by autograd within those of this package.
points = center + eps * (2 * torch.rand(2000, 6, dtype=torch.float64) - 1)
outputs = net(points)
jacobians = torch.func.vmap(torch.func.jacrev(net))(points)  # shape: (points, outputs, inputs)

for method in ("IBP", "CROWN"):
    with torch.no_grad():
        lower, upper = model.compute_bounds(x=(x,), method=method)
    print(f"{method:18} outputs within {(upper - lower).max():.4f}")
    assert (outputs >= lower).all() and (outputs <= upper).all()

proved = {}
for method in ("RecurJac", "RecurJac-Linear", "RecurJac-McCormick"):
    with torch.no_grad():
        lower, upper = proved[method] = tuple(rj.jacobian_bounds(model, x, method=method))
        constant = rj.local_lipschitz(model, x, method=method).item()
    sampled = jacobians.abs().sum(2).max().item()
    print(f"{method:18} Lipschitz constant (l_inf) at most {constant:.4f}, at least {sampled:.4f}")
    assert (jacobians >= lower).all() and (jacobians <= upper).all()
    assert sampled <= constant < 1.2 * sampled

# The derivatives of the first output by every input.
figure = Figure(figsize=(8, 4), layout="constrained")
axes = figure.add_subplot()
first = {method: (low[0, 0], high[0, 0]) for method, (low, high) in proved.items()}
draw_intervals(axes, [f"input {i}" for i in range(6)], first, (jacobians[:, 0].amin(0), jacobians[:, 0].amax(0)))
axes.set(title="Derivatives of an output of a network with asinh", ylabel="derivative on the box")
saved(figure, PICTURE)
