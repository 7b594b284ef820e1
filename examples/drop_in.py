"""RecurJac in an auto_LiRPA script: change the method's name, and ask for Jacobians, too.

Bounds the outputs of a small network on an l_inf ball with CROWN, RecurJac and both together, then its Jacobian, and
checks both against what autograd and the network say at random points of the ball.

Run `python examples/drop_in.py [--plot FILE]`; a few seconds.
"""

from __future__ import annotations

import torch
from intervals import draw_intervals, picture_file, saved
from matplotlib.figure import Figure
from torch import nn

import recurjac_plugin as rj  # on auto_LiRPA 0.3 it goes ahead of `import auto_LiRPA`, which it makes importable

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # isort: skip

PICTURE = picture_file(__file__, "RecurJac in an auto_LiRPA script.")
rj.register()

# An auto_LiRPA script as it always was: a network, an input, a perturbation.
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
center, eps = torch.rand(2, 8), 0.02
model = BoundedModule(net, center)
x = BoundedTensor(center, PerturbationLpNorm(norm=float("inf"), eps=eps))

# The line that changes.
crown_lower, crown_upper = model.compute_bounds(x=(x,), method="CROWN")
lower, upper = model.compute_bounds(x=(x,), method="RecurJac")
both_lower, both_upper = model.compute_bounds(x=(x,), method="RecurJac+CROWN")
for name, width in (
    ("CROWN", crown_upper - crown_lower),
    ("RecurJac", upper - lower),
    ("RecurJac+CROWN", both_upper - both_lower),
):
    print(f"{name:15} mean width of the output bounds {width.mean():.4f}")

# What CROWN does not give: bounds of every derivative of every output. Shape (batch, outputs, inputs).
low, high = model.compute_jacobian_bounds(x, method="RecurJac-Linear")
print(f"RecurJac-Linear mean width of the Jacobian's bounds {(high - low).mean():.4f}")

# Neither may be left by what the network does at any point of the ball.
points = center + eps * (2 * torch.rand(1000, 2, 8) - 1)
slack = 1e-5  # float32
with torch.no_grad():
    outputs = net(points)
jacobians = torch.func.vmap(torch.func.jacrev(net))(points.reshape(-1, 8)).reshape(1000, 2, 3, 8)
assert (outputs >= both_lower - slack).all() and (outputs <= both_upper + slack).all()
assert (jacobians >= low - slack).all() and (jacobians <= high + slack).all()
assert (both_upper - both_lower <= crown_upper - crown_lower + slack).all(), "both together are never wider than one"

rj.unregister()  # auto_LiRPA is as it was
print(f"{len(points) * 2} sampled points lie within the bounds")

# The first of the two inputs: what is proved of its outputs and of a row of its Jacobian, and what was sampled.
figure = Figure(figsize=(10, 4), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(2, 3))
by_method = {
    "CROWN": (crown_lower[0], crown_upper[0]), "RecurJac": (lower[0], upper[0]),
    "RecurJac+CROWN": (both_lower[0], both_upper[0]),
}  # fmt: skip
draw_intervals(left, ["output 0", "output 1", "output 2"], by_method, (outputs[:, 0].amin(0), outputs[:, 0].amax(0)))
left.set(title="Outputs on the ball", ylabel="value")
row = jacobians[:, 0, 0]
sampled = row.amin(0), row.amax(0)
draw_intervals(right, [f"input {i}" for i in range(8)], {"RecurJac-Linear": (low[0, 0], high[0, 0])}, sampled)
right.set(title="Derivatives of output 0 (RecurJac-Linear)", ylabel="derivative")
saved(figure, PICTURE)
