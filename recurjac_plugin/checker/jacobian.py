r"""Claims about Jacobians: bounds of every entry on a box, shown on the parts of the box.

Claimed is, for a network f in real arithmetic and a box, that for all inputs x, x' of the box that differ in coordinate
r alone, with ``x_r > x'_r``,

.. math:: L_{kr} (x_r - x'_r) \le f_k(x) - f_k(x') \le U_{kr} (x_r - x'_r) .

So wherever f has a partial derivative inside the box, it lies between L and U. The boxes of the tree cover the whole
box. A line between x and x' is cut into pieces by them, on each of which the bounds hold.

Source: as `bounds`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recurjac_plugin.errors import counted

from .bounds import Bounds, Ends, gradient_bounds
from .document import (
    Cut,
    Rejected,
    as_cut,
    as_float,
    as_hex,
    as_list,
    cut_text,
    dumped,
    head_of,
    malformed_is_rejected,
    require_entries,
)
from .network import Network


@dataclass(frozen=True, eq=False)
class JacobianTree:
    """Bounds of a Jacobian on one box, with the proof.

    Attributes:
        lower: of the box, float64 (columns,).
        upper: likewise.
        bounds: lower and upper bounds of the entries, float64 (k, columns) each.
        cuts: of each node how its box is cut; None where the bounds are shown on it.
    """

    lower: np.ndarray
    upper: np.ndarray
    bounds: Ends
    cuts: list[Cut | None]


@dataclass(frozen=True, eq=False)
class JacobianClaims:
    """Bounds of the Jacobian of a network on several boxes.

    Attributes:
        network: SHA-256 of the network's file, not compressed.
        trees: one for every box.
        producer: what wrote them.
    """

    network: str
    trees: tuple[JacobianTree, ...]
    producer: str

    def dumped(self) -> bytes:
        """As a file: one node a line."""
        regions = []
        for tree in self.trees:
            box = {"lower": as_hex(tree.lower), "upper": as_hex(tree.upper)}
            jacobian = {name: [as_hex(row) for row in end] for name, end in zip(("lower", "upper"), tree.bounds)}
            nodes = ",\n".join(json.dumps({} if cut is None else {"cut": cut_text(cut)}) for cut in tree.cuts)
            regions.append(f'{json.dumps({**box, "jacobian": jacobian})[:-1]}, "nodes": [\n{nodes}\n]}}')
        return dumped("jacobian", self.producer, {"network": self.network}, regions)


def load_claims(content: bytes) -> JacobianClaims:
    """The claims that a file holds.

    Args:
        content: of the file, not compressed.

    Raises:
        Rejected: it is malformed.
    """
    with malformed_is_rejected():
        values, (network,) = head_of(content, "jacobian", "network")
        trees = []
        for region in as_list(values["regions"]):
            require_entries(region, "lower", "upper", "jacobian", "nodes")
            require_entries(region["jacobian"], "lower", "upper")
            ends = [np.array([*map(as_float, as_list(region[end]))]) for end in ("lower", "upper")]
            bounds = [
                np.array([[*map(as_float, as_list(row))] for row in as_list(region["jacobian"][end])])
                for end in ("lower", "upper")
            ]
            cuts: list[Cut | None] = []
            for node in as_list(region["nodes"]):
                require_entries(node, optional=("cut",))
                cuts.append(as_cut(node["cut"]) if "cut" in node else None)
            trees.append(JacobianTree(ends[0], ends[1], (bounds[0], bounds[1]), cuts))
        return JacobianClaims(network, tuple(trees), str(values["producer"]))


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the box.

    Attributes:
        node: number of its node.
        low: lower ends, (columns,).
        high: upper ends.
        known: bounds of vectors that hold on a larger box, by number, (size,) each.
        bounds: bounds of the entries that hold on a larger box, (k, columns) each; None for the whole.
    """

    node: int
    low: np.ndarray
    high: np.ndarray
    known: Mapping[int, Ends]
    bounds: Ends | None = None

    def bounded(self, network: Network) -> Part:
        """The part with bounds of the entries on it."""
        known = {v: (low[None], high[None]) for v, (low, high) in self.known.items()}
        bounds = Bounds(network, self.low[None], self.high[None], known)
        rows = np.arange(network.vectors[-1].size)
        low, high = gradient_bounds(bounds, np.zeros_like(rows), rows)
        if self.bounds is not None:
            low, high = np.maximum(low, self.bounds[0]), np.minimum(high, self.bounds[1])
        read = {v: (below[0], above[0]) for v, (below, above) in bounds.read.items()}
        return Part(self.node, self.low, self.high, read, (low, high))

    def halves(self, cut: Cut) -> list[Part]:
        """Both parts of this one."""
        high, low = self.high.copy(), self.low.copy()
        high[cut.axis] = low[cut.axis] = cut.value
        return [
            Part(cut.below, self.low, high, self.known, self.bounds),
            Part(cut.above, low, self.high, self.known, self.bounds),
        ]


def prove_bounds(network: Network, tree: JacobianTree) -> int:
    """Check the bounds of a Jacobian on one box.

    Args:
        network: from the inputs to the outputs.
        tree: the bounds, and how they are shown.

    Returns:
        The number of parts.

    Raises:
        Rejected: they are not shown, or something is left out.
    """
    columns, k = network.vectors[0].size, network.vectors[-1].size
    sizes = [each.shape for each in (tree.lower, tree.upper, *tree.bounds)]
    if sizes != [(columns,), (columns,), (k, columns), (k, columns)] or not tree.cuts:
        raise Rejected(
            f"it has bounds of another size than that of {counted(k, 'output')} by {counted(columns, 'input')}, or no "
            "proof"
        )
    if not (tree.lower <= tree.upper).all():
        raise Rejected("it is about a box without points")
    reached = np.zeros(len(tree.cuts), dtype=bool)
    reached[0] = True
    waiting = [Part(0, tree.lower, tree.upper, {})]
    while waiting:
        part = waiting.pop().bounded(network)
        cut = tree.cuts[part.node]
        if cut is None:
            assert part.bounds is not None
            if not ((part.bounds[0] >= tree.bounds[0]).all() and (part.bounds[1] <= tree.bounds[1]).all()):
                raise Rejected(f"the box of node {part.node} is not shown to have these bounds")
            continue
        if cut.axis >= columns or not part.low[cut.axis] <= cut.value <= part.high[cut.axis]:
            raise Rejected(f"the box of node {part.node} does not have {cut.value!r} in input {cut.axis}")
        for half in part.halves(cut):
            if not 0 < half.node < len(reached) or reached[half.node]:
                raise Rejected(f"node {half.node} is not there, or is used twice")
            reached[half.node] = True
            waiting.append(half)
    if not reached.all():
        raise Rejected(f"node {int((~reached).argmax())} belongs to no box")
    return len(tree.cuts)
