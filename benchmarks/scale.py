"""How time and memory of local Lipschitz constants grow with the network, part by part, and where they stop.

Networks with random weights and one output, one thread. Every curve varies one thing. Of ReLU networks: width and depth
of a multilayer perceptron, the number of its undetermined neurons (by the radius), its inputs, the rows and the regions
bounded at once. Of tanh networks with three convolutions, where every neuron is undetermined: the side of the image and
the channels. Three parts are measured apart: the host's pre-activation bounds (CROWN), the gains between undetermined
neurons, which all methods but Fast-Lip share, and the pass of each method.

Time is CPU time, the shortest of some runs; memory is the peak of what torch has allocated during the part, beyond what
it started with, as torch's profiler counts it: the same on every run, because it does not ask the system. Straight
lines are fitted to the last points of each curve, in logarithms, and continued to 16 GB and to one hour.

Run `python benchmarks/scale.py [--plot FILE] [--quick]`. `scale_resnet.py` bounds a network with 11 million weights.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces itself on stderr

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.jacobian.analysis import Analysis, analyse
from recurjac_plugin.jacobian.bounded import BoundedByOrder, Order
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.lipschitz.norms import row_constants
from recurjac_plugin.passes.affine import affine_pass
from recurjac_plugin.passes.mccormick import relax_network
from recurjac_plugin.recursion.backward import backward_order
from recurjac_plugin.recursion.fast_lip import IntervalArithmetic

sys.path.append(str(Path(__file__).parent.parent / "examples"))  # for the colours of all pictures
from paper_networks import STYLES, panels, save

MEGABYTE = 2**20
CHUNK = 512 * MEGABYTE
"""What one chunk of rows or columns may take; the rest of the memory is what has to be kept."""
METHODS = ("RecurJac", "RecurJac-Linear", "Fast-Lip")  # RecurJac-McCormick is RecurJac-Linear on ReLU networks
SMOOTH = ("RecurJac", "RecurJac-Linear", "RecurJac-McCormick", "Fast-Lip")

LOOKS = {
    "CROWN": {"color": STYLES["CROWN"]["color"], "marker": "^", "label": "bounds by CROWN"},
    "gains": {"color": "#E69F00", "marker": "v", "label": "gains"},
    **{method: {**{k: STYLES[method][k] for k in ("color", "marker")}, "label": method} for method in METHODS},
    "RecurJac-McCormick": {"color": "#56B4E9", "marker": "P", "label": "RecurJac-McCormick"},
}
STOPS = {"seconds": (3600.0, "1 hour"), "megabytes": (16 * 1024.0, "16 GB")}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """CPU seconds, and the peak of torch's allocations beyond what there was before."""

    seconds: float
    megabytes: float


def measured(function: Callable[[], Result]) -> tuple[Result, Cost]:
    """The result of one call and its cost."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        start = time.process_time()
        result = function()
        seconds = time.process_time() - start
    assert watched.profiler is not None
    events = watched.profiler.kineto_results.events()  # every allocation, and every release as a negative one
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return result, Cost(seconds, peak / MEGABYTE)


def mlp(inputs: int, width: int, depth: int, outputs: int = 1) -> nn.Sequential:
    """A ReLU network with `depth` hidden layers, weights of He's size."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise([inputs, *[width] * depth]):
        layers += [nn.Linear(a, b), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def cnn(channels: int, size: int) -> nn.Sequential:
    """Three convolutions, the last two of stride 2, with tanh, on an image of three channels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.Tanh(),
        nn.Conv2d(channels, channels, 3, padding=1, stride=2), nn.Tanh(),
        nn.Conv2d(channels, channels, 3, padding=1, stride=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(channels * (size // 4) ** 2, 1),
    )  # fmt: skip


def box(center: Tensor, eps: float) -> BoundedTensor:
    """The l_inf ball as a perturbed input."""
    return BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=eps))


@torch.no_grad()
def costs(model: BoundedModule, x: BoundedTensor, methods: tuple[str, ...] = METHODS) -> tuple[dict[str, Cost], int]:
    """The costs of the parts of one computation, and the number of undetermined neurons. Constants must be in order."""
    bounded, bounds = measured(lambda: analyse(model, x, parse("RecurJac"), None, memory_budget=CHUNK))
    gains, cost = measured(lambda: bounded.gains)
    found, constants = {"CROWN": bounds, "gains": cost}, {}
    for method in methods:
        constants[method], found[method] = measured(partial(_constant, bounded, method))
    assert constants[methods[-2]] <= constants["RecurJac-Linear"] * 1.001
    assert constants["RecurJac-Linear"] <= constants["RecurJac"] * 1.001 <= constants["Fast-Lip"] * 1.002
    return found, sum(layer.count for layer in gains.derivatives.values())


def _constant(analysis: Analysis, method: str) -> float:
    """The largest constant by another method, from gains that are there already: they are not part of its pass."""
    treatment = parse(method).treatment
    order: Order
    if treatment.upper_line is None:
        order = IntervalArithmetic(analysis.graph, analysis.derivatives, analysis.rows, CHUNK)
    else:
        lines = forms = None
        if treatment.planes:
            where = (analysis.graph, analysis.preactivations, analysis.centers, analysis.regions)
            lines = relax_network(analysis.gains, *where)
            if lines is not None:
                forms = affine_pass(analysis.gains, analysis.graph, analysis.rows, lines, CHUNK)
        order = backward_order(analysis.gains, treatment.upper_line, CHUNK, lines, forms)
    bounded = BoundedByOrder(analysis.region, analysis.center_value, treatment, order)
    return float(row_constants(bounded, torch.ones_like(bounded.jacobian[0][:, 0])).amax())


def _cheaper(cost: Cost, other: Cost | None) -> Cost:
    return cost if other is None or cost.seconds < other.seconds else other


@dataclass
class Curve:
    """Costs of every part against one quantity."""

    name: str
    values: list[int] = field(default_factory=list)
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    methods: tuple[str, ...] = METHODS
    dimensions: int = 1

    def add(
        self, net: nn.Module, shape: tuple[int, ...], eps: float, value: int | None = None, repeats: int = 3
    ) -> None:
        """Measure one network on inputs of a shape (b, ...); `value` None is its number of undetermined neurons."""
        center = torch.rand(shape)
        model, x = BoundedModule(net, center[:1]), box(center, eps)
        found, undetermined = costs(model, x, self.methods)
        for _ in range(repeats - 1):
            if sum(cost.seconds for cost in found.values()) < 5:
                found = {part: _cheaper(cost, found[part]) for part, cost in costs(model, x, self.methods)[0].items()}
        for part, cost in found.items():
            self.costs.setdefault(part, []).append(cost)
        self.values.append(undetermined if value is None else value)
        shown = ", ".join(f"{part} {cost.seconds:.3g} s {cost.megabytes:.3g} MB" for part, cost in found.items())
        print(f"{self.name} {self.values[-1]} ({undetermined} undetermined): {shown}", flush=True)

    def power(self, part: str, unit: str, last: int = 3) -> float:
        """The exponent p of ``cost ~ value^p``: least squares through the logarithms of the last points."""
        x = torch.tensor(self.values[-last:], dtype=torch.float64).log()
        y = torch.tensor([getattr(cost, unit) for cost in self.costs[part][-last:]], dtype=torch.float64).log()
        return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())

    def stop(self, part: str, unit: str) -> float:
        """The value at which a part takes one hour or 16 GB, if it goes on as it ended."""
        power, last = self.power(part, unit), getattr(self.costs[part][-1], unit)
        return self.values[-1] * (STOPS[unit][0] / last) ** (1 / power) if power > 0.05 else math.inf

    def first(self, unit: str) -> tuple[str, float]:
        """The part that stops first, and where."""
        return min(((part, self.stop(part, unit)) for part in self.costs), key=lambda pair: pair[1])


def curves(quick: bool) -> list[Curve]:
    """All curves."""

    def steps(values: Sequence[int]) -> Sequence[int]:
        return values[:2] if quick else values

    width, depth, undetermined, inputs, rows, regions = (
        Curve(name) for name in ("width", "depth", "undetermined neurons", "inputs", "rows", "regions")
    )
    size = Curve("tanh CNN: side of the image", methods=SMOOTH, dimensions=2)
    channels = Curve("tanh CNN: channels", methods=SMOOTH)
    Curve("first call", methods=SMOOTH).add(cnn(1, 4), (1, 3, 4, 4), 0.01, 8)  # what is done once is not counted
    for n in steps((256, 512, 1024, 2048, 4096)):
        width.add(mlp(64, n, 3), (1, 64), 0.04, n)
    for n in steps((2, 4, 8, 16, 32)):
        depth.add(mlp(64, 256, n), (1, 64), 0.02, n)
    for step in steps((1, 2, 4, 8, 16, 32, 64)):
        undetermined.add(mlp(64, 2048, 3), (1, 64), 0.001 * step)
    for n in steps((256, 1024, 4096, 16384, 65536)):
        inputs.add(mlp(n, 256, 3), (1, n), 8 / n, n)
    for n in steps((1, 8, 64, 512, 4096)):
        rows.add(mlp(64, 256, 3, n), (1, 64), 0.02, n)
    for n in steps((1, 8, 64, 512, 4096)):
        regions.add(mlp(8, 32, 3), (n, 8), 0.02, n)
    for n in steps((4, 8, 12, 16, 24)):
        size.add(cnn(4, n), (1, 3, n, n), 0.01, n)
    for n in steps((1, 2, 4, 8, 16)):
        channels.add(cnn(n, 12), (1, 3, 12, 12), 0.01, n)
    return [width, depth, undetermined, inputs, rows, regions, size, channels]


def tell(curve: Curve) -> None:
    """Print the exponents, and where the first part stops."""
    for unit, (_, budget) in STOPS.items():
        powers = ", ".join(f"{part} {curve.power(part, unit):.2f}" for part in curve.costs)
        part, value = curve.first(unit)
        print(f"{curve.name}: powers of {unit}: {powers}; {part} would take {budget} at {value:.2g}")


def draw(found: list[Curve], path: Path) -> None:
    """Seconds above, megabytes below, both axes logarithmic; dotted is what was not run."""
    drawn, axes = panels(2, len(found), 3.0 * len(found), 6.4)
    for column, curve in enumerate(found):
        for line, unit in zip(axes, STOPS):
            for part, of in curve.costs.items():
                line[column].loglog(curve.values, [getattr(cost, unit) for cost in of], **LOOKS[part])
            _continued(line[column], curve, unit)
        axes[1][column].set_xlabel(curve.name)
    axes[0][0].set_ylabel("CPU seconds")
    axes[1][0].set_ylabel("peak memory, MB")
    save(drawn, path)


def _continued(panel: Axes, curve: Curve, unit: str) -> None:
    """The line at the budget, and the part that meets it first, continued."""
    budget, name = STOPS[unit]
    part, value = curve.first(unit)
    panel.axhline(budget, color="0.5", linewidth=1)
    panel.text(curve.values[0], budget, name, color="0.4", fontsize=8, va="bottom")
    if value < math.inf:
        ends = [curve.values[-1], value], [getattr(curve.costs[part][-1], unit), budget]
        panel.plot(*ends, ":", color=LOOKS[part]["color"])
        panel.annotate(f"{value:.1g}", (value, budget), ha="right", va="bottom", fontsize=8)
    panel.minorticks_off()  # the labels of minor ticks run into each other
    panel.grid(alpha=0.3)


def main() -> None:
    """Measure, check, draw."""
    parser = argparse.ArgumentParser(description="Time and memory of local Lipschitz constants.")
    parser.add_argument("--plot", type=Path, help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--quick", action="store_true", help="two points per curve")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = curves(options.quick)
    for curve in found:
        tell(curve)
    again, _ = costs(BoundedModule(mlp(64, 256, 3), torch.zeros(1, 64)), box(torch.full((1, 64), 0.5), 0.03))
    same, _ = costs(BoundedModule(mlp(64, 256, 3), torch.zeros(1, 64)), box(torch.full((1, 64), 0.5), 0.03))
    assert all(again[part].megabytes == same[part].megabytes for part in again), "memory is the same on every run"
    if not options.quick:
        for curve in found:  # an image has as many pixels as the square of its side
            assert all(curve.power(part, "seconds") < 3.5 * curve.dimensions for part in curve.costs), (
                "products of matrices"
            )
            assert all(curve.power(part, "megabytes") < 2.7 * curve.dimensions for part in curve.costs), (
                "pairs of neurons"
            )
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"torch\.onnx")
    main()
