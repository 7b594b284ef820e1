"""One list of networks, each exercising an operator, an activation or a shape of graph, for all parametrised tests."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from recurjac_plugin.host import BoundedModule

from .activations import ACTIVATION_CASES
from .arithmetic import ARITHMETIC_CASES
from .case import Case, on_host
from .convolutions import CONVOLUTION_CASES
from .graphs import GRAPH_CASES, residual
from .modules import Constants, Net, head, mlp
from .products import PRODUCT_CASES
from .rearrangements import REARRANGEMENT_CASES

__all__ = [
    "ACTIVATION_CASES",
    "BY_NAME",
    "CASES",
    "PRODUCT_CASES",
    "Case",
    "Constants",
    "Net",
    "head",
    "hosted",
    "mlp",
    "on_host",
    "parametrized",
    "residual",
]

CASES = ACTIVATION_CASES + CONVOLUTION_CASES + ARITHMETIC_CASES + REARRANGEMENT_CASES + GRAPH_CASES + PRODUCT_CASES
BY_NAME = {case.name: case for case in CASES}


def hosted(
    case: str | Case, batch: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Tensor, BoundedModule]:
    """Network, centre of a region, and the network on the host, whose weights are trainable.

    Tests share them: making a model is slow on the host, and the package promises to leave models as they were. Not so
    the host itself, which takes what is trainable away whenever it bounds in evaluation mode.
    """
    net, center, model = _shared(case, batch, dtype)
    model.requires_grad_()
    return net, center, model


@functools.cache
def _shared(case: str | Case, batch: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor, BoundedModule]:
    case = case if isinstance(case, Case) else BY_NAME[case]
    net, center = case.network(dtype), case.center(batch, dtype)
    return net, center, case.model(net, center)


def parametrized(cases: list[Case] = CASES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
