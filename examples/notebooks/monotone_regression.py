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
# # A regression that is proved monotone
#
# The disease progression of scikit-learn's diabetes data, from ten features. It should not be predicted to fall where
# the body mass index rises. Plain training promises nothing of the kind; here a network is trained with RecurJac's
# lower bound of that derivative in its loss, over the whole box of the data, and the sign is proved afterwards.

# %%
import math

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

STEPS = 200
FEATURE = 2  # body mass index
WEIGHT, MARGIN = 10.0, 0.01  # of the hinge; how large the derivative shall be at least

# %%
features, progression = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
x = (features - features.mean(0)) / features.std(0)
y = ((progression - progression.mean()) / progression.std()).unsqueeze(1)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:330], order[330:]
low, high = x.amin(0, keepdim=True), x.amax(0, keepdim=True)
everywhere = BoundedTensor((low + high) / 2, PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high))

# %% [markdown]
# The bound is differentiable by the weights. Intervals instead of CROWN before it (`IBP+`) are looser and cheaper,
# and training makes the network one for which they are tight enough.


# %%
def fitted(monotone: bool) -> tuple[nn.Sequential, list[float]]:
    """A trained network, and the proved least derivative along training."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    model = BoundedModule(net, low)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1.0)
    history = []
    for _ in range(STEPS):
        least = rj.jacobian_bounds(model, everywhere, method="IBP+RecurJac-Linear").lower[0, 0, FEATURE]
        loss = nn.functional.mse_loss(net(x[train]), y[train])
        if monotone:
            loss = loss + WEIGHT * (MARGIN - least).clamp(min=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(least.item())
    return net, history


nets = {"plain": fitted(monotone=False), "monotone": fitted(monotone=True)}

# %% [markdown]
# `rj.monotonicity` proves signs on the whole box: +1 says that the output never falls.


# %%
def explained(net: nn.Sequential, part: Tensor) -> float:
    """R^2 on some of the patients."""
    return 1 - (net(x[part]) - y[part]).square().mean().item() / y[part].var(unbiased=False).item()


signs = {}
for name, (net, _) in nets.items():
    signs[name] = int(rj.monotonicity(BoundedModule(net, low), everywhere)[0, 0, FEATURE])
    print(
        f"{name:8} proved sign {signs[name]:+d}, R^2 {explained(net, train):.2f} seen, {explained(net, test):.2f} new"
    )

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
colors = {"plain": "#555555", "monotone": "#0072B2"}
sweep = torch.linspace(float(low[0, FEATURE]), float(high[0, FEATURE]), 100)
for panel, (name, (net, _)) in zip(axes, nets.items()):
    for patient in x[test[:25]]:
        points = patient.repeat(100, 1)
        points[:, FEATURE] = sweep
        panel.plot(sweep, net(points).detach(), color=colors[name], alpha=0.5, linewidth=1)
    panel.set(title=f"{name}: 25 new patients", xlabel="body mass index (standardised)", ylabel="prediction")
for name, (_, history) in nets.items():
    axes[2].plot(history, color=colors[name], label=name)
axes[2].axhline(0, color="black", linestyle=":", linewidth=1)
axes[2].set(title="proved least derivative on the box", xlabel="step of training", ylabel="lower bound")
axes[2].legend()
# %% [markdown]
# What is proved: the right network's output does not fall with the body mass index anywhere in the box of the data,
# the space between the patients included. Whether the plain network falls somewhere, two points decide.

# %%
points = (low + torch.rand(5000, 10) * (high - low)).requires_grad_()
for name, (net, _) in nets.items():
    (slopes,) = torch.autograd.grad(net(points).sum(), points)
    print(f"{name:8} derivatives at 5000 points from {slopes[:, FEATURE].min():.3f} to {slopes[:, FEATURE].max():.3f}")
assert signs["monotone"] == 1 and slopes[:, FEATURE].min() >= 0
