"""A user's script with every public name: it type-checks strictly, and runs without a warning.

Arguments: an ONNX file, and a VNN-LIB file about it.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

NETWORK, PROPERTY = sys.argv[1:]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.first(a) + self.second(b)))
        return found


class Gradient(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return rj.JacobianOP.apply(self.net(x), x, "RecurJac-Linear")


torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
x0 = torch.rand(2, 3)
rj.register()
model = BoundedModule(net, x0)
x = BoundedTensor(x0, PerturbationLpNorm(norm=math.inf, eps=0.1))

# Jacobians
method: rj.MethodName = "IBP+RecurJac"
order: rj.Order = "both"
norm: rj.Norm = 2
outputs_by: rj.OutputMethodName = "RecurJac-Linear+CROWN"
product: rj.GlobalMethodName = "Operator-Norm"
bounds = rj.jacobian_bounds(model, x)
assert_type(bounds, rj.Bounds)
assert_type(rj.jacobian_bounds(model, (x,), order=order), rj.Bounds)
lower, upper = rj.jacobian_bounds(model, x, method=method)
assert_type(lower, Tensor)
assert_type(bounds[0], rj.Bounds)
assert_type(bounds.intersection(bounds[:]).within(bounds), bool)
assert_type(bounds.double().float().cpu().detach().to("cpu").midpoint, Tensor)
assert_type(len(bounds) + len(bounds.methods), int)
assert_type(bounds.to_latex(), str)
assert_type(rj.chosen_methods(model, x), tuple[str, ...])
assert_type(rj.METHODS, tuple[str, ...])
assert_type(rj.zonotope_bounds(model, x), dict[str, tuple[Tensor, Tensor]])
a, b = torch.rand(1, 3), torch.rand(1, 2)
two = BoundedModule(Two(), (a, b))
box = PerturbationLpNorm(norm=math.inf, eps=0.1)
both = rj.jacobian_bounds(two, (BoundedTensor(a, box), BoundedTensor(b, box)))
assert_type(both, tuple[rj.Bounds, ...])
for loop in ("backward", "forward"):  # a variable of type str
    rj.jacobian_bounds(model, x, order=loop)

# Lipschitz constants
assert_type(rj.local_lipschitz(model, x, norm=norm, output_norm=rj.WeightedNorm(torch.ones(2))), Tensor)
found = rj.tighten(model, x, gap=0.1)
assert_type(found, rj.Tightened)
assert_type(found.gap, Tensor)
assert_type(rj.global_lipschitz(model, norm=2, method=product), Tensor)
assert_type(rj.sampled_lipschitz(model, x, points=4, steps=2), Tensor)

# Radii and signs
rows = rj.margin_rows(net(x0).detach(), target="runner-up")
assert_type(rows, Tensor)
assert_type(rj.certified_radius(model, x0, norm=math.inf, C=rows, method=outputs_by), Tensor)
assert_type(rj.stationary_free_radius(model, x0, norm=1), Tensor)
scan = rj.landscape_scan(model, x0, norm=2, radius=0.1, points=3)
assert_type(scan, rj.Landscape)
assert_type(scan.constants, Tensor)
assert_type(rj.monotonicity(model, x), Tensor)
assert_type(rj.monotonicity(two, (BoundedTensor(a, box), BoundedTensor(b, box))), tuple[Tensor, ...])
report = rj.monotonicity_report(model, x)
assert_type(report, rj.Monotonicity)
assert_type(report.counts, dict[str, int])

# Outputs and verdicts
assert_type(rj.output_bounds(model, x, method="RecurJac+CROWN"), tuple[Tensor, Tensor])
spec = rj.load_vnnlib(PROPERTY)
assert_type(spec, rj.Spec)
result = rj.verify(rj.load_onnx(NETWORK), spec, timeout=60)
assert_type(result, rj.Result)
assert_type(result.verdict, rj.Verdict)
assert_type(rj.load_networks(spec, {"network": NETWORK})(torch.zeros(1, 64)), Any)
assert_type(rj.flat_inputs(Two(), [(3,), (2,)]), nn.Module)

# Regions of every kind, where neurons change sides
for p in (1, 2, math.inf):
    region = BoundedTensor(x0, PerturbationLpNorm(norm=p, eps=0.5))
    for name in ("RecurJac", "RecurJac-McCormick", "IBP+Fast-Lip", "alpha-CROWN+RecurJac-Linear"):
        rj.jacobian_bounds(model, region, method=name)
        rj.local_lipschitz(model, region, method=name, norm=2)
    rj.jacobian_bounds(model, region, rigorous=True)
    rj.certified_radius(model, x0, norm=p, C=rows, method="CROWN")
    rj.certified_radius(model, x0, norm=p, C=rows, budget=1)
    rj.stationary_free_radius(model, x0, norm=p, per_output=True, rigorous=True)
    rj.landscape_scan(model, x0, norm=p, radius=0.5, points=2)
    rj.monotonicity_report(model, region)
rj.monotonicity(model, BoundedTensor(x0, PerturbationLpNorm(norm=math.inf, eps=0.5)), max_boxes=8)
bounds.plot()
bounds.plot(0)

# Tables and pictures
table = rj.compare(model, x, methods=["RecurJac", "CROWN"], samples=4)
assert_type(table, rj.Table)
assert_type(rj.lipschitz_curve(model, x0, [0.1, 0.2], methods=["RecurJac"], samples=4, steps=2), rj.Table)
table.plot()
rj.plots.intervals(bounds.lower[0, 0], bounds.upper[0, 0])

# In auto_LiRPA
inner = BoundedModule(nn.Sequential(Gradient(net), rj.GradNorm()), x0)
assert_type(rj.host.VERSION, str)
assert_type(inner.compute_bounds(x=(x,), method="CROWN"), tuple[Tensor, Tensor])
rj.unregister()


# Extensions
def sinc(node: rj.Node, position: int) -> rj.LinearMap:
    if position > 0:
        raise rj.Refusal("no such operator")
    return rj.linear_map(lambda values: 2 * values, (3,), (3,))


rj.register_operator("BoundNone", sinc)
rj.unregister_operator("BoundNone")
rj.register_activation("BoundAsinh", lambda z: (1 + z.square()).rsqrt(), [(0.0, 1.0)], function=torch.asinh)
rj.unregister_activation("BoundAsinh")

# Errors and version
for kind in (
    rj.InputError, rj.MethodError, rj.UnsupportedError, rj.HostError, rj.ExtraError, rj.FileError, rj.CertificateError,
    rj.ContradictionError,
):  # fmt: skip
    assert issubclass(kind, rj.RecurJacError)
try:
    rj.jacobian_bounds(model, x, method="RecurJack")
except rj.MethodError as error:
    assert_type(str(error), str)
assert_type(rj.__version__, str)
for each in (bounds, found, scan, report, result, result.counterexample, spec):
    sys.stdout.write(f"{each!r}\n")
