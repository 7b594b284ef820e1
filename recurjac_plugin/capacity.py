"""Whether what has to be kept fits into the machine at all, asked before the work that fills it.

Chunks bound everything but the gains (see `gains`), which grow with the square of the number of undetermined neurons. A
network with hundreds of thousands of them would compute for hours, and then be ended by the system without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .errors import InputError
from .graph import Graph
from .memory import memory_of
from .steps import FactorStep
from .undetermined import Layer


def require_room_for_gains(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> None:
    """Refuse gains that are larger than the memory of their device.

    Args:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: what is differentiated, shape (b, k, *output_shape).

    Raises:
        InputError: they are.
    """
    needed, room = gains_size(graph, derivatives, rows) * rows.element_size(), memory_of(rows.device)
    if room is not None and needed > room:
        count = sum(derivatives[step.name].count for step in graph.factors)
        raise InputError(
            f"Over this region {count} derivatives are uncertain, and the gains between them would take "
            f"{needed / 1e9:.0f} GB where `{rows.device}` has {room / 1e9:.0f} GB: bound a smaller region, start from "
            "tighter pre-activation bounds (`CROWN`, `zonotope_bounds`), or use `Fast-Lip`, which needs no gains."
        )


def gains_size(graph: Graph, derivatives: Mapping[str, Layer], rows: Tensor) -> int:
    """The least number of elements of all gains: exact for one region, too small where regions differ."""
    counts = {step.name: derivatives[step.name].count for step in graph.factors}
    position = {step.name: i for i, step in enumerate(graph.steps)}

    def met(start: str) -> int:
        """Number of undetermined neurons and input coordinates that rows at a step are pulled back to."""
        pending, found = {start}, 0
        for step in reversed(graph.steps[: position.get(start, -1) + 1]):
            if step.name not in pending:
                continue
            if isinstance(step, FactorStep):
                found += counts[step.name]
                pending |= {step.source} if derivatives[step.name].stable is not None else set()
            else:
                pending |= {source for source, _ in step.sources}
        return found + (graph.columns if pending & set(graph.inputs) else 0)

    layers = ((len(derivatives[step.name].index), counts[step.name], step.source) for step in graph.factors)
    return rows.shape[1] * met(graph.output) + sum(batch * count * met(source) for batch, count, source in layers)
