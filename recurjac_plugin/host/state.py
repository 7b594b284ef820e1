"""The state of the host's model: evaluating it, and leaving it as it was.

The host writes bounds, intervals and marks to the nodes of a model whenever it evaluates or bounds it. The package lets
it do so within `preserved`, which puts back what was there: the owner of a model finds it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recurjac_plugin.numerics.rounding import half_of_the_digits

from .find import HOST_FAILURES


@contextmanager
def preserved(model: Any) -> Iterator[None]:
    """Put back what the host writes to the model and its nodes (bounds, intervals, perturbation marks, ...).

    Within, weights that are trainable stay so, see `keep_gradients`, and the host's division by ``1 - 1/p`` for p = 1,
    which means what it gives, gives no warning.
    """

    def copied(state: dict[str, Any]) -> dict[str, Any]:
        # One level deep: the host replaces values and adds to its lists and dictionaries, but does not edit tensors.
        return {key: value.copy() if isinstance(value, (list, dict, set)) else value for key, value in state.items()}

    modules = (model, *model._modules.values())
    states = [copied(vars(module)) for module in modules]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    keep_gradients(model, True)
    try:
        with np.errstate(divide="ignore"):
            yield
    finally:
        for parameter, requires_grad in trainable:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        for module, state in zip(modules, states, strict=True):
            vars(module).clear()
            vars(module).update(state)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """The host creates tables and optimisation variables in torch's default dtype, whatever the model's is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def keep_gradients(model: Any, kept: bool) -> None:
    """Let evaluations inside `preserved` leave trainable weights trainable, or have them switch it off.

    The host sets `requires_grad` of every weight it reads to whether the weight's node is in training mode. In
    evaluation mode its bounds would have no gradient, without a word, nor would what is computed from them.
    """
    for node in model._modules.values():
        if type(node).__name__ == "BoundParams":
            node.training = kept and node.param.requires_grad


def evaluated(
    model: Any,
    x: Tensor,  # shape: (b, *input_shape)
    names: Iterable[str],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Evaluate a `BoundedModule` at plain inputs, without gradients.

    Unlike `read_graph` it does not put the model back as it was: for many calls in a row, inside one `preserved`.

    Returns:
        The output, (b, *output_shape), and the values of the named nodes, (b, *shape) each.
    """
    with torch.no_grad():
        output = model.forward(x)
        return output, {name: model.get_forward_value(model[name]) for name in names}


@torch.no_grad()
def takes_batches(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], like: Tensor) -> bool:
    """Whether a batch of inputs gives what they give one by one, as seen at three random points.

    Args:
        function: ``(n, *shape) -> (n, *output_shape)``.
        shape: shape of one input.
        like: a tensor of the function's dtype and device.
    """
    points = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    alone = torch.cat([function(point.unsqueeze(0)) for point in points])
    try:
        together = function(points)
    except HOST_FAILURES:
        return False
    size = float(alone.abs().nan_to_num(nan=0.0, posinf=0.0).max())
    return together.shape == alone.shape and torch.allclose(
        together, alone, rtol=0, atol=half_of_the_digits(like) * size, equal_nan=True
    )


def shares_weights(model: Any, module: nn.Module) -> bool:
    """Whether a model has the weights of its module still: the same parameters, and buffers of equal values."""
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    for node in model._modules.values():
        name = getattr(node, "ori_name", None)
        held = getattr(node, "param", getattr(node, "buffer", None))
        if name not in own or not isinstance(held, Tensor) or held is own[name]:
            continue
        if isinstance(held, nn.Parameter) or held.device != own[name].device or not torch.equal(held, own[name]):
            return False
    return True
