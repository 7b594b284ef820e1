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

from .blocks import RowSparse, listed_by
from .gains import Gains
from .pull import Key

# What work costs, relative to one multiplication within a large product of matrices, as measured on a processor: one
# within a batch of small products, all that is done with one element of a column at a layer, and to cut one out.
_SMALL_PRODUCT = 3
_ELEMENT = 100
_CUT_OUT = 60
# Where more of the elements are not 0 it is not worth looking for windows, nor where the work is less than so many
# times that of looking: for every element, and for every block.
_SPARSE = 0.5
_LOOKS = 8
_LOOK_AT_ELEMENT, _LOOK_AT_BLOCK = 32, 2**21
# Numbers without a pattern of their own, of which different sets of neurons have different sums.
_SPREAD, _MODULI = 7919, (241, 251)


@dataclass(frozen=True, eq=False)
class Windows:
    """Groups of the columns of one source, and the neurons that each can meet.

    Attributes:
        columns: the columns of each group, shape (n, r); shorter lists repeat a column.
        members: which of them belong to the group, shape (n, r); the others fill up the list.
        place: where each column of the source stands among ``columns.flatten()``, shape (columns,).
        neurons: for each later layer that is reached, positions among its undetermined neurons, shape (n, s).
        listed: which of these belong to the window, shape (n, s); the others fill up the list.
    """

    columns: Tensor
    members: Tensor
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
        return 3 * gains.batch * self.width * (self.width + self.columns.shape[1])

    def part(self, groups: slice) -> Windows:
        """Some of the groups; `place` is left as it is."""
        return Windows(
            self.columns[groups],
            self.members[groups],
            self.place,
            {layer: index[groups] for layer, index in self.neurons.items()},
            {layer: listed[groups] for layer, listed in self.listed.items()},
        )

    def starts(self, gains: Gains, source: str) -> dict[str, Tensor]:
        """The gains from the groups' columns to the layers that they reach at once, (n, b or 1, r, s) by layer."""
        return {
            layer: self._cut_out(gains, (layer, source), self.columns, self.members).mT
            for layer in self.neurons
            if (layer, source) in gains.blocks
        }

    def blocks(self, gains: Gains) -> dict[Key, Tensor]:
        """The gains between the windows, ``G_lm[S_l, S_m]``, (n, b or 1, s_l, s_m), 0 where a list is filled up."""
        return {
            key: self._cut_out(gains, key, self.neurons[key[1]], self.listed[key[1]])
            for key in gains.blocks
            if key[0] in self.neurons and key[1] in self.neurons
        }

    def _cut_out(self, gains: Gains, key: Key, columns: Tensor, listed: Tensor) -> Tensor:
        """``G_key[S_later, columns]`` for every group: (n, b or 1, s, r)."""
        block, rows = gains.blocks.kept[key], self.neurons[key[0]]
        if isinstance(block, RowSparse):
            cut = block.cut_out(rows, columns, listed)
        else:
            flat = (rows.unsqueeze(2) * block.shape[2] + columns.unsqueeze(1)).flatten()
            cut = block.flatten(1).index_select(1, flat).reshape(len(block), *rows.shape, -1).transpose(0, 1)
        return cut * self.listed[key[0]][:, None, :, None]


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
    keys = [(later, earlier) for later in layers for earlier in (source, *layers) if (later, earlier) in gains.blocks]
    sizes = {end: gains.count(end) for end in (source, *layers)}
    size = sum(sizes[later] * sizes[earlier] for later, earlier in keys)
    if not size or not any(earlier == source for _, earlier in keys):
        return None
    rows = 2 * gains.rows * gains.batch
    everything = sum(sizes[later] * sizes[earlier] for later, earlier in keys if earlier != source)
    everything = (everything + _ELEMENT * sum(sizes[layer] for layer in layers)) * sizes[source] * rows
    if everything < _LOOKS * (_LOOK_AT_ELEMENT * size + _LOOK_AT_BLOCK * len(keys)):
        return None
    patterns = _patterns(gains, keys, _SPARSE * size)
    if patterns is None:
        return None
    classes = {end: _classes(end, sizes[end], patterns) for end in (source, *layers)}
    columns, members, place = _groups(classes[source])
    reached: dict[str, Tensor] = {source: gains.reference.new_zeros(int(classes[source].max()) + 1, len(columns))}
    reached[source][classes[source][columns], torch.arange(len(columns), device=columns.device).unsqueeze(1)] = 1.0
    neurons, listed = {}, {}
    for layer in layers:
        met = gains.reference.new_zeros(int(classes[layer].max()) + 1 if sizes[layer] else 0, len(columns))
        for earlier in [*reached]:
            if (layer, earlier) in patterns:
                row, column = patterns[layer, earlier]
                of_classes = met.new_zeros(len(met), len(reached[earlier]))
                of_classes[classes[layer][row], classes[earlier][column]] = 1.0
                met = met + of_classes @ reached[earlier]
        if bool(met.any()):
            reached[layer] = met.sign()
            group, position = (met.T > 0)[:, classes[layer]].nonzero().unbind(1)
            index, listed[layer] = listed_by(group, len(columns))
            neurons[layer] = torch.where(listed[layer], position[index], 0)
    if not neurons:
        return None
    pairs = [key for key in keys if key[0] in neurons and key[1] in neurons]
    whole = sum(sizes[m] * sizes[k] for k, m in pairs) + _ELEMENT * sum(sizes[layer] for layer in layers)
    products = sum(neurons[m].shape[1] * neurons[k].shape[1] for k, m in pairs)
    windowed = _SMALL_PRODUCT * products + _ELEMENT * sum(index.shape[1] for index in neurons.values())
    if columns.numel() * windowed * rows + len(columns) * _CUT_OUT * products * gains.batch > len(place) * whole * rows:
        return None
    return Windows(columns, members, place, neurons, listed)


def _patterns(gains: Gains, keys: Sequence[Key], most: float) -> dict[Key, tuple[Tensor, Tensor]] | None:
    """Where blocks are not 0 in some region, as rows and columns; None if that is at more than so many places."""
    total = 0.0
    for key in keys:
        block = gains.blocks.kept[key]
        one = block.listed if isinstance(block, RowSparse) else block[0]
        total += float(one.count_nonzero())
    if total > most:  # already in the first region
        return None
    patterns = {}
    for key in keys:
        block = gains.blocks.kept[key]
        if isinstance(block, RowSparse):
            patterns[key] = block.coordinates()
        else:
            row, column = (block != 0).any(0).nonzero().unbind(1)
            patterns[key] = row, column
    return patterns if sum(len(row) for row, _ in patterns.values()) <= most else None


def _classes(end: str, count: int, patterns: Mapping[Key, tuple[Tensor, Tensor]]) -> Tensor:
    """Number neurons, or columns, such that those of equal patterns have the same number: (count,).

    Patterns count as equal if some sums over their elements are equal. What is reached by one of a class, or from it,
    is said of all of them, so a mistake makes windows larger and nothing else.
    """
    marks = []

    def mark(own: Tensor, other: Tensor) -> None:
        for weight in (torch.ones_like(other), *(1 + other * _SPREAD % modulus for modulus in _MODULI)):
            marks.append(own.new_zeros(count).index_add_(0, own, weight))

    for (later, earlier), (row, column) in patterns.items():
        if later == end:
            mark(row, column)
        if earlier == end:
            mark(column, row)
    if not marks:
        return torch.zeros(count, dtype=torch.long, device=next(iter(patterns.values()))[0].device)
    classes: Tensor = torch.stack(marks, 1).unique(dim=0, return_inverse=True)[1]
    return classes


def _groups(classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of one class together: `Windows.columns`, `Windows.members` and `Windows.place`.

    Groups that are much larger than the average are divided, lest all others be filled up to them.
    """
    order, sizes = classes.argsort(stable=True), classes.bincount()
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[classes[order]]
    most = -(-len(order) // len(sizes))
    parts = -(-sizes // most)
    number = (parts.cumsum(0) - parts)[classes[order]] + rank // most
    columns = order.new_full((int(parts.sum()), most), -1)
    columns[number, rank % most] = order
    place = torch.empty_like(order)
    place[order] = number * most + rank % most
    members = columns >= 0
    return torch.where(members, columns, columns[:, :1]), members, place
