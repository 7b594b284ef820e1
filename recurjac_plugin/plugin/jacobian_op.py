"""Jacobians inside a model: `JacobianOP`, an operator to be written in a network's ``forward``.

``J = JacobianOP.apply(y, x)`` is the Jacobian of y with respect to x, and any operators may follow. In torch it is
computed by autograd; a `BoundedModule` built after `register` has a node for it (`jacobian_node`), which bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError, MethodError
from recurjac_plugin.jacobian.methods import ON_GIVEN_BOUNDS, parse

OPERATOR = "recurjac::jacobian"
"""Name of the operator in the host's traced graph."""

DEFAULT_METHOD = "RecurJac-McCormick"

_building = 0


class JacobianOP(torch.autograd.Function):
    r"""The Jacobian of one tensor of a network with respect to another, as an operator of the network.

    In a module's ``forward``, ``J = JacobianOP.apply(y, x)`` has for every sample b

    .. math:: J_{bkr} = \frac{\partial y_{bk}}{\partial x_{br}},

    shape (b, k, \*x_shape), where k counts the flattened outputs. Samples must not influence each other. x may be the
    network's input or anything that y is computed from. In torch it is computed by autograd, differentiably, and x must
    require gradients; in a `BoundedModule` built after `register` it needs nothing, and has bounds.

    Source:
        The use is that of auto_LiRPA's own operator (Shi et al., NeurIPS 2022, arXiv:2210.07394).
    """

    @classmethod
    def apply(cls, output: Tensor, input: Tensor, method: str = DEFAULT_METHOD) -> Tensor:
        """The Jacobian of `output` with respect to `input`.

        Args:
            output: y, shape (b, *y_shape).
            input: x, shape (b, *x_shape).
            method: `RecurJac-McCormick`, `RecurJac-Linear`, `RecurJac` or `Fast-Lip`: how it is bounded. The bounds of
                pre-activations are those of the method that the host is called with.

        Returns:
            Shape (b, k, *x_shape).

        Raises:
            InputError: `output` does not depend on `input`, `input` does not require gradients, or they differ in type
                or device.
            MethodError: no method for Jacobians.
        """
        if parse(method).name not in ON_GIVEN_BOUNDS:
            raise MethodError(
                f"`JacobianOP` takes {', '.join(ON_GIVEN_BOUNDS)} as method, got {method!r}; the bounds of the "
                "pre-activations come from the method that `compute_bounds` is called with."
            )
        if torch.jit.is_tracing():
            return super().apply(output, input, method, input.dim())
        if _building:
            return output.new_zeros(output.shape[0], output.flatten(1).shape[1], *input.shape[1:])
        if not input.requires_grad:
            raise InputError(
                "`JacobianOP` got an input that does not require gradients: call `x.requires_grad_()` before the "
                "network, or `recurjac_plugin.register()` before building a `BoundedModule` of it."
            )
        if (input.dtype, input.device) != (output.dtype, output.device):
            raise InputError(
                f"`JacobianOP` got an output of {output.dtype} on {output.device} and an input of {input.dtype} on "
                f"{input.device}; use one type on one device."
            )
        with torch.enable_grad():
            if torch.autograd.grad(output.sum(), input, retain_graph=True, allow_unused=True)[0] is None:
                raise InputError(
                    f"`JacobianOP` got an output, of shape {tuple(output.shape)}, that does not depend on its input, "
                    f"of shape {tuple(input.shape)}; pass the tensor that the output is computed from."
                )
        return jacobian(output, input, torch.is_grad_enabled())

    @staticmethod
    def symbolic(g: Any, output: Any, input: Any, method: str, dimensions: int) -> Any:
        """The operator in the traced graph, of an open batch and otherwise of the shape that it has in the trace.

        Without these sizes the exporter writes a branch for what depends on them, as `J.squeeze(1)` does.
        """
        y, x = (value.type().varyingSizes() for value in (output, input))
        known = y is not None and x is not None and None not in y[1:] and None not in x[1:]
        sizes = [None, math.prod(y[1:]), *x[1:]] if known else [None] * (dimensions + 1)
        return g.op(OPERATOR, output, input, method_s=method).setType(torch._C.TensorType.get().with_sizes(sizes))

    @staticmethod
    def forward(ctx: Any, output: Tensor, input: Tensor, method: str, dimensions: int) -> Tensor:
        """A tensor of the Jacobian's shape, for the trace."""
        return output.new_zeros(output.shape[0], output.flatten(1).shape[1], *input.shape[1:])


class GradNorm(nn.Module):
    """The sum of the absolute entries of a Jacobian, shape (b, 1), or of their squares, shape (b,), as in auto_LiRPA.

    Args:
        norm: 1 or 2.
    """

    def __init__(self, norm: int = 1) -> None:
        super().__init__()
        if norm not in (1, 2):
            raise InputError(f"`norm` must be 1 or 2, got {norm!r}.")
        self.norm = norm

    def forward(self, grad: Tensor) -> Tensor:
        """``sum_kr |J_kr|`` or ``sum_kr J_kr^2`` of every sample's Jacobian, shape (b, k, *x_shape)."""
        grad = grad.flatten(1)
        return grad.abs().sum(dim=-1, keepdim=True) if self.norm == 1 else (grad * grad).sum(dim=-1)


def jacobian(y: Tensor, x: Tensor, differentiable: bool) -> Tensor:
    """Rows of derivatives, one for each output: (b, k, *x_shape)."""
    with torch.enable_grad():
        rows = [
            torch.autograd.grad(row.sum(), x, retain_graph=True, create_graph=differentiable, materialize_grads=True)[0]
            for row in y.flatten(1).unbind(1)
        ]
        return torch.stack(rows, 1)


@contextmanager
def building() -> Iterator[None]:
    """While a `BoundedModule` is built, networks are evaluated for their shapes alone, and x needs no gradients."""
    global _building
    _building += 1
    try:
        yield
    finally:
        _building -= 1
