r"""How far errors at neurons carry: absolute sums over all ways, with one derivative inserted at every neuron.

For columns of a source that are pushed with fixed slopes s, with c what arrives of them at the layers on the way,

.. math:: c_l = G_{l,\text{source}} + \sum_{m} G_{l,m} (s_m \odot c_m), \qquad \text{sum} = \sum_l |c_l|^T R_l .

Nothing of a column depends on a row, so that all rows share it.

Source: own; the sum of absolute values over all noise symbols, as in affine arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.windows import Windows

from .columns import Replacement, Within, chunked, contracted, for_columns, push_columns


def spread(
    gains: Gains,
    source: str,
    slopes: Mapping[str, Tensor],  # layer -> (b, u)
    radii: Mapping[str, Tensor],  # layer -> (b, k, u)
    memory_budget: int,
    windows: Windows | None = None,
    weights: Tensor | None = None,  # shape: (b, k, columns)
) -> Tensor:
    """``sum over layers |c_l| R_l`` for every column of a source and every row, (b, k, columns).

    Args:
        gains: the exact part.
        source: where the columns start.
        slopes: s.
        radii: R of the layers that the sum is over, one at least; what arrives at others stops there.
        memory_budget: bytes for one chunk of columns.
        windows: what the columns meet, if that is little.
        weights: to take a sum of the columns for every row in their place, (b, k, 1) then.

    Source: own.
    """
    rows, count = next(iter(radii.values())).shape[1], gains.count(source)
    reached = [layer for layer in gains.layers if layer in radii and (layer, source) in gains.blocks]
    if not reached:
        return gains.reference.new_zeros(gains.batch, rows, count if weights is None else 1)

    def pushed(within: Within, columns: dict[str, Tensor]) -> Tensor:
        """The sum for columns of shape (n, b or 1, k or 1, 1, r, u): (n, b, k, r)."""

        def replaced(layer: str, c: Tensor) -> Replacement:
            if layer not in radii:
                return Replacement((), None)
            slope, radius = (within.neurons(layer, value) for value in (slopes[layer].unsqueeze(1), radii[layer]))
            return Replacement((contracted(c.abs(), radius),), c * for_columns(slope))

        start = next(iter(columns.values()))
        zero = start.new_zeros(len(start), gains.batch, rows, 1, start.shape[4])
        return push_columns(within, columns, zero, replaced)[0].squeeze(3)

    if weights is not None:
        columns = {layer: weights @ gains.blocks[layer, source].mT for layer in reached}
        return pushed(Within.everything(gains), {layer: c[None, :, :, None, None] for layer, c in columns.items()})[0]
    elements, like = 4 * gains.batch, gains.reference
    if windows is not None:

        def of_groups(chosen: slice) -> Tensor:
            part = windows.part(chosen)
            starts = {layer: c[:, :, None, None] for layer, c in part.starts(gains, source).items()}
            return pushed(Within.windows(gains, part), starts).movedim(0, 2)

        each = windows.columns.shape[1] * elements * (rows + windows.width) + windows.elements(gains)
        found = torch.cat([*chunked(of_groups, len(windows), each, memory_budget, len(radii), like)], 2)
        return found.flatten(2).index_select(2, windows.place)

    within, blocks = Within.everything(gains), {layer: gains.blocks[layer, source] for layer in reached}

    def of_columns(chosen: slice) -> Tensor:
        starts = {layer: block[None, :, None, None, :, chosen].mT for layer, block in blocks.items()}
        return pushed(within, starts)[0]

    each = elements * (rows + sum(gains.count(layer) for layer in radii))
    return torch.cat([*chunked(of_columns, count, each, memory_budget, len(radii), like)], 2)
