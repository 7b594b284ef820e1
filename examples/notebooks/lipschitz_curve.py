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

DATA = Path("../data")
RADII = torch.logspace(-3.5, -0.5, 10).tolist()
METHODS = ("Fast-Lip", "RecurJac", "RecurJac-Linear", "Operator-Norm")  # the last one is the product, for all inputs

# %% [markdown]
# The network reads 8x8 images of digits; the image is the middle of a property's box.

# %%
net = rj.load_onnx(DATA / "digits_relu.onnx")
box = rj.load_vnnlib(DATA / "digits_relu_small.vnnlib").boxes[0]
image = torch.tensor((box.lower + box.upper) / 2, dtype=net.dtype).reshape(1, *net.input_shape)

plt.figure(figsize=(2.5, 2.5))
plt.imshow(image.reshape(8, 8), cmap="gray_r")
plt.title(f"seen as a {net(image).argmax().item()}")
plt.axis("off")
# %% [markdown]
# One ball for every radius. An upper bound is proved; a lower bound comes from the steepest point that gradient
# ascent finds. The true constant lies in between.

# %%
curve = rj.lipschitz_curve(net, image, RADII, methods=METHODS)
curve.plot(title="Local Lipschitz constant of a digits classifier")
# %% [markdown]
# On small balls the proved constant is the sampled one: there the answer is known. On large ones the methods part,
# and RecurJac-Linear, which keeps a line where RecurJac takes a constant, is the lowest. None comes near the product.
# Where a curve falls, the bound of the larger ball holds on the smaller ones, too. The curve is a table as well:

# %%
table = curve.frame.pivot(index="eps", columns="method", values="constant")
print(table.round(1).to_string())
assert (table["sampled"] <= table["RecurJac-Linear"] * 1.0001).all()
assert (table["RecurJac-Linear"] <= table["Fast-Lip"] * 1.0001).all()
