r"""Properties about inputs and outputs together, as properties about the outputs of a longer network.

Rows ``A y + B x <= b`` of a network ``y = f(x)`` are rows ``(A B) (y, x) <= b`` of the network ``x -> (f(x), x)``.
Bounds, attacks and cuts of boxes need nothing else: a row on inputs alone is a linear function that every method knows
exactly, and what a linear row excludes of a box is cut off as for any other. Whether a point violates is judged with x
itself (`Spec.violated`), not with a rounded copy.

Source: own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.library import BoundedModule
from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.verification.counterexample import Counterexample, Session


class Joined(nn.Module):
    """``x -> (f(x), x)``, flattened: (b, *input_shape) -> (b, n_outputs + n_inputs)."""

    def __init__(self, network: OnnxNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, then inputs."""
        return torch.cat([self.network(x), x.flatten(1)], 1)


def joined_network(network: OnnxNetwork) -> OnnxNetwork:
    """The network whose outputs are those of the given one, and after them its inputs; it shares the weights.

    Raises:
        InputError: it is auto_LiRPA's model, which cannot be made longer.
    """
    if isinstance(network.network, BoundedModule):
        raise InputError(
            "`spec` has conditions on several inputs, or on inputs and outputs, which need a torch module: give the "
            "module itself in place of a `BoundedModule`."
        )
    joined = OnnxNetwork(Joined(network), network.input_shape, network.dtype)
    joined.n_outputs = network.n_outputs + int(np.prod(network.input_shape))
    joined.max_difference, joined.takes_batches = network.max_difference, network.takes_batches
    return joined


class JoinedSession:
    """The judge of a network, with its inputs as further outputs.

    Args:
        session: the judge.

    Attributes:
        dtype: numpy type of inputs.
    """

    def __init__(self, session: Session) -> None:
        self._session, self.dtype = session, session.dtype

    def __call__(self, x: np.ndarray) -> np.ndarray:  # [b, n_inputs] -> [b, n_outputs + n_inputs]
        """Outputs and inputs, float64."""
        y = np.asarray(self._session(x), dtype=np.float64)
        return np.concatenate([y, np.asarray(x, dtype=self.dtype).reshape(len(y), -1).astype(np.float64)], 1)


def without_inputs(found: Counterexample | None) -> Counterexample | None:
    """A counterexample of the joined network as one of the network itself."""
    return None if found is None else Counterexample(found.x, found.y[: -len(found.x)])
