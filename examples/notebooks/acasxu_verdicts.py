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
# # Verdicts on ACAS Xu, with the boxes that were cut
#
# ACAS Xu networks advise aircraft on a collision course: five inputs (distance, two angles, two speeds), one score
# for each of five advisories. Property 2 says: for a distant and slower intruder "clear of conflict" is not the worst
# score. `rj.verify` decides it; a slice through two of the inputs, cut by hand, shows what happens.
#
# The networks are those of VNN-COMP, in the folder `VNNCOMP_BENCHMARKS`. Without it, a small network that is trained
# here takes their place: then nothing below is about ACAS Xu.

# %%
import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Patch, Rectangle
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

FOLDER = os.environ.get("VNNCOMP_BENCHMARKS")
NETWORKS = ("2_1", "3_3")
ACROSS = (1, 2)  # the inputs of the slice
CUTS = 14  # how often a box of the slice is cut at most
STEPS = 300  # of training, for the networks in their place
LOWER, UPPER = (0.6, -0.5, -0.5, 0.45, -0.5), (0.68, 0.5, 0.5, 0.5, -0.45)


# %%
def stand_in(seed: int, peak: float) -> nn.Sequential:
    """Scores whose first one is the largest only in the middle of the slice, if `peak` is positive."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(STEPS):
        x = torch.rand(256, 5) * (torch.tensor(UPPER) - torch.tensor(LOWER)) + torch.tensor(LOWER)
        first = peak - 4 * (x[:, 1] ** 2 + x[:, 2] ** 2)
        others = torch.stack([x[:, 1], -x[:, 1], x[:, 2], -x[:, 2]], 1).abs() / 2
        loss = nn.functional.mse_loss(net(x), torch.cat([first.unsqueeze(1), others], 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def stand_in_property() -> rj.Spec:
    """Property 2 on the same box, as VNN-LIB."""
    lines = [f"(declare-const X_{i} Real)(declare-const Y_{i} Real)" for i in range(5)]
    lines += [f"(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i, (low, high) in enumerate(zip(LOWER, UPPER))]
    lines += [f"(assert (<= Y_{i} Y_0))" for i in range(1, 5)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "property.vnnlib"
        path.write_text("\n".join(lines))
        return rj.load_vnnlib(path)


if FOLDER:
    acasxu = Path(FOLDER) / "acasxu"
    title = "ACAS Xu {}, property 2"
    spec = rj.load_vnnlib(acasxu / "prop_2.vnnlib")
    networks = {name: rj.load_onnx(acasxu / f"ACASXU_run2a_{name}_batch_2000.onnx") for name in NETWORKS}
else:
    title = "{}"
    spec = stand_in_property()
    networks = {"stand-in A": stand_in(0, 0.2), "stand-in B": stand_in(1, -0.05)}

# %% [markdown]
# The verdicts, over all five inputs. `sat` comes with an input whose first score is the largest, `unsat` is a proof
# that there is none.

# %%
box = spec.boxes[0]
(violation,) = box.disjuncts  # A y <= b
results = {}
for name, net in networks.items():
    results[name] = rj.verify(net, spec, timeout=60)
    print(f"{name}: {results[name].verdict.value}, {results[name].boxes} boxes, {results[name].seconds:.2f} s")

# %% [markdown]
# The slice: three inputs stay where the counterexample is, or in the middle. A box of the other two is *proved* if a
# row of the violation, `A y <= b`, is impossible on all of it; it *violates* if all rows hold everywhere on it; else
# it is cut across its longer side. All boxes that wait are bounded in one call.


# %%
def paving(net: nn.Module, at: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """The boxes of the slice through `at`: what is known of each, its lower and its upper corner."""
    shape = getattr(net, "input_shape", (5,))
    model = BoundedModule(net, at.reshape(1, *shape))
    A, b = torch.tensor(violation.A).to(at)[None], torch.tensor(violation.b).to(at)
    low, high = at.repeat(1, 1), at.repeat(1, 1)
    low[:, ACROSS], high[:, ACROSS] = (torch.tensor(end[[*ACROSS]]).to(at) for end in (box.lower, box.upper))
    found = []
    for cut in range(CUTS + 1):
        region = PerturbationLpNorm(norm=math.inf, x_L=low.reshape(-1, *shape), x_U=high.reshape(-1, *shape))
        middle = ((low + high) / 2).reshape(-1, *shape)
        least, most = rj.output_bounds(model, BoundedTensor(middle, region), method="RecurJac+CROWN", C=A)
        proved, violates = (least > b).any(1), (most <= b).all(1)
        left = ~proved & ~violates
        for word, chosen in (("proved", proved), ("violates", violates), ("open", left & (cut == CUTS))):
            found += [(word, *corners) for corners in zip(low[chosen], high[chosen])]
        if cut == CUTS or not bool(left.any()):
            return found
        low, high = low[left], high[left]
        longest = torch.zeros_like(low)
        longest[range(len(low)), (high - low).argmax(1)] = 1
        half = (high - low) / 2 * longest
        low, high = torch.cat([low, low + half]), torch.cat([high - half, high])
    return found


slices = {}
for name, net in networks.items():
    counterexample = results[name].counterexample
    at = (box.lower + box.upper) / 2 if counterexample is None else counterexample.x
    with torch.no_grad():
        slices[name] = paving(net, torch.as_tensor(at, dtype=torch.float32).reshape(1, 5))
    counts = {word: sum(each[0] == word for each in slices[name]) for word in ("proved", "violates", "open")}
    print(f"{name}: {counts}")

# %%
COLORS = {"proved": "#9ecae1", "violates": "#D55E00", "open": "#888888"}
names = (", angle to the intruder", ", heading of the intruder") if FOLDER else ("", "")
figure, panels = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
for panel, (name, boxes) in zip(panels, slices.items()):
    for word, low, high in boxes:
        corner, size = low[[*ACROSS]].tolist(), (high - low)[[*ACROSS]].tolist()
        panel.add_patch(Rectangle(corner, *size, facecolor=COLORS[word], edgecolor="white", linewidth=0.3))
    counterexample = results[name].counterexample
    if counterexample is not None:
        panel.plot(*counterexample.x[[*ACROSS]], "k*", markersize=12)
    panel.autoscale_view()
    panel.set_title(f"{title.format(name)}: {results[name].verdict.value}")
    panel.set(xlabel=f"input {ACROSS[0]}{names[0]}", ylabel=f"input {ACROSS[1]}{names[1]}")
star = plt.Line2D([], [], color="black", marker="*", linestyle="", markersize=12, label="counterexample of verify")
words = {
    "proved": "no violation, by the bounds",
    "violates": "violated everywhere",
    "open": "too small to be cut further",
}
patches = [Patch(color=COLORS[word], label=label) for word, label in words.items()]
figure.legend(handles=[*patches, star], loc="outside lower center", ncols=4, frameon=False)
# %% [markdown]
# Boxes are small along the border between both answers and where bounds are loose, and large elsewhere. The picture
# shows a slice; the verdict is about all five inputs. `verify` does the same in five dimensions, chooses the side to
# cut by the Jacobian, fixes inputs in which an output is monotone, and bounds in float64 with room for rounding,
# which this loop in float32 does not.

# %%
for name, net in networks.items():
    for word, low, high in slices[name]:
        y = net(((low + high) / 2).reshape(1, *getattr(net, "input_shape", (5,)))).detach().double().numpy()[0]
        assert word == "open" or violation.contains(y) == (word == "violates")
words_found = {word for boxes in slices.values() for word, _, _ in boxes}
assert {"proved", "violates"} <= words_found
