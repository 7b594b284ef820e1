"""The local Lipschitz constant of a network against the radius, by three methods, with a picture.

For balls of growing radius (l_inf) around a handwritten digit: how much can the outputs change per unit of change of
the image, in the l_inf norm? Certified upper bounds, and the largest slope met at random points as a lower bound.

Run `python examples/lipschitz_curve.py [--plot FILE]`; a few seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

matplotlib.use("Agg")  # draw into a file, without a display
from matplotlib import pyplot as plt

DATA = Path(__file__).parent / "data"
parser = argparse.ArgumentParser(description="The local Lipschitz constant of a network against the radius.")
parser.add_argument("--plot", default="lipschitz_curve.png", help="picture to write: .png, .pdf or .svg")
picture = parser.parse_args().plot

net = rj.load_onnx(DATA / "digits_relu.onnx")
box = rj.load_vnnlib(DATA / "digits_relu_small.vnnlib").boxes[0]
image = torch.tensor((box.lower + box.upper) / 2, dtype=net.dtype).unsqueeze(0)
model = BoundedModule(net, image)

radii = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]
methods = ["Fast-Lip", "RecurJac", "RecurJac-Linear"]  # from the loosest to the tightest
curves: dict[str, list[float]] = {name: [] for name in (*methods, "sampled")}

torch.manual_seed(0)
corners = torch.rand(200, *image.shape[1:]).round() * 2 - 1
for eps in radii:
    x = BoundedTensor(image, PerturbationLpNorm(norm=float("inf"), eps=eps))
    for name in methods:
        with torch.no_grad():
            curves[name].append(rj.local_lipschitz(model, x, method=name).item())
    # The l_inf operator norm of a Jacobian is its largest row sum of magnitudes.
    J = torch.func.vmap(torch.func.jacrev(lambda v: net(v.unsqueeze(0))[0]))(image + eps * corners)
    curves["sampled"].append(J.abs().sum(2).amax().item())

print(f"{'radius':>8}" + "".join(f"{name:>17}" for name in curves))
for i, eps in enumerate(radii):
    print(f"{eps:8g}" + "".join(f"{curve[i]:17.3f}" for curve in curves.values()))

plt.figure(layout="constrained")
for name, color in zip(methods, ("#D55E00", "#0072B2", "#009E73")):  # of Okabe and Ito
    plt.loglog(radii, curves[name], "o-", color=color, label=f"{name} (upper bound)")
plt.loglog(radii, curves["sampled"], "k--", label="sampled (lower bound)")
plt.xlabel("radius of the ball (l_inf)")
plt.ylabel("local Lipschitz constant (l_inf)")
plt.title("Around a handwritten digit, ReLU network")
plt.grid(which="both", alpha=0.3)
plt.legend()
plt.savefig(picture, dpi=150)
print(f"wrote {picture}")

for looser, tighter in (("Fast-Lip", "RecurJac"), ("RecurJac", "RecurJac-Linear"), ("RecurJac-Linear", "sampled")):
    for above, below in zip(curves[looser], curves[tighter], strict=True):
        assert above >= below * (1 - 1e-5), f"{looser} is an upper bound of {tighter}"
