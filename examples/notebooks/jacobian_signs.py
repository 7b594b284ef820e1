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
# # Which pixels are for a digit, and which against it
#
# A saliency map is the gradient of a class's output at one image. It says nothing about the next image. Bounds of the
# Jacobian hold on a whole ball of images: where the lower bound is positive, more ink in that pixel raises the
# output, whatever the other pixels do within the ball.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

DATA = Path("../data")
RADII = (0.005, 0.01, 0.02, 0.03)
SIGNS = {-1: ("#0072B2", "falls"), 0: ("#dddddd", "not known"), 1: ("#D55E00", "rises")}

# %%
net = rj.load_onnx(DATA / "digits_tanh.onnx")
box = rj.load_vnnlib(DATA / "digits_tanh_small.vnnlib").boxes[0]
image = torch.tensor((box.lower + box.upper) / 2, dtype=net.dtype).reshape(1, *net.input_shape)
model = BoundedModule(net, image)
label = net(image).argmax().item()
row = torch.eye(10)[label].reshape(1, 1, 10)  # the output of the label alone

# %% [markdown]
# The gradient at the image, and the signs that hold on balls around it.

# %%
saliency = torch.autograd.functional.jacobian(lambda x: net(x)[0, label], image)
signs = []
for radius in RADII:
    ball = BoundedTensor(image, PerturbationLpNorm(norm=float("inf"), eps=radius))
    signs.append(rj.jacobian_bounds(model, ball, C=row).sign())
    print(f"radius {radius:4}: the sign is proved for {int((signs[-1] != 0).sum())} of {signs[-1].numel()} pixels")

# %%
figure, axes = plt.subplots(1, 2 + len(RADII), figsize=(12, 2.9), layout="constrained")
axes[0].imshow(image.reshape(8, 8), cmap="gray_r")
axes[0].set_title(f"the image: a {label}")
largest = saliency.abs().max().item()
shown = axes[1].imshow(saliency.reshape(8, 8), cmap="PuOr_r", vmin=-largest, vmax=largest)
axes[1].set_title("gradient at the image")
figure.colorbar(shown, ax=axes[1], shrink=0.6)
colors = ListedColormap([SIGNS[sign][0] for sign in (-1, 0, 1)])
for panel, radius, sign in zip(axes[2:], RADII, signs):
    panel.imshow(sign.reshape(8, 8), cmap=colors, vmin=-1, vmax=1)
    panel.set_title(f"signs, radius {radius}")
for panel in axes:
    panel.set(xticks=[], yticks=[])
figure.legend(
    handles=[Patch(color=color, label=f"more ink: output for {label} {word}") for color, word in SIGNS.values()],
    loc="outside lower center", ncols=3, frameon=False,
);  # fmt: skip

# %% [markdown]
# A proof can be tried: no sampled image of the ball may have another sign.

# %%
ball_points = image + RADII[1] * (2 * torch.rand(500, *image.shape[1:]) - 1)
ball_points.requires_grad_()
(gradients,) = torch.autograd.grad(net(ball_points)[:, label].sum(), ball_points)
assert bool((gradients * signs[1][0] >= 0).all())
known = [int((sign != 0).sum()) for sign in signs]
assert known == sorted(known, reverse=True), "what holds on a ball holds on a smaller one"
print("all of 500 sampled gradients have the signs that are proved")
