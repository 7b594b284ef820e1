"""Jacobians inside a model, bounded together with what follows: `rj.JacobianOP`.

Four questions about small networks, each a model whose ``forward`` contains a Jacobian. The host's CROWN bounds what
comes out over a box of inputs, RecurJac what is inside. Every bound is compared with values sampled in the box.

Run `python examples/jacobian_in_model.py [--plot FILE]`; a few seconds.
"""

from __future__ import annotations

import warnings

import torch
from intervals import draw_intervals, picture_file, saved
from matplotlib.figure import Figure
from torch import Tensor, nn

import recurjac_plugin as rj  # on auto_LiRPA 0.3 it goes ahead of `import auto_LiRPA`, which it makes importable

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # isort: skip

# What torch's exporter says while the host traces a network concerns ONNX files, which are not written.
warnings.filterwarnings("ignore", module=r"torch\.onnx")


class Lipschitz(nn.Module):
    """Row sums of the absolute Jacobian: the l_inf Lipschitz constant of every output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(b, n) -> (b, k)."""
        return rj.JacobianOP.apply(self.net(x), x).abs().sum(2)


class DirectionalDerivative(nn.Module):
    """J(x) v, with a direction v that may be perturbed, too."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        """(b, n), (b, n) -> (b, k)."""
        return (rj.JacobianOP.apply(self.net(x), x) * v.unsqueeze(1)).sum(2)


class Contraction(nn.Module):
    """``J^T P + P J``: dx/dt = f(x) contracts in the metric P where it is negative definite."""

    metric: Tensor

    def __init__(self, dynamics: nn.Module, metric: Tensor) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.register_buffer("metric", metric)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n) -> (b, n^2)."""
        weighted = rj.JacobianOP.apply(self.dynamics(x), x).transpose(1, 2).matmul(self.metric)  # J^T P
        return (weighted + weighted.transpose(1, 2)).flatten(1)


class Lyapunov(nn.Module):
    """The derivative of V along dx/dt = f(x): ``grad V(x) . f(x)``."""

    def __init__(self, function: nn.Module, dynamics: nn.Module) -> None:
        super().__init__()
        self.function, self.dynamics = function, dynamics

    def forward(self, x: Tensor) -> Tensor:
        """(b, n) -> (b, 1)."""
        gradient = rj.JacobianOP.apply(self.function(x), x).flatten(1)
        return (gradient * self.dynamics(x)).sum(1, keepdim=True)


class Stable(nn.Module):
    """``f(x) = -x + small network``: a stable system."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, n, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(b, n) -> (b, n)."""
        return 0.3 * self.net(x) - x


class Energy(nn.Module):
    """``V(x) = |x|^2 + a small network``."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n, 8), nn.Softplus(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(b, n) -> (b, 1)."""
        return (x * x).sum(1, keepdim=True) + self.net(x)


Interval = tuple[Tensor, Tensor]


def bounded(module: nn.Module, eps: float, *centers: Tensor) -> tuple[Interval, Interval]:
    """CROWN bounds over boxes around all inputs, and the least and largest sampled values, which lie within."""
    # Without convolutions; 0.3 has to be told, or it fails where bounds of a sum are needed.
    model = BoundedModule(module, centers, bound_opts={"conv_mode": "matrix"})
    exact = module(*[x.clone().requires_grad_() for x in centers])  # in plain torch x must require gradients
    assert torch.allclose(model(*centers), exact, rtol=1e-4, atol=1e-5), "the model computes autograd's Jacobian"
    boxes = tuple(BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=eps)) for x in centers)
    lower, upper = (bound.detach() for bound in model.compute_bounds(x=boxes, method="CROWN"))
    low, high = exact.detach(), exact.detach()
    for _ in range(500):
        points = [(x + eps * (2 * torch.rand_like(x) - 1)).requires_grad_() for x in centers]
        value = module(*points).detach()
        assert bool(((lower - 1e-5 <= value) & (value <= upper + 1e-5)).all())
        low, high = torch.minimum(low, value), torch.maximum(high, value)
    return (lower, upper), (low, high)


def main() -> None:
    """Bound and print."""
    picture = picture_file(__file__, "Jacobians inside a model.")
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 2).flat

    def draw(title: str, names: list[str], found: tuple[Interval, Interval]) -> Interval:
        proved, sampled = ((low[0], high[0]) for low, high in found)
        axes = next(panels)
        draw_intervals(axes, names, {"RecurJac+CROWN": proved}, sampled)
        axes.set_title(title)
        return found[0]

    outputs = [f"output {i}" for i in range(3)]
    torch.manual_seed(0)
    rj.register()
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    x, v = torch.randn(1, 6), torch.randn(1, 6)

    upper = draw("Lipschitz constant of every output", outputs, bounded(Lipschitz(net), 0.05, x))[1]
    apart = rj.jacobian_bounds(
        BoundedModule(net, x), BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=0.05)),
        method="RecurJac-Linear",
    ).magnitude.sum(2).detach()  # fmt: skip
    assert bool((upper <= apart * (1 + 1e-5)).all())
    print("Lipschitz constants of the outputs", upper.tolist(), "by entries", apart.tolist())

    lower, upper = draw("Derivatives along a direction", outputs, bounded(DirectionalDerivative(net), 0.02, x, v))
    print("derivatives along any v in a box from", lower.tolist(), "to", upper.tolist())

    dynamics = Stable(3)
    metric = torch.tensor([[1.0, 0.2, 0.0], [0.2, 1.0, 0.1], [0.0, 0.1, 1.0]])
    found = bounded(Contraction(dynamics, metric), 0.5, torch.zeros(1, 3))
    entries = [f"{i}{j}" for i in range(3) for j in range(3)]
    lower, upper = (bound.reshape(3, 3) for bound in draw("Entries of $J^TP + PJ$", entries, found))
    aside = torch.maximum(lower.abs(), upper.abs()).fill_diagonal_(0).sum(1)
    largest = float((upper.diagonal() + aside).max())  # Gershgorin
    assert largest < 0
    print("the system contracts in the box |x| <= 0.5: eigenvalues of J^T P + P J are at most", largest)

    energy, center = Energy(3), torch.tensor([[1.5, -1.0, 0.8]])
    upper = draw("Change of the energy", ["along the flow"], bounded(Lyapunov(energy, dynamics), 0.1, center))[1]
    assert float(upper) < 0
    print("the energy decreases in a box around", center[0].tolist(), "at a rate of at least", -float(upper))
    rj.unregister()
    saved(figure, picture)


if __name__ == "__main__":
    main()
