"""What boxes of a property are bounded on: plain nodes of the network, or the host's model of it, made when needed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recurjac_plugin.branch_and_bound.bounders import RowsBounder, bounder
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.errors import InputError, RoomError
from recurjac_plugin.host.library import BoundedModule
from recurjac_plugin.host.read import HostGraph
from recurjac_plugin.host.state import evaluated, takes_batches
from recurjac_plugin.jacobian.methods import Method
from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.plugin.model import bounded_model
from recurjac_plugin.properties.spec import Box
from recurjac_plugin.verification.composed.graphs import composed_graph
from recurjac_plugin.verification.counterexample import Session

from .probes import difference_inside

Evaluate = Callable[[Tensor], Tensor]
"""The network that is bounded: (n, *input_shape) -> (n, n_outputs)."""
MakeRows = Callable[[Evaluate, bool], Rows]
"""The rows to bound, from the network that is bounded and whether bounds are proven."""


@dataclass(eq=False)
class Bounding:
    """Makes what bounds the boxes of one verification.

    Attributes:
        model: what was given: a torch module, or the host's `BoundedModule`.
        network: the same with what attacks need to know of it.
        session: what judges counterexamples.
        judged: number of outputs that it computes itself; None for all (see `Rows`).
        method: of the bounds.
        branching: what boxes are cut by, one of `branching.BRANCHINGS`.
        rigorous: whether bounds are proven, in float64, or the host's where it bounds.
        falls_back: whether the host bounds what is too large for proven bounds.
    """

    model: nn.Module
    network: OnnxNetwork
    session: Session
    judged: int | None
    method: Method
    branching: str
    rigorous: bool
    falls_back: bool

    @cached_property
    def like(self) -> Tensor:
        """A number of the type, and on the device, in which boxes are bounded."""
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        own = isinstance(self.model, BoundedModule) and not self.rigorous  # cannot be copied to another type
        return torch.zeros((), dtype=self.network.dtype if own else torch.float64, device=device)

    def ends(self, box: Box) -> tuple[Tensor, Tensor]:
        """The box's ends in the arithmetic of the bounds, (1, columns) each, never inside of it.

        Raises:
            InputError: they are not finite there.
        """
        like = self.like
        ends = box.rounded_outward(like.cpu().numpy().dtype)
        if not all(np.isfinite(end).all() for end in ends):
            raise InputError(
                f"A box of the property has bounds that are not finite in {like.dtype}: from {box.lower.min():g} to "
                f"{box.upper.max():g}; give finite ones."
            )
        lower, upper = (torch.from_numpy(end).to(like).reshape(1, -1) for end in ends)
        return lower, upper

    def rows(self, box: Box, evaluate: Evaluate, proven: bool) -> Rows:
        """The rows of a box."""
        eps = torch.finfo(self.network.dtype).eps
        return Rows.of(box, self.like, self._difference(box, evaluate), eps, proven=proven, judged=self.judged)

    def bounder(self, rows: MakeRows, lower: Tensor, upper: Tensor) -> RowsBounder:
        """What bounds rows on a box: for proven bounds the plain nodes, where there are some, are enough."""
        graph = self._plain_graph if self.rigorous else None
        try:
            return self._on(graph or self._host_model, rows, lower, upper, self.rigorous)
        except RoomError:
            if not (self.rigorous and self.falls_back):
                raise
            return self._on(self._host_model, rows, lower, upper, False)

    def _on(self, model: Any, rows: MakeRows, lower: Tensor, upper: Tensor, proven: bool) -> RowsBounder:
        """The same on plain nodes, or on a model of the host."""
        shape = self.network.input_shape
        own = self.like if isinstance(model, HostGraph) else next((p.detach() for p in model.parameters()), self.like)

        def evaluate(x: Tensor) -> Tensor:
            if isinstance(model, HostGraph):
                return model.at(dict.fromkeys(model.inputs, x)).output
            return torch.cat([evaluated(model, each, ())[0].flatten(1) for each in x.to(own).split(1)])

        made = rows(evaluate, proven)
        bounds = bounder(model, made, self.method, shape, lower, upper, self.branching, proven)
        if not isinstance(model, HostGraph) and not takes_batches(model.forward, shape, own):
            bounds.batch = 1  # its graph was read for one input at a time
        return bounds

    @cached_property
    def _plain_graph(self) -> HostGraph | None:
        """The network as plain nodes; None where only the host can read it."""
        return None if isinstance(self.model, BoundedModule) else composed_graph(self.network)

    @cached_property
    def _host_model(self) -> Any:
        """The host's model of the network."""
        if isinstance(self.model, BoundedModule):
            return self.model
        double = copy.deepcopy(self.network).to(self.like.dtype)
        return bounded_model(double, self.like.new_zeros(1, *self.network.input_shape))

    def _difference(self, box: Box, evaluate: Evaluate) -> float:
        """How far the network that is bounded is from the one that is judged, as far as points of the box show."""

        def bounded(x: np.ndarray) -> np.ndarray:
            inputs = torch.from_numpy(x).to(self.like).reshape(-1, *self.network.input_shape)
            return evaluate(inputs).double().cpu().numpy()

        return max(self.network.max_difference, difference_inside(box, bounded, self.session))
