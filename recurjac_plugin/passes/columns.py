r"""Columns pushed from a source to the rows, the products with uncertain derivatives replaced layer by layer.

Columns start for all rows together, and become different for each row at the first layer whose replacement is. Those
that meet few neurons, as those of convolutions do, are pushed in groups through their windows
(`recurjac_plugin.gains.windows`).

Axes: n groups, 1 where there are no windows; b regions; k rows; 2 sides; r columns; u neurons of a layer, or of a
window.

Source: Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import Key
from recurjac_plugin.gains.windows import Windows
from recurjac_plugin.numerics.deadline import require_time
from recurjac_plugin.numerics.memory import chunk_size, recomputed


class Replacement(NamedTuple):
    """An upper bound of the products of one layer: ``sum c d y <= sum constants + pushed (y - G_rows) + t_slopes t``.

    ``y - G_rows`` is what lies between the layer and the rows through later layers; the exact rest is in the constants.

    Attributes:
        constants: what is final, to be added to the bound one after the other, each in the bound's shape.
        pushed: coefficients of y, shape (*any, carriers); None where no later layer is reached.
        carriers: positions of the neurons that `pushed` belongs to, in order; None for all of them.
        t_slopes: coefficients of the pre-activations' distances t, shape (b, m, u), one of the m for each element of
            the bound of a region; None if there are none.
    """

    constants: tuple[Tensor, ...]
    pushed: Tensor | None
    carriers: Tensor | None = None
    t_slopes: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Within:
    """The exact part as some columns see it: all of it, or what lies in their windows.

    Attributes:
        layers: those that are met, in topological order.
        blocks: the gains between them, (*lead, u_later, u), with the leading axes of the columns or 1.
        met: which neurons these are, (n, s) by layer; None for all of them.
    """

    layers: Sequence[str]
    blocks: Mapping[Key, Tensor]
    met: Mapping[str, Tensor] | None

    @staticmethod
    def everything(gains: Gains) -> Within:
        """All neurons."""
        between = [key for key in gains.blocks if {*key} <= {*gains.layers}]
        return Within(gains.layers, {key: gains.blocks[key].unsqueeze(0) for key in between}, None)

    @staticmethod
    def windows(gains: Gains, windows: Windows) -> Within:
        """Those in the windows of some groups of columns."""
        layers = [layer for layer in gains.layers if layer in windows.neurons]
        return Within(layers, windows.blocks(gains), windows.neurons)

    def neurons(
        self,
        layer: str,
        value: Tensor,  # shape: (b or 1, k, u)
    ) -> Tensor:
        """Numbers of the neurons that are met: as they are, or (n, b or 1, k, s)."""
        return value if self.met is None else windowed(value, self.met[layer])


def push_columns(
    within: Within,
    columns: dict[str, Tensor],  # layer -> (*any, u); consumed
    exact: Tensor,  # shape: (*any)
    replace_products: Callable[[str, Tensor], Replacement],
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Upper bounds of ``exact + sum over layers of columns d y``, the products replaced layer by layer.

    With the columns ``c_l`` that arrive at layer l and what replaces its products there,

    .. math:: c_l = \text{columns}_l + \sum_{m < l} \text{pushed}_m G_{l,m}^T, \qquad
        \text{bound} = \text{exact} + \sum_l \text{constants}_l + \sum_l \text{t\_slopes}_l t_l .

    Source: RecurJac, arXiv:1810.11783, Algorithm 1, on gains; the slopes in t are own.

    Args:
        within: the exact part.
        columns: coefficients with which columns arrive at the layers from their source.
        exact: what they meet at the rows without passing a layer.
        replace_products: ``(layer, all coefficients that arrive there) -> Replacement``.

    Returns:
        The bound without its last sum, shaped like `exact`, and the slopes in t by layer.
    """
    total = exact
    t_slopes: dict[str, Tensor] = {}
    for position, layer in enumerate(within.layers):
        c = columns.pop(layer, None)
        if c is None:
            continue
        replacement = replace_products(layer, c)
        for constant in replacement.constants:
            total = total + constant
        if replacement.t_slopes is not None:
            t_slopes[layer] = replacement.t_slopes
        if replacement.pushed is None:
            continue
        for later in within.layers[position + 1 :]:
            if (later, layer) in within.blocks:
                step = _propagated(replacement.pushed, within.blocks[later, layer], replacement.carriers)
                columns[later] = columns[later] + step if later in columns else step
    return total, t_slopes


def _propagated(
    pushed: Tensor,  # shape: (*lead, *any, carriers)
    block: Tensor,  # shape: (*lead, u_later, u); 1 where it is the same for all
    carriers: Tensor | None,  # shape: (carriers,)
) -> Tensor:
    """Columns arriving at a later layer: (*lead, *any, u_later)."""
    if carriers is not None and len(carriers) < block.shape[-1]:
        block = block.index_select(block.dim() - 1, carriers)
    while block.dim() > 2 and block.shape[-3] == 1:  # one product instead of many where the matrix is the same
        block = block.squeeze(-3)
    flat = pushed.flatten(block.dim() - 2, -2)
    return (flat @ block.mT).reshape(*pushed.shape[:-1], -1)


def windowed(
    value: Tensor,  # shape: (b or 1, k, u)
    neurons: Tensor,  # shape: (n, s)
) -> Tensor:
    """What each window holds: (n, b or 1, k, s)."""
    return value[:, :, neurons].movedim(2, 0)


def for_columns(value: Tensor) -> Tensor:
    """Something of shape (b, k, u), or (n, b, k, u), for all sides and columns: (..., k, 1, 1, u)."""
    return value[..., None, None, :]


def contracted(
    c: Tensor,  # shape: (n, b or 1, k or 1, side, r, u)
    weights: Tensor,  # shape: (b, k, u), or (n, b, k, u)
) -> Tensor:
    """``sum_j c_j weights_j`` for every row: (n, b, k, side, r)."""
    side, count = c.shape[3:5]
    if c.shape[2] > 1 or weights.shape[-2] == 1:
        return (c.flatten(3, 4) @ weights.unsqueeze(-1)).reshape(*c.shape[:1], *weights.shape[-3:-1], side, count)
    # The columns are still the same for all rows: products of (k, u) and (u, columns), one if they are for all regions.
    flat = c[:, :, 0].flatten(2, 3)
    one = len(flat) == 1 and flat.shape[1] == 1
    product = weights.flatten(0, -2) @ flat[0, 0].mT if one else weights @ flat.mT
    return product.reshape(len(c), *weights.shape[-3:-1], side, count)


def chunked(
    function: Callable[[slice], Tensor], count: int, elements: int, memory_budget: int, layers: int, like: Tensor
) -> Iterator[Tensor]:
    """Apply a function to chunks of columns, or of groups of them, that fit into a budget.

    Args:
        function: of a chunk.
        count: how many columns or groups there are.
        elements: of all tensors that one takes.
        memory_budget: bytes for one chunk, and for all that autograd keeps of this call and one for each of the layers.
        layers: how many more calls there are.
        like: a tensor of the dtype and device.
    """
    of_chunk = recomputed(function, count * elements * like.element_size(), memory_budget // (layers + 1))
    size = chunk_size(memory_budget, elements, like)
    for start in range(0, count, size):
        require_time()
        yield of_chunk(slice(start, start + size))
