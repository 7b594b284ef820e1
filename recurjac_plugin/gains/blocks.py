r"""How blocks of gains are kept: as matrices, or row by row without their zeros where hardly anything else is in them.

A neuron of a convolution depends on a few of the neurons before it. Of a large block of such neurons only these gains
are kept: ``values_ij`` is the gain with respect to neuron ``index_ij``. Everyone can have the matrix (`Blocks`), which
is made anew every time; `windows` cuts what it needs out of the lists.

Source: own; the lists are the ELLPACK format of sparse matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .pull import Key

# Blocks with fewer elements are kept as they are, and so are those of which a row has more than this part.
_LARGE = 2**20
_SPARSE = 0.125


@dataclass(frozen=True, eq=False)
class RowSparse:
    """A block (b or 1, u, columns) whose rows have few elements that are not 0.

    Attributes:
        index: where the elements of a row stand, shape (u, w); what fills up a list stands at 0.
        listed: which of them are there, shape (u, w).
        values: shape (b or 1, u, w), 0 where a list is filled up.
        columns: how many there are.
    """

    index: Tensor
    listed: Tensor
    values: Tensor
    columns: int

    def dense(self) -> Tensor:
        """The block as matrices, (b or 1, u, columns)."""
        zero = self.values.new_zeros(*self.values.shape[:2], self.columns)
        return zero.scatter_add(2, self.index.expand_as(self.values), self.values)

    def part(self, regions: Tensor) -> RowSparse:
        """The block in some regions."""
        return replace(self, values=self.values[regions]) if len(self.values) > 1 else self

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of all elements that may not be 0."""
        rows = torch.arange(len(self.index), device=self.index.device).unsqueeze(1).expand_as(self.index)
        return rows[self.listed], self.index[self.listed]

    def transposed(self) -> RowSparse:
        """The block with rows and columns exchanged, in lists of its own."""
        rows, columns = self.coordinates()
        order = columns.argsort(stable=True)
        place = self.listed.flatten().nonzero().squeeze(1)[order]  # among ``values.flatten(1)``
        index, listed = listed_by(columns[order], self.columns)
        taken = place[index]
        values = self.values.flatten(1)[:, taken] * listed
        return RowSparse(torch.where(listed, rows[order][index], 0), listed, values, len(self.index))

    def cut_out(
        self,
        rows: Tensor,  # shape: (n, s)
        columns: Tensor,  # shape: (n, r)
        listed: Tensor,  # shape: (n, r)
    ) -> Tensor:
        """``block[:, rows, columns]`` for every group, 0 in columns that are not listed: (n, b or 1, s, r)."""
        count, nowhere = columns.shape[1], self.columns
        place = columns.new_full((len(columns), nowhere + 1), count)
        place.scatter_(
            1, torch.where(listed, columns, nowhere), torch.arange(count, device=columns.device).expand_as(columns)
        )
        met = place.gather(1, self.index[rows].flatten(1)).reshape(*rows.shape, -1)
        values = self.values[:, rows].transpose(0, 1)
        zero = values.new_zeros(*values.shape[:3], count + 1)
        return zero.scatter_add(3, met.unsqueeze(1).expand_as(values), values)[..., :count]


def listed_by(
    row: Tensor,  # shape: (m,), ascending
    count: int,
) -> tuple[Tensor, Tensor]:
    """Where in `row` each of `count` numbers stands, filled up with 0, and what is no filling: (count, w) each."""
    sizes = row.bincount(minlength=count)
    rank = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]
    index = row.new_zeros(count, int(sizes.max()) if len(row) else 0)
    index[row, rank] = torch.arange(len(row), device=row.device)
    return index, torch.arange(index.shape[1], device=row.device) < sizes.unsqueeze(1)


def compressed(block: Tensor, rows: int) -> Tensor | RowSparse:
    """Some rows of a block without their zeros, if the block is large and they have few other elements.

    Args:
        block: these rows, (b or 1, r, columns).
        rows: how many the block has in all.
    """
    columns = block.shape[2]
    if rows * columns < _LARGE:
        return block
    there = (block.detach() != 0).any(0)
    if int(there.sum(1).max()) > _SPARSE * columns:
        return block
    row, column = there.nonzero().unbind(1)
    index, listed = listed_by(row, len(there))
    index = torch.where(listed, column[index] if len(column) else index, 0)
    return RowSparse(index, listed, block.gather(2, index.expand(len(block), -1, -1)) * listed, columns)


def joined(parts: Sequence[Tensor | RowSparse]) -> Tensor | RowSparse:
    """Rows of a block one after the other; without their zeros if all parts are."""
    sparse = [part for part in parts if isinstance(part, RowSparse)]
    if len(sparse) < len(parts):
        return torch.cat([part.dense() if isinstance(part, RowSparse) else part for part in parts], 1)
    most = max(part.index.shape[1] for part in sparse)

    def filled(value: Tensor) -> Tensor:
        return torch.nn.functional.pad(value, (0, most - value.shape[-1]))

    return RowSparse(
        torch.cat([filled(part.index) for part in sparse]),
        torch.cat([filled(part.listed) for part in sparse]),
        torch.cat([filled(part.values) for part in sparse], 1),
        sparse[0].columns,
    )


class Blocks(Mapping[Key, Tensor]):
    """Blocks by their ends, each as matrices (b or 1, u_later, u_earlier), however it is kept.

    Attributes:
        kept: how they are kept.
    """

    def __init__(self, kept: Mapping[Key, Tensor | RowSparse]) -> None:
        self.kept = dict(kept)

    def __getitem__(self, key: Key) -> Tensor:
        block = self.kept[key]
        return block.dense() if isinstance(block, RowSparse) else block

    def __iter__(self) -> Iterator[Key]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __contains__(self, key: object) -> bool:
        return key in self.kept

    def mapped(
        self,
        matrices: Callable[[Tensor, Key], Tensor],
        lists: Callable[[RowSparse], RowSparse],
        renamed: Callable[[Key], Key] = lambda key: key,
    ) -> Blocks:
        """A function of every block, one for either way it is kept; and of every key."""
        return Blocks(
            {
                renamed(key): lists(block) if isinstance(block, RowSparse) else matrices(block, key)
                for key, block in self.kept.items()
            }
        )
