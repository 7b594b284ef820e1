r"""Several networks as one: :math:`(x_1, \ldots, x_m) \mapsto (f_1(x_1), \ldots, f_m(x_m))`, everything flattened.

A query about several networks is one about this network. Two uses of a network share its weights.

Source: own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.networks.onnx import OnnxNetwork

if TYPE_CHECKING:
    Judge = Callable[[np.ndarray], np.ndarray]


class Product(nn.Module):
    """The networks side by side: (b, N) -> (b, M).

    Args:
        networks: at least one; the same object may come several times.

    Attributes:
        starts: where the inputs of each begin.
    """

    def __init__(self, networks: Sequence[OnnxNetwork]) -> None:
        super().__init__()
        self._networks = nn.ModuleList(networks)
        sizes = [math.prod(network.input_shape) for network in networks]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]

    @property
    def networks(self) -> list[OnnxNetwork]:
        """What was given."""
        return [cast(OnnxNetwork, each) for each in self._networks]

    def forward(self, x: Tensor) -> Tensor:
        """All outputs, one network after the other."""
        parts = [
            network(x[:, start:end].reshape(-1, *network.input_shape))
            for network, start, end in zip(self.networks, self.starts, self.starts[1:])
        ]
        return torch.cat(parts, 1)


def side_by_side(networks: Sequence[OnnxNetwork]) -> OnnxNetwork:
    """Several networks as one of a flat input; they share their weights with it.

    Args:
        networks: of one number type.

    Raises:
        InputError: their number types differ.
    """
    types = sorted({str(network.dtype).removeprefix("torch.") for network in networks})
    if len(types) > 1:
        raise InputError(f"The networks compute in {' and '.join(types)}: expected one type; export them in one.")
    made = Product(networks)
    whole = OnnxNetwork(made, (made.starts[-1],), networks[0].dtype)
    whole.n_outputs = sum(network.n_outputs for network in networks)
    whole.max_difference = max(network.max_difference for network in networks)
    whole.takes_batches = all(network.takes_batches for network in networks)
    whole.eval()
    return whole


class ProductSession:
    """What judges a product: each network by what judges it alone.

    Args:
        sessions: of the networks, in order.
        networks: that they judge.

    Attributes:
        dtype: numpy type of inputs.
    """

    def __init__(self, sessions: Sequence[Judge], networks: Sequence[OnnxNetwork]) -> None:
        self._sessions = list(sessions)
        self._starts = np.cumsum([math.prod(network.input_shape) for network in networks])[:-1]
        self.dtype: np.dtype = np.dtype(np.float64 if networks[0].dtype == torch.float64 else np.float32)

    def __call__(self, x: np.ndarray) -> np.ndarray:  # [b, N] -> [b, M]
        """Outputs of every input, float64."""
        parts = np.split(np.asarray(x, dtype=self.dtype), self._starts, axis=1)
        outputs = [session(part) for session, part in zip(self._sessions, parts, strict=True)]
        return np.concatenate([np.asarray(each, dtype=np.float64) for each in outputs], axis=1)
