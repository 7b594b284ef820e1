# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A neural controller, and the region in which it is proved to work
#
# An inverted pendulum with friction is held upright by a small tanh network: $\dot x = f(x)$ with the angle and the
# angular speed as x, and $f(0) = 0$. Let J be the Jacobian of f and P a positive definite matrix. Where $PJ(x) +
# J(x)^TP$ is negative definite, trajectories come closer to each other in the norm of P (contraction). On the segment
# from 0 to x, $f(x) = \int_0^1 J(tx)\,x\,dt$, so that $V(x) = x^TPx$ decreases along the trajectory through x if this
# holds on the whole segment.
#
# The network is trained on sampled points, which proves nothing. RecurJac's bounds of J on boxes prove it.

# %%
import itertools
import math

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
STEPS = 400  # of training
TRAINED, SHOWN = 2.2, 3.5  # angle and speed, each from -TRAINED to TRAINED and from -SHOWN to SHOWN
GRID = 70  # boxes along each side
P = torch.tensor([[1.5, 0.5], [0.5, 1.0]])


# %%
class ClosedLoop(nn.Module):
    """Pendulum and controller: (b, 2) -> (b, 2). Without biases the controller is 0 at 0, and so is f."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = nn.Sequential(nn.Linear(2, 16, bias=False), nn.Tanh(), nn.Linear(16, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        angle, speed = x[:, :1], x[:, 1:]
        return torch.cat([speed, torch.sin(angle) - 0.1 * speed + self.controller(x)], 1)


def largest_eigenvalue(J: Tensor) -> Tensor:
    """Of ``P J + J^T P``; negative where the system contracts."""
    return torch.linalg.eigvalsh(P @ J + (P @ J).mT)[..., -1]


# %% [markdown]
# Training: the largest eigenvalue at sampled points shall be below -0.2, with little force.

# %%
system = ClosedLoop()
optimizer = torch.optim.Adam(system.parameters(), 5e-3)
jacobian = torch.func.vmap(torch.func.jacrev(lambda x: system(x.unsqueeze(0))[0]))
for _ in range(STEPS):
    points = TRAINED * (2 * torch.rand(256, 2) - 1)
    loss = (largest_eigenvalue(jacobian(points)) + 0.2).clamp(min=0).mean()
    loss = loss + 0.003 * system.controller(points).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.4f}")

# %% [markdown]
# All boxes are bounded in one call. With `rigorous=True` the bounds of J hold in real arithmetic, rounding included.
# The largest eigenvalue is a convex function of J, so on a box of matrices it is largest at a corner: 4 entries, 16
# corners, less where an entry is constant. These eigenvalues of 2x2 matrices are computed in float64, far more
# exactly than the margin of 1e-6 that is asked for.

# %%
edges = torch.linspace(-SHOWN, SHOWN, GRID + 1)
lower, upper = torch.cartesian_prod(edges[:-1], edges[:-1]), torch.cartesian_prod(edges[1:], edges[1:])
boxes = BoundedTensor((lower + upper) / 2, PerturbationLpNorm(norm=math.inf, x_L=lower, x_U=upper))
bounds = rj.jacobian_bounds(BoundedModule(system, lower[:1]), boxes, rigorous=True)

ends = torch.stack([bounds.lower.detach(), bounds.upper.detach()]).flatten(2)  # shape: (2, boxes, 4)
corners = torch.stack([
    torch.stack([ends[side, :, entry] for entry, side in enumerate(sides)], 1).reshape(-1, 2, 2)
    for sides in itertools.product((0, 1), repeat=4)
])  # fmt: skip
contracts = largest_eigenvalue(corners).amax(0) < -1e-6
print(f"contraction is proved on {int(contracts.sum())} of {len(contracts)} boxes")

# %% [markdown]
# An ellipse $V \le c$ has the segments from 0 to each of its points. If it meets proved boxes alone, V decreases on
# all of it: no trajectory leaves it, and all end at 0. So c is the least value of V on a box that is not proved, and
# on the rim of the picture. On an edge of a box V is a parabola, whose least value is known.


# %%
def least(low: Tensor, high: Tensor) -> Tensor:
    """The smallest V on each box: on an edge, unless 0 is inside."""
    found = []
    for fixed, free in ((0, 1), (1, 0)):
        for at in (low[:, fixed], high[:, fixed]):
            best = (-P[fixed, free] * at / P[free, free]).clamp(low[:, free], high[:, free])
            found.append(P[fixed, fixed] * at**2 + 2 * P[fixed, free] * at * best + P[free, free] * best**2)
    return torch.where(((low <= 0) & (high >= 0)).all(1), 0, torch.stack(found).amin(0))


rim = (SHOWN**2 / torch.linalg.inv(P).diagonal()).min()  # of V where the angle or the speed is SHOWN
c = torch.minimum(least(lower[~contracts], upper[~contracts]).min(), rim) if bool((~contracts).any()) else rim
reach = (c * torch.linalg.inv(P).diagonal()).sqrt()
print(f"V decreases where V < {c:.3f}: an ellipse with angles up to {reach[0]:.2f} and speeds up to {reach[1]:.2f}")

# %% [markdown]
# Simulated trajectories from the rim of the ellipse, as a check and for the picture.

# %%
turn = torch.linspace(0, 2 * math.pi, 200)
circle = torch.stack([turn.cos(), turn.sin()], 1)
ellipse = circle @ torch.linalg.inv(torch.linalg.cholesky(P / c))
state = 0.999 * ellipse[::20]
path, values = [state], []
with torch.no_grad():
    for _ in range(800):
        state = state + 0.01 * system(state)
        path.append(state)
values = [((x @ P) * x).sum(1) for x in path]
assert all(bool((after < before).all()) for before, after in itertools.pairwise(values))

# %%
figure, axes = plt.subplots(figsize=(6.5, 6), layout="constrained")
extent = (-SHOWN, SHOWN, -SHOWN, SHOWN)
axes.imshow(
    contracts.reshape(GRID, GRID).T,
    origin="lower",
    extent=extent,
    cmap=ListedColormap(["#dddddd", "#9ecae1"]),
    vmin=0,
    vmax=1,
)
for start in range(len(path[0])):
    axes.plot(
        *torch.stack([x[start] for x in path]).T,
        color="#D55E00",
        linewidth=1,
        label="simulated" if start == 0 else None,
    )
axes.plot(*ellipse.T, color="black", linewidth=2, label=f"$V = {c:.2f}$: V decreases within (proved)")
axes.plot(0, 0, "k+", markersize=10)
axes.set(xlabel="angle (rad)", ylabel="angular speed (rad/s)", title="Pendulum with a neural controller")
patches = [Patch(color="#9ecae1", label="contraction proved"), Patch(color="#dddddd", label="not proved")]
figure.legend(
    handles=[*patches, *axes.get_legend_handles_labels()[0]], loc="outside lower center", ncols=2, frameon=False
)
# %% [markdown]
# What is proved: for this network and this pendulum, every trajectory that begins in the ellipse stays in it and ends
# upright. What is not: anything about starts outside of it, where contraction alone, in single boxes, says little;
# and the eigenvalues rest on float64, with a margin.

# %%
samples = (torch.rand(2000, 2) * 2 - 1) * SHOWN
inside = ((samples @ P) * samples).sum(1) < c
assert bool((largest_eigenvalue(jacobian(samples[inside])) < 0).all())
assert float(reach.min()) > 1
