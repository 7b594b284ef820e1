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
# # How much can a classifier's outputs change?
#
# A Lipschitz constant L of a network on a region says $\|f(x) - f(y)\|_\infty \le L\,\|x - y\|_\infty$ for all x and
# y in it. The product of the layers' norms is such a constant for all inputs together, and usually far too large.
# Around one image the bounds of RecurJac are much smaller: on a small ball most neurons do not switch.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

DATA = Path("../data")
RADII = torch.logspace(-3.5, -0.5, 10).tolist()
METHODS = {"Fast-Lip": "#D55E00", "RecurJac": "#0072B2", "RecurJac-Linear": "#009E73"}  # colours of Okabe and Ito

# %% [markdown]
# The network reads 8x8 images of digits; the image is the middle of a property's box.

# %%
net = rj.load_onnx(DATA / "digits_relu.onnx")
box = rj.load_vnnlib(DATA / "digits_relu_small.vnnlib").boxes[0]
image = torch.tensor((box.lower + box.upper) / 2, dtype=net.dtype).reshape(1, *net.input_shape)
model = BoundedModule(net, image)

plt.figure(figsize=(2.5, 2.5))
plt.imshow(image.reshape(8, 8), cmap="gray_r")
plt.title(f"seen as a {net(image).argmax().item()}")
plt.axis("off")
# %% [markdown]
# One ball for every radius. An upper bound is proved; a lower bound comes from the steepest point that gradient
# ascent finds. The true constant lies in between.

# %%
curves: dict[str, list[float]] = {name: [] for name in (*METHODS, "sampled")}
for radius in RADII:
    ball = BoundedTensor(image, PerturbationLpNorm(norm=float("inf"), eps=radius))
    for method in METHODS:
        curves[method].append(rj.local_lipschitz(model, ball, method=method).item())
    curves["sampled"].append(rj.sampled_lipschitz(model, ball).item())
everywhere = rj.global_lipschitz(model, norm=float("inf")).item()

# %%
figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
axes.axhline(everywhere, color="#555555", linestyle=":", label="product of operator norms, all inputs")
for (method, color), marker in zip(METHODS.items(), "so^"):
    axes.loglog(RADII, curves[method], marker=marker, color=color, label=f"{method} (proved)")
axes.loglog(RADII, curves["sampled"], "k--", label="sampled (lower bound)")
axes.set(xlabel=r"radius of the $\ell_\infty$ ball", ylabel=r"Lipschitz constant ($\ell_\infty$)")
axes.set_title("Local Lipschitz constant of a digits classifier")
axes.grid(alpha=0.3)
axes.legend()
# %% [markdown]
# On small balls the proved constant is the sampled one: there the answer is known. On large ones the methods part,
# and RecurJac-Linear, which keeps a line where RecurJac takes a constant, is the lowest. None comes near the product.
# Where a curve falls, the bound of the larger ball holds on the smaller ones, too.

# %%
print(f"at radius {RADII[0]:.2g}: proved {curves['RecurJac-Linear'][0]:.3f}, sampled {curves['sampled'][0]:.3f}")
print(f"at radius {RADII[-1]:.2g}: proved {curves['RecurJac-Linear'][-1]:.0f}, product of norms {everywhere:.0f}")
assert all(low <= high * 1.0001 for low, high in zip(curves["sampled"], curves["RecurJac-Linear"]))
assert all(tight <= loose * 1.0001 for tight, loose in zip(curves["RecurJac-Linear"], curves["Fast-Lip"]))
