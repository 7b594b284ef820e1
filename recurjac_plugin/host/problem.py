"""What every public function begins with: the host's model and its perturbed inputs, read once and found to fit.

`read` gives a `Problem`, which is all that the package asks of the host until the host's own bounds are wanted: where
the inputs lie, and the network over them as plain nodes (`read.HostGraph`) and as plain steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.numerics.region import Region, joined

from .kept import graph_at
from .library import BoundedModule
from .misread import require_decided
from .read import HostGraph, read_graph
from .region import Arguments, converted, read_arguments
from .same_function import require


@dataclass(frozen=True, eq=False)
class Problem:
    """A model over a batch of regions.

    Attributes:
        model: the host's `BoundedModule`; None for a network that was read without the host.
        arguments: where its inputs lie.
        host_graph: its graph, the values those at the centres of the regions.
    """

    model: Any
    arguments: Arguments
    host_graph: HostGraph

    @cached_property
    def graph(self) -> Graph:
        """The network as plain steps, translated when it is first asked for.

        Raises:
            UnsupportedError: parts of the network have no rule; lists all of them.
        """
        return self.host_graph.steps

    @cached_property
    def region(self) -> Region:
        """One region of the coordinates of all perturbed inputs together.

        Raises:
            InputError: several regions that are not all boxes: they have no common norm.
        """
        return joined(self.arguments.regions)

    @cached_property
    def reach(self) -> dict[str, Tensor]:
        """How far each perturbed input can be from its centre, by name, (b, *shape)."""
        regions = zip(self.host_graph.inputs, self.arguments.regions, strict=True)
        return {name: region.reach.reshape(region.center.shape) for name, region in regions}

    def shrunk(self, fraction: float) -> Problem:
        """The same over regions shrunk about their centres."""
        return replace(self, arguments=self.arguments.scaled(fraction))


def read(model: Any, x: Any) -> Problem:
    """Read a model and its perturbed inputs, the graph at the centres of the regions.

    Args:
        model: the host's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor`, or a tuple of them and of plain tensors.

    Raises:
        InputError: not the host's objects, or they do not fit together.
        UnsupportedError: weights are perturbed, or the host reads another network.
    """
    if not isinstance(model, BoundedModule):
        raise InputError(
            f"`model` must be auto_LiRPA's `BoundedModule`, got {type(model).__name__}; wrap it as "
            "`BoundedModule(model, example_input)`."
        )
    arguments = read_arguments(x, model)
    graph = graph_at(model, arguments.values, lambda: read_graph(model, *arguments.for_host()))
    problem = Problem(model, arguments, graph)
    centers = [value.center if isinstance(value, Region) else value for value in arguments.values]
    if not require(model, centers, problem.host_graph.output):
        require_decided(problem.host_graph.nodes)
    return problem


def read_in_float64(model: Any, x: Any) -> Problem:
    """`read`, and everything in float64 from then on, whatever the model's type: what proven bounds start from.

    Regions are the smallest of float64 numbers that contain all points between the ends given.

    Args:
        model: as there.
        x: as there.

    Raises:
        InputError: as there.
        UnsupportedError: as there.
    """
    own = next((parameter.dtype for parameter in getattr(model, "parameters", tuple)()), None)
    problem = read(model, x if own is None else converted(x, own))
    arguments, centers = _in_float64(x, problem.host_graph)
    return Problem(model, arguments, problem.host_graph.in_float64(centers))


def over(graph: HostGraph, x: Any) -> Problem:
    """A network of float64 that was read without the host, over regions; as `read_in_float64` has them.

    Args:
        graph: the network.
        x: its inputs, as there.

    Raises:
        InputError: as there, of the inputs alone.
    """
    arguments, centers = _in_float64(x, graph)
    return Problem(None, arguments, graph.at(centers))


def _in_float64(x: Any, graph: HostGraph) -> tuple[Arguments, dict[str, Tensor]]:
    """Where inputs lie, in float64, and the centres of the regions by the names of the inputs."""
    arguments = read_arguments(converted(x, torch.float64), None).scaled(1 + 2.0**-50)
    return arguments, {name: each.center for name, each in zip(graph.inputs, arguments.regions, strict=True)}


def specification(
    C: Tensor | None,  # shape: (b or 1, k, n_out)
    output: Tensor,  # shape: (b, *output_shape)
) -> Tensor:
    """The matrix C for an output, one for every region; None takes every output by itself.

    Returns:
        Shape (b, k, *output_shape).

    Raises:
        InputError: C has another shape, dtype or device, or contains NaN.
    """
    batch, size = len(output), output[0].numel()
    if C is None:
        C = torch.eye(size, dtype=output.dtype, device=output.device).unsqueeze(0)
    if not isinstance(C, Tensor) or C.dim() < 3 or len(C) not in (1, batch) or C[0, :1].numel() != size:
        came = tuple(C.shape) if isinstance(C, Tensor) else type(C).__name__
        raise InputError(f"`C` must have shape ({batch} or 1, k, {size}) for this model, got {came}.")
    if C.dtype != output.dtype or C.device != output.device:
        raise InputError(
            f"`C` is {C.dtype} on {C.device}, but the model's output is {output.dtype} on {output.device}; "
            "use the same."
        )
    if not bool(C.isfinite().all()):
        raise InputError("`C` contains NaN or infinite values; a specification must be finite.")
    return C.expand(batch, *C.shape[1:]).reshape(batch, C.shape[1], *output.shape[1:])
