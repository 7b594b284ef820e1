"""A network to test on, what has to be known of it, and how it comes to the host."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from oracle import Ball
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule

# The host has no exception of its own for what it cannot build.
HOST_FAILURES = (
    rj.UnsupportedError,
    AssertionError,
    AttributeError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    TypeError,
)


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
