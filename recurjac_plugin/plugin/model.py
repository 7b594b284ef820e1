"""A torch network as the host's model, refused where the host computes something else (`host.same_function`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host.library import HOST_FAILURES, VERSION, BoundedModule
from recurjac_plugin.host.same_function import require

from .activations import missing


def bounded_model(network: nn.Module, example: Tensor) -> Any:
    """auto_LiRPA's `BoundedModule` of a network.

    Args:
        network: any torch module; it is not changed. It may have the activations of `plugin.activations`, too.
        example: an input, shape (1, *input_shape), on the network's device.

    Returns:
        The model, ``(b, *input_shape) -> (b, *output_shape)``.

    Raises:
        UnsupportedError: the host cannot trace the network, has no class for an operator, or computes something else.
    """
    try:
        model = BoundedModule(network, example.clone(), device=example.device, custom_ops=missing())
    except HOST_FAILURES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedError(
            "The network",
            [f"auto_LiRPA {VERSION} cannot read it ({reason})"],
            "Export it with other operators, or use another version of auto_LiRPA.",
        ) from error
    require(model, [example])
    return model
