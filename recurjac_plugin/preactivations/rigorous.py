r"""Pre-activation bounds that are proven, with the errors that everything computed from them needs.

They come from CROWN of our own (`crown`) in float64, with optimised lines (`optimised`) where that is wanted, and hold
for the network in real arithmetic with the weights that it was given. What is assumed: float64 as IEEE 754 has it,
rounded to nearest; sums in any order; elementary functions to 2 units in the last place. Nothing is taken from the host
but its graph and the weights in it.

Source: as in `crown`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recurjac_plugin.errors import RoomError, UnsupportedError
from recurjac_plugin.gains.optimised import Effort
from recurjac_plugin.gains.pull import ROWS
from recurjac_plugin.host.problem import Problem
from recurjac_plugin.numerics.intervals import rounded_outward
from recurjac_plugin.numerics.memory import memory_of, ran_out
from recurjac_plugin.numerics.region import concretized
from recurjac_plugin.numerics.rounding import eps, gamma

from .bounds import Preactivations, ProvenErrors
from .crown import crown_bounds
from .host import HostBounds, HostRoomError, bytes_for_crown, host_bounds, no_room
from .optimised import optimised_crown_bounds

# The host takes the logarithm of a number below this for that of this one.
_LOGARITHM_FROM = 1e-12


@torch.no_grad()
def prove_preactivations(
    problem: Problem,
    rows: Tensor,  # shape: (b, k, *output_shape)
    memory_budget: int,  # bytes
    effort: Effort | None = None,
) -> Preactivations:
    """Proven bounds of everything that derivatives depend on, and of the rows.

    Args:
        problem: model and regions, in float64.
        rows: the matrix C, in float64.
        memory_budget: bytes for one chunk of rows.
        effort: how long is looked for better lines than CROWN's; None for not at all.

    Raises:
        InputError: bounds are NaN.
        UnsupportedError: bounds reach beyond where an activation has a finite derivative, or where the host computes
            another function.
    """
    graph, host_graph = problem.function, problem.host_graph
    count = rows.shape[1]
    both = torch.cat((rows, -rows), 1).reshape(len(rows), 2 * count, *graph.shapes[graph.output])
    regions = problem.arguments.regions
    arguments = (graph, host_graph.values, host_graph.output, regions, both, memory_budget)
    crown = crown_bounds(*arguments)
    if effort is not None:
        crown = optimised_crown_bounds(*arguments, crown, effort)
    _require_whole_logarithms(problem)
    least = torch.stack(
        [offset - concretized(regions, -slope) for slope, offset in zip(crown.slope.unbind(1), crown.offset.unbind(1))]
    ).amax(0)
    # The offset is the value at the centre and a constant, from which what the region adds is taken off.
    least = least - crown.row_error - gamma(8) * least.abs()
    lower, upper = least[:, :count], -least[:, count:]
    gains = replace(
        crown.gains,
        rows=count,
        blocks=crown.gains.blocks.mapped(
            lambda block, key: block[:, :count] if key[0] == ROWS else block, lambda block: block
        ),
    )
    errors = ProvenErrors(gains, crown.spreads, crown.row_error[:, :count])
    return Preactivations(crown.bounds, crown.layers, (lower, upper), errors)


def bounds_of_our_own(
    problem: Problem,
    rows: Tensor,  # shape: (b, k, *output_shape)
    names: Sequence[str],
    memory_budget: int,  # bytes
    effort: Effort | None,
) -> HostBounds:
    """Bounds of our own in place of the host's: the proven ones in float64, rounded outward to the type of the problem.

    They are constants, whatever depends on the weights.

    Args:
        problem: model and regions, in any type.
        rows: the matrix C.
        names: nodes whose bounds are wanted.
        memory_budget: bytes for one chunk of rows.
        effort: how long is looked for better lines than CROWN's; None for not at all.

    Raises:
        What `prove_preactivations` raises.
    """
    proven = prove_preactivations(problem.in_float64(), rows.detach().double(), memory_budget, effort)
    assert proven.host_output is not None
    intervals = {name: rounded_outward(proven.bounds[name].widened(), rows.dtype) for name in names}
    return HostBounds(intervals, rounded_outward(proven.host_output, rows.dtype), eps(rows))


def host_or_own_bounds(
    problem: Problem,
    method: str,
    rows: Tensor,  # shape: (b, k, *output_shape)
    names: Sequence[str],
    memory_budget: int,  # bytes
) -> HostBounds:
    """The host's bounds; those of CROWN of our own, in chunks, where the host's CROWN does not fit into the memory.

    Where the host's coefficients would take more than half of the memory ours come first, and where they would take
    more than all of it the host is not asked. Ours are constants, whatever depends on the weights.

    Args:
        problem: model and regions, in any type.
        method: name of the method, as the host spells it.
        rows: the matrix C.
        names: nodes whose bounds are wanted.
        memory_budget: bytes for one chunk of rows.

    Raises:
        HostRoomError: neither of them fits, or parts of the network have no rule of our own.
        UnsupportedError: as `host_bounds`.

    Source: as in `crown`.
    """
    if method != "CROWN":
        return host_bounds(problem, method, rows, names)
    room, needed, full = memory_of(rows.device), bytes_for_crown(problem.host_graph, rows.dtype), None
    if room is None or needed <= room / 2:
        try:
            return host_bounds(problem, method, rows, names)
        except HostRoomError as error:
            full = HostRoomError("The network", error.offenders, error.remedy)  # the first one's frames hold the memory
    elif needed > room:
        full = no_room(method, f"would take about {needed / 1e9:.0f} GB where there are {room / 1e9:.0f}")
    try:
        return bounds_of_our_own(problem, rows, names, memory_budget, None)
    except (RoomError, UnsupportedError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, (RoomError, UnsupportedError)) or ran_out(error)):
            raise
    if full is None:
        return host_bounds(problem, method, rows, names)  # it may be enough
    raise full


def _require_whole_logarithms(problem: Problem) -> None:
    """Refuse logarithms that the host has cut off at the centres."""
    values = problem.host_graph.values
    wrong = [
        f"`{node.name}` (Log): its argument comes below {_LOGARITHM_FROM:g}, where the host cuts the logarithm off"
        for node in problem.host_graph.nodes
        if node.kind == "BoundLog" and bool((values[node.inputs[0]] < _LOGARITHM_FROM).any())
    ]
    if wrong:
        raise UnsupportedError("The network", wrong, "Use a region on which the argument is larger.")
