"""Pre-activation bounds, checked, and the derivative ranges that follow from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds, classify
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import Read
from recurjac_plugin.numerics.intervals import Intervals
from recurjac_plugin.numerics.rounding import GROSS

from .defects import Precision


def checked_evidence(
    graph: Graph,
    sizes: Mapping[str, Tensor],
    bounds: Intervals,
    precision: Mapping[str, Precision],
    like: Tensor,
) -> dict[str, PreactivationBounds]:
    """Bounds of everything that the factor steps of a graph read, by name.

    Args:
        graph: the network.
        sizes: sums of absolute terms at its inputs and steps, see `term_sizes`; they matter at kinks alone.
        bounds: lower and upper bounds of everything that the steps read, by name.
        precision: how exact these bounds are, by the same names.
        like: a tensor of the batch, dtype and device of the inputs.

    Raises:
        InputError: bounds of the wrong shape, or inverted.
    """
    reads = {read.name: read for step in graph.factors for read in step.reads}
    return {
        name: PreactivationBounds(
            *_checked(bounds[name], read, like, precision[name]),
            precision[name].relative,
            sizes.get(graph.stands_for[name]),
        )
        for name, read in reads.items()
    }


def derivative_ranges(graph: Graph, evidence: Mapping[str, PreactivationBounds]) -> dict[str, Layer]:
    """The derivative ranges of all factor steps of a graph.

    Args:
        graph: the network.
        evidence: bounds of what they read, by name.

    Raises:
        InputError: the bounds contain NaN.
        UnsupportedError: they reach beyond where an activation has a finite derivative.
    """
    return {step.name: classify(step, [evidence[read.name] for read in step.reads]) for step in graph.factors}


def _checked(pair: tuple[Tensor, Tensor], read: Read, like: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """Bounds of a node in its own shape, and in the dtype and on the device of the inputs."""
    shape = (len(like), *read.shape)
    lower, upper = pair
    sizes = (torch.Size(shape).numel(), torch.Size(shape[1:]).numel())
    if lower.numel() != upper.numel() or lower.numel() not in sizes:
        raise InputError(
            f"The bounds of `{read.name}` have shapes {tuple(lower.shape)} and {tuple(upper.shape)}, expected {shape}."
        )
    lower, upper = (bound.to(like).reshape(-1, *shape[1:]).expand(shape) for bound in (lower, upper))
    largest = torch.maximum(lower.abs(), upper.abs()).amax().detach()
    allowed = GROSS * precision.relative * largest.clamp(min=precision.least)
    if bool((lower > upper + allowed).any()):
        raise InputError(f"The bounds of `{read.name}` are inverted by more than rounding: give lower bounds first.")
    return lower, upper
