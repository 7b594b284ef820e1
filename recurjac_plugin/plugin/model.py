"""A torch network as the host's model, refused where the host computes something else.

Reading a network may fail silently: an attribute overlooked gives another function. So the model is evaluated at a
random point and compared with the network, up to ``1e-3 (1 + max |f(x)|)`` (`numerics.rounding.OTHER_FUNCTION`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host.library import HOST_FAILURES, VERSION, BoundedModule
from recurjac_plugin.host.state import preserved
from recurjac_plugin.numerics.rounding import OTHER_FUNCTION

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
        model = BoundedModule(network, example, device=example.device, custom_ops=missing())
        probe = torch.rand(example.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(example)
        with torch.no_grad(), preserved(model):
            expected, read = network(probe), model.forward(probe)
    except HOST_FAILURES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedError(
            "The network",
            [f"auto_LiRPA {VERSION} cannot read it ({reason})"],
            "Export it with other operators, or use another version of auto_LiRPA.",
        ) from error
    if expected.shape != read.shape or bool(
        ((expected - read).abs() > OTHER_FUNCTION * (1 + expected.abs().max())).any()
    ):
        raise UnsupportedError(
            "The network",
            [f"auto_LiRPA {VERSION} reads it as another one: its outputs differ"],
            "Bounds of that would not be bounds of this; export it with other operators.",
        )
    return model
