r"""Windows: the few neurons that a group of columns meets on its way from a source to the rows.

A pixel, or a neuron of a convolution, reaches a part of the next layer only, its receptive field read forwards: most
elements of the gains are 0. Columns that reach the same neurons form a group g; with ``P_lm`` where the gain between
two layers is not 0 anywhere in the batch, what the group can meet at layer l is

.. math:: S_l(g) = \bigcup_{i \in g} P_{l,\text{source}} e_i \;\cup\; \bigcup_{m < l} P_{l,m} S_m(g) .

A pass over the group needs no other elements of the gains than ``G_lm[S_l, S_m]``. Nothing is left out but zeros, so
bounds stay what they are. Whether that pays is a matter of counting: products of small matrices, which are cut out of
the gains first, against those of whole ones.

Source: own; receptive fields are those of convolutional networks, here found from the zeros of any gains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .gains import Gains

# What work costs, relative to one multiplication within a large product of matrices, as measured on a processor: one
# within a batch of small products, all that is done with one element of a column at a layer, and to cut one out.
_SMALL_PRODUCT = 3
_ELEMENT = 100
_CUT_OUT = 60
# Where more of the elements are not 0 it is not worth looking for windows.
_SPARSE = 0.5
# Numbers without a pattern of their own, of which different sets of neurons have different sums; small, so that sums of
# them are exact.
_SPREAD, _MODULI = 7919, (241, 251)


@dataclass(frozen=True, eq=False)
class Windows:
    """Groups of the columns of one source, and the neurons that each can meet.

    Attributes:
        columns: the columns of each group, shape (n, r); shorter lists repeat a column.
        place: where each column of the source stands among ``columns.flatten()``, shape (columns,).
        neurons: for each later layer that is reached, positions among its undetermined neurons, shape (n, s).
        listed: which of these belong to the window, shape (n, s); the others fill up the list.
    """

    columns: Tensor
    place: Tensor
    neurons: Mapping[str, Tensor]
    listed: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def width(self) -> int:
        """How many neurons a window has, in all layers together."""
        return sum(index.shape[1] for index in self.neurons.values())

    def elements(self, gains: Gains) -> int:
        """How many numbers are cut out of the gains for one group, at most."""
        regions = max(len(block) for block in gains.blocks.values())
        return 3 * regions * self.width * (self.width + self.columns.shape[1])

    def part(self, groups: slice) -> Windows:
        """Some of the groups; `place` is left as it is."""
        return Windows(
            self.columns[groups],
            self.place,
            {layer: index[groups] for layer, index in self.neurons.items()},
            {layer: listed[groups] for layer, listed in self.listed.items()},
        )

    def starts(self, gains: Gains, source: str) -> dict[str, Tensor]:
        """The gains from the groups' columns to the layers that they reach at once, (n, b or 1, r, s) by layer."""
        return {
            layer: _cut_out(gains.blocks[layer, source], index, self.columns).mT * self.listed[layer][:, None, None, :]
            for layer, index in self.neurons.items()
            if (layer, source) in gains.blocks
        }

    def blocks(self, gains: Gains) -> dict[tuple[str, str], Tensor]:
        """The gains between the windows, ``G_lm[S_l, S_m]``, (n, b or 1, s_l, s_m), 0 where a list is filled up."""
        return {
            (later, earlier): _cut_out(block, self.neurons[later], self.neurons[earlier])
            * self.listed[later][:, None, :, None]
            for (later, earlier), block in gains.blocks.items()
            if later in self.neurons and earlier in self.neurons
        }


def _cut_out(
    block: Tensor,  # shape: (b or 1, u, m)
    rows: Tensor,  # shape: (n, s)
    columns: Tensor,  # shape: (n, r)
) -> Tensor:
    """``block[:, rows, columns]`` for every group: (n, b or 1, s, r)."""
    flat = (rows.unsqueeze(2) * block.shape[2] + columns.unsqueeze(1)).flatten()
    cut = block.flatten(1).index_select(1, flat).reshape(len(block), len(rows), rows.shape[1], columns.shape[1])
    return cut.transpose(0, 1)


@torch.no_grad()
def find_windows(gains: Gains, source: str, layers: Sequence[str]) -> Windows | None:
    """Group the columns of a source by what they reach, if that makes a pass over them cheaper.

    With ``s_l`` the sizes of the windows and u those of the layers, a pass over one column of one row costs about
    ``sum u_l u_m + e sum u_l`` without windows, ``p sum s_l s_m + e sum s_l`` with them, and ``c sum s_l s_m`` once for
    every group.

    Args:
        gains: the exact part.
        source: a layer, or `INPUT`.
        layers: those that are reached from it, in topological order.

    Returns:
        The windows; None where they would cost more than they spare.

    Source: own.
    """
    blocks = {
        (later, earlier): gains.blocks[later, earlier]
        for later in layers
        for earlier in (source, *layers)
        if (later, earlier) in gains.blocks
    }
    size = sum(block[0].numel() for block in blocks.values())
    if not size or not any(earlier == source for _, earlier in blocks):
        return None
    patterns = {
        key: (block != 0).any(0).to(block.dtype) for key, block in blocks.items()
    }  # shape: (u_later, u_earlier)
    if sum(float(pattern.sum()) for pattern in patterns.values()) > _SPARSE * size:
        return None
    columns, place = _groups([patterns[key] for key in blocks if key[1] == source])
    neurons, listed = {}, {}
    reached: dict[str, Tensor] = {}  # shape: (u, n)
    for layer in layers:
        met = None
        for earlier in (source, *reached):
            pattern = patterns.get((layer, earlier))
            if pattern is None:
                continue
            arrived = pattern[:, columns].amax(2) if earlier == source else pattern @ reached[earlier]
            met = arrived if met is None else met + arrived
        if met is None or not bool(met.any()):
            continue
        reached[layer] = met.sign()
        neurons[layer], listed[layer] = _listed(met.T > 0)
    if not reached:
        return None
    counts = {layer: len(gains.derivatives[layer].lower[0]) for layer in layers}
    pairs = [key for key in blocks if key[1] in reached and key[0] in reached]
    rows = 2 * gains.rows * gains.batch
    whole = sum(counts[m] * counts[k] for k, m in pairs) + _ELEMENT * sum(counts.values())
    products = sum(neurons[m].shape[1] * neurons[k].shape[1] for k, m in pairs)
    windowed = _SMALL_PRODUCT * products + _ELEMENT * sum(index.shape[1] for index in neurons.values())
    regions = max(len(block) for block in blocks.values())
    if columns.numel() * windowed * rows + len(columns) * _CUT_OUT * products * regions > len(place) * whole * rows:
        return None
    return Windows(columns, place, neurons, listed)


def _listed(
    mask: Tensor,  # shape: (n, u)
) -> tuple[Tensor, Tensor]:
    """Positions of True in each row, filled up with 0, and which of them are such positions: (n, s) each."""
    row, position = mask.nonzero().unbind(1)
    sizes = mask.sum(1)
    rank = torch.arange(len(row), device=mask.device) - (sizes.cumsum(0) - sizes)[row]
    index = row.new_zeros(len(mask), int(sizes.max()))
    index[row, rank] = position
    return index, torch.arange(index.shape[1], device=mask.device) < sizes.unsqueeze(1)


def _groups(patterns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Columns of equal patterns together, as `Windows.columns` and `Windows.place`.

    Patterns count as equal if some sums over their elements are equal; groups of others would only be less useful.
    Groups that are much larger than the average are divided, lest all others be filled up to them.

    Args:
        patterns: one for each layer, shape (u, columns), 0 or 1.
    """
    marks = []
    for pattern in patterns:
        index = torch.arange(len(pattern), device=pattern.device)
        weights = torch.stack((torch.ones_like(index), *(index * _SPREAD % modulus for modulus in _MODULI)))
        marks.append(weights.to(pattern) @ pattern)
    _, group = torch.cat(marks).T.unique(dim=0, return_inverse=True)
    count = len(group)
    order = group.argsort(stable=True)
    sizes = group.bincount()
    first = sizes.cumsum(0) - sizes
    rank = torch.arange(count, device=group.device) - first[group[order]]  # within its group
    most = -(-count // len(sizes))
    # Parts of at most `most` columns: the number of the part, and the rank within.
    part, rank = rank // most, rank % most
    parts = -(-sizes // most)
    number = (parts.cumsum(0) - parts)[group[order]] + part
    columns = order.new_full((int(parts.sum()), most), -1)
    columns[number, rank] = order
    columns = torch.where(columns < 0, columns[:, :1], columns)
    place = torch.empty_like(order)
    place[order] = number * most + rank
    return columns, place
