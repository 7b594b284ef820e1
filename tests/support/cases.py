"""One list of networks, each exercising an operator, an activation or a shape of graph, for all parametrised tests."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from oracle import Ball
from torch import Tensor, nn
from torch.nn import functional

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule

# The host has no exception of its own for what it cannot build.
HOST_FAILURES = (AssertionError, AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError)


def on_host(net: nn.Module, x: Tensor, training: bool = False) -> BoundedModule:
    """A network as the host's `BoundedModule`, in evaluation mode.

    The host makes its tables in torch's default type, and its optimised bounds want everything made in one type.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(x.dtype)
    try:
        with warnings.catch_warnings():
            # What torch's exporter says while the host traces a network concerns ONNX files, which are not written.
            warnings.filterwarnings("ignore", module=r"torch\.onnx")
            model = BoundedModule(net.train(training), torch.zeros_like(x), device=x.device)
    finally:
        torch.set_default_dtype(default)
    net.eval()
    model.eval()
    return model


@dataclass(frozen=True)
class Case:
    """A network with random weights in float64.

    Attributes:
        name: identifies the case.
        build: makes the network; called under a fixed seed.
        shape: input shape per sample.
        not_03, not_07: why the host of that version cannot build or bound it; its tests are then skipped.
        prefix_03, prefix_07: pre-activation bounds to use where the host's CROWN cannot run, or is wrong.
        slack: rounding of the network itself, relative to the largest entry of the Jacobian.
        training: whether the host must be given the network in training mode (it is bounded in evaluation mode).
        taught: whether the host learns one of the network's operators from `register`.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    not_03: str | None = None
    not_07: str | None = None
    prefix_03: str = ""
    prefix_07: str = ""
    slack: float = 1e-9
    training: bool = False
    taught: bool = False

    @property
    def reason(self) -> str | None:
        return self.not_03 if IS_03 else self.not_07

    def method(self, rule: str) -> str:
        return (self.prefix_03 if IS_03 else self.prefix_07) + rule

    def network(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        torch.manual_seed(sum(map(ord, self.name)))
        net = self.build().eval()
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                for value in (module.running_mean, module.weight, module.bias):
                    if value is not None:
                        nn.init.normal_(value.data if isinstance(value, nn.Parameter) else value)
                nn.init.uniform_(module.running_var, 0.5, 2)
        return net.to(dtype)

    def center(self, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
            dtype
        )

    def model(self, net: nn.Module, x: Tensor) -> BoundedModule:
        """The network on the host, which must be able to build it."""
        if self.taught:
            rj.register()
        try:
            model = on_host(net, x, self.training)
            if self.reason is not None:
                model.compute_bounds(x=(Ball(x, 0.1).perturbed(),), method="IBP")
                model.requires_grad_()  # as it was built: bounding it has taken that away
        except HOST_FAILURES:
            # What the host can build also depends on the release of torch, which writes the graph it reads.
            if self.reason is None:
                raise
            pytest.skip(self.reason)
        finally:
            if self.taught:
                rj.unregister()
        return model


class Net(nn.Module):
    """Modules by name, and a function of them and the input."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Constants(Net):
    """As `Net`, with buffers of random numbers: name -> shape."""

    def __init__(self, forward: Callable[..., Tensor], shapes: dict[str, tuple[int, ...]], **modules: nn.Module):
        super().__init__(forward, **modules)
        for name, shape in shapes.items():
            self.register_buffer(name, torch.rand(shape) + 0.5)


class Indices(Net):
    """As `Net`, with a buffer `index` of whole numbers."""

    def __init__(self, forward: Callable[..., Tensor], index: tuple[int, ...], **modules: nn.Module):
        super().__init__(forward, **modules)
        self.register_buffer("index", torch.tensor(index))


def head(inputs: int, outputs: int = 3) -> nn.Module:
    """A nonlinear end, so that the operator before it meets uncertain gradients."""
    return nn.Sequential(nn.Linear(inputs, 7), nn.ReLU(), nn.Linear(7, outputs))


def mlp(activation: Callable[[], nn.Module], sizes: tuple[int, ...] = (5, 9, 8, 3)) -> nn.Module:
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(inputs, outputs)] + [activation()] * (i < len(sizes) - 2)
    return nn.Sequential(*layers)


def between(module: nn.Module, before: int, after: int, shape: tuple[int, ...]) -> nn.Module:
    """Linear, tanh, `module` on the given shape, flatten, ReLU, linear."""
    return nn.Sequential(nn.Linear(5, before), nn.Tanh(), nn.Unflatten(1, shape), module, nn.Flatten(), head(after))


def convolution(n: int, **options: object) -> nn.Module:
    """Convolution in n dimensions over 2 channels of side 5."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    net = kind(2, 4, 3, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        size = net(torch.zeros(1, 2, *(5,) * n)).numel()
    return nn.Sequential(net, nn.ReLU(), nn.Flatten(), nn.Linear(size, 3))


def transposed(n: int, **options: object) -> nn.Module:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[n - 1]
    net = kind(2, 4, 3, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        size = net(torch.zeros(1, 2, *(4,) * n)).numel()
    return nn.Sequential(
        nn.Conv1d(2, 2, 1) if n == 1 else nn.Conv2d(2, 2, 1),
        nn.ReLU(),
        net,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(size, 3),
    )


def residual(self: Net, x: Tensor) -> Tensor:
    x = self.a(x).relu()
    return self.c((x + self.b(x)).relu())


def hard_sigmoid(self: Net, x: Tensor) -> Tensor:
    """Torch's own for the host; for the truth a formula, because torch's has no second derivative."""
    return functional.hardsigmoid(x) if torch.jit.is_tracing() else (x / 6 + 0.5).clamp(0, 1)


# What the hosts cannot build, each with the reason. The operators are still tested below the host (test_operators).
ONE_D_03 = "0.3 has no one-dimensional convolution"
UNSQUEEZE = "the host unsqueezes one axis at a time, the exporter two for the slope of a PReLU over images"
THREE_D = "the host has no three-dimensional convolution"
TRANSPOSED = "the host's transposed convolution is two-dimensional, without stride or groups"
CASTS = "0.3 evaluates a cast in another type than the network's"
DROPOUT = "the host cannot build a network with dropout from what this torch writes"
UNFLATTEN = "the host has no rule for what this torch writes for Unflatten"
NEGATIVE = "0.3 takes no index from the end in what this torch writes"
WHOLE_POWERS = "0.3 bounds powers with whole exponents only"
RECIPROCALS = "0.3 computes interval bounds of reciprocals in float32, next to float64"
EXPANDS = "0.3 cannot bound the shape arithmetic before Expand"

ACTIVATION_CASES = [
    Case("relu", lambda: mlp(nn.ReLU), (5,)),
    Case("leaky_relu", lambda: mlp(lambda: nn.LeakyReLU(0.3)), (5,)),
    Case("leaky_relu_steep", lambda: mlp(lambda: nn.LeakyReLU(1.5)), (5,), prefix_03="IBP+", prefix_07="IBP+"),
    Case("prelu", lambda: mlp(lambda: nn.PReLU(init=0.4)), (5,), taught=True),
    Case(
        "prelu_channels",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.PReLU(8, 0.2), nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 2)),
        (5,),
        taught=True,
    ),
    Case(
        "prelu_images",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(init=-0.3), nn.Flatten(), nn.Linear(27, 2)),
        (2, 5, 5),
        not_03=UNSQUEEZE,
        not_07=UNSQUEEZE,
        taught=True,
    ),
    Case("tanh", lambda: mlp(nn.Tanh), (5,)),
    Case("sigmoid", lambda: mlp(nn.Sigmoid), (5,)),
    Case(
        "atan",
        lambda: Net(
            lambda s, x: s.c(torch.arctan(s.b(torch.arctan(s.a(x))))),
            a=nn.Linear(5, 9),
            b=nn.Linear(9, 8),
            c=nn.Linear(8, 3),
        ),
        (5,),
    ),
    Case(
        "mixed",
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3)
        ),
        (5,),
    ),
    Case("elu", lambda: mlp(lambda: nn.ELU(0.7)), (5,), taught=True),
    Case("celu", lambda: mlp(lambda: nn.CELU(0.7)), (5,), taught=True, slack=1e-6, not_03=CASTS),
    Case("selu", lambda: mlp(nn.SELU), (5,), taught=True),
    Case("softplus", lambda: mlp(nn.Softplus), (5,), taught=True),
    Case("softplus_untaught", lambda: mlp(nn.Softplus), (5,), prefix_03="IBP+", prefix_07="IBP+"),
    Case("softplus_beta", lambda: mlp(lambda: nn.Softplus(2.0)), (5,), taught=True),
    Case("gelu", lambda: mlp(nn.GELU), (5,), taught=True, prefix_03="IBP+", slack=1e-6),
    Case("gelu_tanh", lambda: mlp(lambda: nn.GELU("tanh")), (5,), prefix_03="IBP+", slack=1e-6),
    Case("silu", lambda: mlp(nn.SiLU), (5,)),
    Case("mish", lambda: mlp(nn.Mish), (5,), taught=True),
    Case("hardtanh", lambda: mlp(lambda: nn.Hardtanh(-0.5, 0.7)), (5,), taught=True, slack=1e-6),
    Case("relu6", lambda: mlp(nn.ReLU6), (5,), taught=True),
    Case("clamp", lambda: mlp(lambda: Net(lambda s, x: x.clamp(-0.5, 0.7))), (5,), taught=True, slack=1e-6),
    Case("hardsigmoid", lambda: mlp(lambda: Net(hard_sigmoid)), (5,), taught=True, slack=1e-6),
    Case("hardswish", lambda: mlp(nn.Hardswish), (5,), taught=True, slack=1e-6),
    Case("softsign", lambda: mlp(nn.Softsign), (5,), prefix_03="IBP+"),
    Case(
        "logistic",
        lambda: mlp(lambda: Net(lambda s, x: 1 / (1 + torch.exp(-x)))),
        (5,),
        not_03=RECIPROCALS,
        prefix_03="IBP+",
    ),
    Case("logsigmoid", lambda: mlp(nn.LogSigmoid), (5,)),
    Case("erf", lambda: mlp(lambda: Net(lambda s, x: torch.erf(x))), (5,), taught=True),
    Case("abs", lambda: mlp(lambda: Net(lambda s, x: x.abs())), (5,)),
    Case("sin", lambda: mlp(lambda: Net(lambda s, x: torch.sin(3 * x))), (5,), taught=True),
    Case("cos", lambda: mlp(lambda: Net(lambda s, x: torch.cos(3 * x))), (5,), taught=True),
    Case("sin_untaught", lambda: mlp(lambda: Net(lambda s, x: torch.sin(x))), (5,), prefix_03="IBP+", prefix_07="IBP+"),
    Case("tan", lambda: mlp(lambda: Net(lambda s, x: torch.tan(0.7 * x.tanh()))), (5,), prefix_07="IBP+"),
    Case("exp", lambda: mlp(lambda: Net(lambda s, x: torch.exp(x))), (5,)),
    Case("log", lambda: mlp(lambda: Net(lambda s, x: torch.log(x.relu() + 0.5))), (5,), prefix_03="IBP+"),
    Case("sqrt", lambda: mlp(lambda: Net(lambda s, x: torch.sqrt(x.relu() + 0.5))), (5,), prefix_03="IBP+"),
    Case("square", lambda: mlp(lambda: Net(lambda s, x: x * x)), (5,)),
    Case("cube", lambda: mlp(lambda: Net(lambda s, x: x**3)), (5,), prefix_03="IBP+"),
    Case("fourth_power", lambda: mlp(lambda: Net(lambda s, x: x**4)), (5,), prefix_03="IBP+", prefix_07="IBP+"),
    Case("root_power", lambda: mlp(lambda: Net(lambda s, x: x.relu() ** 1.5)), (5,), not_03=WHOLE_POWERS),
    Case(
        "reciprocal",
        lambda: mlp(lambda: Net(lambda s, x: 1 / (x.tanh() + 2))),
        (5,),
        not_03=RECIPROCALS,
        prefix_03="IBP+",
    ),
]

OPERATOR_CASES = [
    Case("conv1d", lambda: convolution(1, padding=1), (2, 5), not_03=ONE_D_03),
    Case("conv1d_stride", lambda: convolution(1, stride=2, padding=1, dilation=2), (2, 5), not_03=ONE_D_03),
    Case("conv2d", lambda: convolution(2), (2, 5, 5)),
    Case("conv2d_stride", lambda: convolution(2, stride=(2, 1), padding=(0, 1)), (2, 5, 5)),
    Case(
        "conv2d_unseen_border",
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)),
        (1, 5, 5),
    ),
    Case("conv2d_groups", lambda: convolution(2, groups=2, padding=1), (2, 5, 5)),
    Case("conv2d_dilation", lambda: convolution(2, dilation=2, padding=2, bias=False), (2, 5, 5)),
    Case("conv3d", lambda: convolution(3), (2, 5, 5, 5), not_03=THREE_D, not_07=THREE_D),
    Case("conv_transpose1d", lambda: transposed(1, stride=2), (2, 4), not_03=TRANSPOSED, not_07=TRANSPOSED),
    Case("conv_transpose2d", lambda: transposed(2), (2, 4, 4)),
    Case(
        "conv_transpose2d_stride",
        lambda: transposed(2, stride=2, padding=1, output_padding=1),
        (2, 4, 4),
        not_03=TRANSPOSED,
        not_07=TRANSPOSED,
    ),
    Case(
        "conv_transpose2d_groups",
        lambda: transposed(2, stride=2, groups=2),
        (2, 4, 4),
        not_03=TRANSPOSED,
        not_07=TRANSPOSED,
    ),
    Case(
        "batch_norm1d",
        lambda: nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3), nn.BatchNorm1d(3)),
        (5,),
    ),
    Case("batch_norm1d_first", lambda: nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), (5,)),
    Case(
        "batch_norm2d",
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 2, 2),
            nn.BatchNorm2d(2, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, 2),
        ),
        (2, 5, 5),
        prefix_03="IBP+",
    ),
    Case(
        "matmul_right",
        lambda: Constants(
            lambda s, x: s.c(torch.matmul(torch.relu(s.a(x)), s.w)), {"w": (6, 4)}, a=nn.Linear(5, 6), c=head(4)
        ),
        (5,),
    ),
    Case(
        "matmul_right_3d",
        lambda: Constants(
            lambda s, x: s.c(torch.matmul(torch.relu(x), s.w).relu().flatten(1)), {"w": (4, 2)}, c=nn.Linear(6, 3)
        ),
        (3, 4),
        prefix_03="IBP+",
    ),
    Case(
        "matmul_left",
        lambda: Constants(lambda s, x: s.c(torch.matmul(s.w, torch.relu(x)).flatten(1)), {"w": (2, 3)}, c=head(8)),
        (3, 4),
        prefix_03="IBP+",
    ),
    Case(
        "matmul_left_batch_of_one",
        lambda: Constants(lambda s, x: s.c(torch.matmul(s.w, torch.relu(x)).flatten(1)), {"w": (1, 2, 3)}, c=head(8)),
        (3, 4),
        prefix_03="IBP+",
    ),
    Case(
        "linear_3d",
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.Flatten(), nn.Linear(6, 2)),
        (3, 4),
        prefix_03="IBP+",
    ),
    Case(
        "gemm_scaled",
        lambda: Constants(
            lambda s, x: s.c(torch.addmm(s.b, s.a(x).relu(), s.w, beta=0.5, alpha=2.0)),
            {"w": (6, 4), "b": (4,)},
            a=nn.Linear(5, 6),
            c=head(4),
        ),
        (5,),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
    Case(
        "add_constant",
        lambda: Constants(lambda s, x: s.c(s.a(x) + s.b), {"b": (6,)}, a=nn.Linear(5, 6), c=head(6)),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "add_broadcast_up",
        lambda: Constants(
            lambda s, x: s.c((s.a(x).unsqueeze(1) + s.b).relu().flatten(1)),
            {"b": (3, 4)},
            a=nn.Linear(5, 4),
            c=head(12),
        ),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "sub_constant",
        lambda: Constants(
            lambda s, x: s.c(s.b - s.a(x - s.b2)), {"b": (6,), "b2": (1, 5)}, a=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "affine_prefix",
        lambda: Constants(lambda s, x: s.c((x - s.m) / s.d), {"m": (5,), "d": (5,)}, c=mlp(nn.ReLU)),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "mul_constant",
        lambda: Constants(lambda s, x: s.c(s.w * s.a(x).relu() * 2.5), {"w": (6,)}, a=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "mul_broadcast_up",
        lambda: Constants(
            lambda s, x: s.c((s.a(x).relu().unsqueeze(1) * s.w).flatten(1)),
            {"w": (1, 3, 4)},
            a=nn.Linear(5, 4),
            c=head(12),
        ),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "mul_channels",
        lambda: Constants(
            lambda s, x: s.c((s.w * s.a(x).relu()).flatten(1)), {"w": (3, 1, 1)}, a=nn.Conv2d(2, 3, 3), c=head(27)
        ),
        (2, 5, 5),
    ),
    Case(
        "div_constant",
        lambda: Constants(lambda s, x: s.c(s.a(x).relu() / s.w / 0.5), {"w": (6,)}, a=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case("neg", lambda: Net(lambda s, x: -s.c(-s.a(x).relu()), a=nn.Linear(5, 6), c=head(6)), (5,)),
    Case(
        "concat",
        lambda: Net(
            lambda s, x: s.c(torch.cat([s.a(x).relu(), s.b(x).relu()], 1)),
            a=nn.Linear(5, 4),
            b=nn.Linear(5, 3),
            c=head(7),
        ),
        (5,),
    ),
    Case(
        "concat_input",
        lambda: Net(lambda s, x: s.c(torch.cat([x, s.a(x).relu(), x], 1)), a=nn.Linear(5, 4), c=head(14)),
        (5,),
    ),
    Case(
        "concat_constant",
        lambda: Net(
            lambda s, x: s.c(torch.cat([torch.zeros_like(x) + 1, s.a(x).relu()], 1)), a=nn.Linear(5, 4), c=head(9)
        ),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "concat_channels",
        lambda: Net(
            lambda s, x: s.c(torch.cat([s.a(x).relu(), x[:, :, 1:-1, 1:-1]], 1).flatten(1)),
            a=nn.Conv2d(2, 3, 3),
            c=head(45),
        ),
        (2, 5, 5),
    ),
    Case(
        "concat_last_axis", lambda: Net(lambda s, x: s.c(torch.cat([x.relu(), x], -1).flatten(1)), c=head(24)), (3, 4)
    ),
    Case("slice", lambda: Net(lambda s, x: s.c(s.a(x).relu()[:, 1:-1]), a=nn.Linear(5, 8), c=head(6)), (5,)),
    Case(
        "slice_2d",
        lambda: Net(
            lambda s, x: s.c(s.a(x).relu()[:, 1:, :2, -1]), a=nn.Conv2d(2, 3, 3), c=nn.Sequential(nn.Flatten(), head(4))
        ),
        (2, 5, 5),
        not_03=NEGATIVE,
    ),
    Case(
        "split",
        lambda: Net(
            lambda s, x: (lambda p: s.c(p[0].relu() + p[1].relu()) - s.d(p[1]))(torch.split(s.a(x), 4, dim=1)),
            a=nn.Linear(5, 8),
            c=head(4),
            d=nn.Linear(4, 3),
        ),
        (5,),
    ),
    Case(
        "chunk_unequal",
        lambda: Net(
            lambda s, x: (lambda p: torch.cat([s.c(p[0].relu()), p[1]], 1))(torch.split(s.a(x), [5, 3], dim=1)),
            a=nn.Linear(5, 8),
            c=head(5),
        ),
        (5,),
    ),
    Case(
        "gather",
        lambda: Indices(lambda s, x: s.c(s.a(x).relu()[:, s.index]), (3, 0, 5), a=nn.Linear(5, 6), c=head(3)),
        (5,),
    ),
    Case(
        "gather_repeated",
        lambda: Indices(lambda s, x: s.c(s.a(x).relu()[:, s.index]), (3, 0, 0, 5), a=nn.Linear(5, 6), c=head(4)),
        (5,),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
    Case("gather_scalar", lambda: Net(lambda s, x: s.c(s.a(x.relu())[:, 1]), a=nn.Linear(4, 6), c=head(6)), (3, 4)),
    Case(
        "pad",
        lambda: Net(
            lambda s, x: s.c(s.a(functional.pad(x.relu(), (1, 2, 0, 1), value=0.5)).flatten(1)),
            a=nn.Conv2d(2, 2, 3),
            c=head(48),
        ),
        (2, 5, 5),
        prefix_03="IBP+",
        prefix_07="IBP+",
        not_03=NEGATIVE,
    ),
    Case(
        "pad_with_zeros",
        lambda: Net(
            lambda s, x: s.c(s.a(functional.pad(x.relu(), (1, 2, 0, 1), value=0.0)).flatten(1)),
            a=nn.Conv2d(2, 2, 3),
            c=head(48),
        ),
        (2, 5, 5),
        not_03=NEGATIVE,
    ),
    Case(
        "average_pool",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), head(12)),
        (2, 5, 5),
        prefix_03="IBP+",
    ),
    Case(
        "average_pool_padded",
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(3, stride=2, padding=1), nn.Flatten(), head(12)
        ),
        (2, 5, 5),
        prefix_03="IBP+",
    ),
    Case(
        "global_average_pool",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(3)),
        (2, 5, 5),
    ),
    Case(
        "reduce_sum",
        lambda: Net(lambda s, x: s.c(s.a(x).relu().sum(1)), a=nn.Linear(4, 6), c=head(6)),
        (3, 4),
        prefix_03="IBP+",
    ),
    Case(
        "reduce_sum_keep",
        lambda: Net(
            lambda s, x: s.c((s.a(x).relu().sum(2, keepdim=True) * 0.1).flatten(1)), a=nn.Linear(4, 6), c=head(3)
        ),
        (3, 4),
        prefix_03="IBP+",
    ),
    Case(
        "reduce_mean",
        lambda: Net(lambda s, x: s.c(s.a(x).relu().mean((2, 3))), a=nn.Conv2d(2, 3, 3), c=head(3)),
        (2, 5, 5),
    ),
    Case(
        "reduce_mean_keep",
        lambda: Net(
            lambda s, x: s.c(s.a(x).relu() - s.a(x).relu().mean(1, keepdim=True)), a=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
    ),
    Case(
        "reshape",
        lambda: Net(
            lambda s, x: s.c(s.a(x).relu().reshape(-1, 2, 3).transpose(1, 2).reshape(-1, 6)),
            a=nn.Linear(5, 6),
            c=head(6),
        ),
        (5,),
    ),
    Case(
        "transpose",
        lambda: Net(
            lambda s, x: s.c(s.a(x.permute(0, 2, 1)).relu().permute(0, 2, 1).flatten(1)), a=nn.Linear(3, 2), c=head(8)
        ),
        (3, 4),
        prefix_03="IBP+",
    ),
    Case(
        "squeeze",
        lambda: Net(
            lambda s, x: s.c(s.a(x.unsqueeze(1)).relu().squeeze(1).flatten(1)), a=nn.Conv2d(1, 1, 2), c=head(6)
        ),
        (3, 4),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
    Case(
        "expand",
        lambda: Constants(
            lambda s, x: s.c((s.a(x).relu().unsqueeze(1).expand(-1, 3, -1) * s.w).flatten(1)),
            {"w": (3, 1)},
            a=nn.Linear(5, 4),
            c=head(12),
        ),
        (5,),
        not_03=EXPANDS,
    ),
    Case("unflatten", lambda: between(nn.Conv2d(2, 2, 2), 18, 8, (2, 3, 3)), (5,), not_03=UNFLATTEN, not_07=UNFLATTEN),
    Case(
        "dropout",
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3)),
        (5,),
        not_07=DROPOUT,
        training=True,
        not_03=DROPOUT,
    ),
    Case(
        "identity",
        lambda: nn.Sequential(nn.Identity(), nn.Linear(5, 7), nn.Identity(), nn.ReLU(), nn.Linear(7, 3), nn.Identity()),
        (5,),
    ),
    Case(
        "cast",
        lambda: Net(lambda s, x: s.c(s.a(x).relu().float().double()), a=nn.Linear(5, 4), c=head(4)),
        (5,),
        slack=1e-6,
        not_03=CASTS,
    ),
]

GRAPH_CASES = [
    Case(
        "residual",
        lambda: Net(residual, a=nn.Linear(5, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3)),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "residual_convolutions",
        lambda: Net(
            lambda s, x: s.d((s.c(s.b(s.a(x).relu()).relu()) + s.a(x)).relu().flatten(1)),
            a=nn.Conv2d(2, 3, 3),
            b=nn.Conv2d(3, 3, 3, padding=1),
            c=nn.Conv2d(3, 3, 3, padding=1),
            d=nn.Linear(27, 3),
        ),
        (2, 5, 5),
    ),
    Case("skip_from_input", lambda: Net(lambda s, x: x + 0.1 * s.f(x), f=mlp(nn.ReLU, (4, 6, 4))), (4,)),
    Case("skip_minus_input", lambda: Net(lambda s, x: s.a(x).relu() - x, a=nn.Linear(4, 4)), (4,)),
    Case(
        "twice_the_same",
        lambda: Net(lambda s, x: s.c((lambda h: h + h)(s.a(x).tanh())) + (x + x)[:, :3], a=nn.Linear(5, 4), c=head(4)),
        (5,),
    ),
    Case("activation_on_input", lambda: Net(lambda s, x: s.c(x.tanh()), c=head(5)), (5,)),
    Case("relu_on_input", lambda: Net(lambda s, x: s.c(x.relu()), c=nn.Linear(5, 3)), (5,)),
    Case("no_activation", lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), (5,)),
    Case("activation_last", lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Sigmoid()), (5,)),
    Case("one_output", lambda: mlp(nn.Tanh, (5, 6, 6, 1)), (5,)),
    Case(
        "two_activations_of_one_node",
        lambda: Net(
            lambda s, x: (lambda h: s.b(h.relu()) + s.c(h.tanh()))(s.a(x)),
            a=nn.Linear(5, 6),
            b=head(6),
            c=nn.Linear(6, 3),
        ),
        (5,),
    ),
    Case(
        "branches",
        lambda: Net(
            lambda s, x: s.d((s.b(s.a(x).relu()).tanh() + s.c(s.a(x).relu()).relu()).tanh()),
            a=nn.Linear(5, 6),
            b=nn.Linear(6, 6),
            c=nn.Linear(6, 6),
            d=nn.Linear(6, 3),
        ),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "dead_layer",
        lambda: Net(
            lambda s, x: s.c((s.a(x) - 100).relu()) + s.b(x), a=nn.Linear(5, 4), b=mlp(nn.Tanh), c=nn.Linear(4, 3)
        ),
        (5,),
    ),
    Case(
        "constant_shape",
        lambda: Net(
            lambda s, x: s.c((s.a(x) + torch.zeros_like(x[:, :4])).relu().view(x.shape[0], 2, 2).flatten(1)),
            a=nn.Linear(5, 4),
            c=nn.Linear(4, 3),
        ),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "constant_network",
        lambda: Constants(
            lambda s, x: s.c(s.a(x).relu() * s.b(s.k).tanh()),
            {"k": (1, 2)},
            a=nn.Linear(5, 4),
            b=nn.Linear(2, 4),
            c=head(4),
        ),
        (5,),
    ),
    Case(
        "matrix_output",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.Unflatten(1, (2, 3))),
        (5,),
        not_03=UNFLATTEN,
        not_07=UNFLATTEN,
    ),
]

NO_MINMAX = "0.3 has no maximum or minimum of two tensors"
REDUCED = "the host bounds reductions to an extreme by intervals only"
OVERLAPPING = "the host's CROWN wants windows that do not overlap"
INDEX_03 = "CROWN of 0.3 cannot bound sums with a number"

MULTIVARIATE_CASES = [
    Case(
        "product",
        lambda: Net(lambda s, x: s.c(s.a(x).tanh() * s.b(x)), a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "product_broadcast",
        lambda: Net(lambda s, x: s.c(s.a(x).relu() * s.b(x)), a=nn.Linear(5, 6), b=nn.Linear(5, 1), c=head(6)),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "product_with_the_input",
        lambda: Net(lambda s, x: s.c(s.a(x).sigmoid() * x), a=nn.Linear(5, 5), c=head(5)),
        (5,),
    ),
    Case(
        "product_of_itself",
        lambda: Net(lambda s, x: (lambda z: s.c(z * z))(s.a(x).tanh()), a=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "product_as_output",
        lambda: Net(lambda s, x: s.a(x).tanh() * s.b(x), a=nn.Linear(5, 4), b=nn.Linear(5, 4)),
        (5,),
    ),
    Case(
        "quotient",
        lambda: Net(lambda s, x: s.c(s.a(x) / (s.b(x).tanh() + 2.5)), a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=head(6)),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "quotient_of_a_constant",
        lambda: Constants(lambda s, x: s.c(s.k / (s.b(x).sigmoid() + 0.5)), {"k": (6,)}, b=nn.Linear(5, 6), c=head(6)),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "matrix_product",
        lambda: Net(
            lambda s, x: s.c(torch.matmul(s.a(x).tanh().reshape(-1, 2, 3), s.b(x).reshape(-1, 3, 4)).flatten(1)),
            a=nn.Linear(5, 6),
            b=nn.Linear(5, 12),
            c=head(8),
        ),
        (5,),
    ),
    Case(
        "maximum",
        lambda: Net(
            lambda s, x: s.c(torch.maximum(s.a(x).tanh(), s.b(x))), a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
        not_03=NO_MINMAX,
    ),
    Case(
        "minimum",
        lambda: Net(
            lambda s, x: s.c(torch.minimum(s.a(x).tanh(), s.b(x))), a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
        not_03=NO_MINMAX,
    ),
    Case(
        "maximum_with_a_constant",
        lambda: Constants(
            lambda s, x: s.c(torch.maximum(s.a(x), s.k - 0.7)), {"k": (6,)}, a=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
        not_03=NO_MINMAX,
    ),
    Case(
        "reduce_max",
        lambda: Net(lambda s, x: s.c(s.a(x).reshape(-1, 4, 3).amax(1)), a=nn.Linear(5, 12), c=head(3)),
        (5,),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
    Case(
        "reduce_max_all",
        lambda: Net(lambda s, x: s.c(s.a(x).amax(1, keepdim=True)), a=nn.Linear(5, 7), c=nn.Linear(1, 2)),
        (5,),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
    Case(
        "reduce_min",
        lambda: Net(lambda s, x: s.c(s.a(x).reshape(-1, 3, 5).amin(2)), a=nn.Linear(5, 15), c=head(3)),
        (5,),
        not_03="0.3 has no ReduceMin",
        prefix_07="IBP+",
    ),
    Case(
        "max_pool",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head(12)),
        (2, 5, 5),
    ),
    Case(
        "max_pool_of_three",
        lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Tanh(), nn.MaxPool2d(3), nn.Flatten(), head(8)),
        (1, 6, 6),
    ),
    Case(
        "max_pool_overlapping",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2, stride=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)),
        (2, 5, 5),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
    Case(
        "max_pool_padded",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
        (2, 5, 5),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
    Case("max_pool_of_the_input", lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), head(8)), (2, 4, 4)),
    Case(
        "softmax",
        lambda: nn.Sequential(mlp(nn.Tanh, (5, 8, 6)), nn.Softmax(1), nn.Linear(6, 3)),
        (5,),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
    Case(
        "softmax_rows",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (2, 3)), nn.Softmax(-1), nn.Flatten(), nn.Linear(6, 3)),
        (5,),
        not_03=UNFLATTEN,
        prefix_07="IBP+",
    ),
    Case(
        "layer_norm",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)),
        (5,),
        not_03="0.3 cannot evaluate the layer norm that this torch writes",
    ),
    Case(
        "attention",
        lambda: Net(
            lambda s, x: s.o(
                torch.matmul(torch.softmax(torch.matmul(s.q(x), s.k(x).transpose(1, 2)), -1), s.v(x)).flatten(1)
            ),
            q=nn.Linear(4, 3),
            k=nn.Linear(4, 3),
            v=nn.Linear(4, 3),
            o=nn.Linear(9, 2),
        ),
        (3, 4),
        prefix_03="IBP+",
        prefix_07="IBP+",
    ),
]

CASES = ACTIVATION_CASES + OPERATOR_CASES + GRAPH_CASES + MULTIVARIATE_CASES
BY_NAME = {case.name: case for case in CASES}


@functools.cache
def hosted(
    case: str | Case, batch: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Tensor, BoundedModule]:
    """Network, centre of a region, and the network on the host.

    Tests share them: making a model is slow on the host, and the package promises to leave models as they were.
    """
    case = case if isinstance(case, Case) else BY_NAME[case]
    net, center = case.network(dtype), case.center(batch, dtype)
    return net, center, case.model(net, center)


def parametrized(cases: list[Case] = CASES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
