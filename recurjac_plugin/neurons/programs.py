r"""Whether anything lies in a part, by a linear program; what it says is proven apart from it.

The variables are the distances t of the inputs from the centre, the pre-activations z and the changes b of the
activations of all undetermined neurons, and the room s that the part leaves. With left and right the slopes of a
neuron's two pieces, and lower and upper its interval,

.. math:: z = z_0 + G_\text{input} t + G b, \qquad b \ge \text{left} \, z - a_0, \quad b \ge \text{right} \, z - a_0,
    \quad b \le \text{chord}(z), \qquad \pm z_j \ge \text{width}_j \, s \; \text{where j is kept on a side},

(the first two ``<=``, the chord ``>=`` where right < left), s is made as large as it can be. Where that is below 0
nothing lies in the part. What proves it are the multipliers alone: with the program ``max s`` over ``A v <= b``,
``E v = e`` and v in a box, for any ``y >= 0`` and any w

.. math:: s \le y^T b + w^T e + \sum_i \max_{v_i} \big( c - A^T y - E^T w \big)_i v_i,

evaluated here with room for its rounding; b and e leave room for the errors of z. Where something lies in the part,
the t of the solution is a point deep inside, of the relaxation at least, and often of the network.

Source: the relaxation is that of Ehlers, ATVA 2017, arXiv:1705.01320; the bound that of Neumaier and Shcherbina, Safe
bounds in linear and mixed-integer linear programming, Mathematical Programming 99, 2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from recurjac_plugin.extras import need
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.numerics.rounding import gamma, underflow

from .optimised import Sums
from .parts import Parts
from .reduced import Reduced

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What a program found out about a part.

    Attributes:
        empty: whether it is proven that nothing lies in it.
        point: distances of a point from the centre, (columns,); None if there is none.
    """

    empty: bool
    point: Numbers | None


class Programs:
    """The programs of all parts of a region, which have most of their numbers in common.

    Args:
        reduced: the network, all neurons of which have two linear pieces.
        cuts: sums that are at most 0 in what is asked about; None for none.

    Raises:
        ExtraError: scipy is not installed.
    """

    def __init__(self, reduced: Reduced, cuts: Sums | None = None) -> None:
        need("scipy")
        from scipy.sparse import csr_matrix

        self.layers, gains = reduced.layers, reduced.gains
        neurons = [reduced.neurons[layer] for layer in self.layers]
        sizes = [gains.count(layer) for layer in self.layers]
        self.count, self.columns = sum(sizes), gains.columns

        def joined(values: list[torch.Tensor]) -> Numbers:
            return np.concatenate([numbers(value[0]) for value in values]) if values else np.zeros(0)

        self.center, self.error = joined([each.center for each in neurons]), joined([each.error for each in neurons])
        self.lower, self.upper = joined([each.lower for each in neurons]), joined([each.upper for each in neurons])
        self.left = joined([each.left for each in neurons if each.left is not None])
        self.right = joined([each.right for each in neurons if each.right is not None])
        self.at_center = np.where(self.center >= 0, self.right, self.left) * self.center
        steepest = np.maximum(np.abs(self.left), np.abs(self.right))
        size = np.maximum(np.abs(self.lower), np.abs(self.upper)) + np.abs(self.center)
        self.room = 2 * steepest * self.error + gamma(128) * np.maximum(steepest, 1) * size + underflow(128)
        self.most = steepest * size * 2 + self.room  # of b
        later = [
            np.hstack([numbers(gains.block(layer, INPUT)[0])]
                      + [numbers(gains.block(layer, m)[0]) if i < j else np.zeros((sizes[j], sizes[i]))
                         for i, m in enumerate(self.layers)])
            for j, layer in enumerate(self.layers)
        ]  # fmt: skip
        gain = np.vstack(later) if later else np.zeros((0, self.columns))
        parts = (-gain[:, : self.columns], np.eye(self.count), -gain[:, self.columns :], np.zeros((self.count, 1)))
        self.equations = csr_matrix(np.hstack(parts))
        self.cuts = (np.zeros((0, self.columns + self.count)), np.zeros(0))
        if cuts is not None:
            widths = (self.columns, *sizes)
            on = [cuts.on_activations.get(end) for end in (INPUT, *self.layers)]
            terms = [np.zeros((len(cuts), width)) if a is None else numbers(a) for a, width in zip(on, widths)]
            self.cuts = np.hstack(terms), numbers(cuts.error - cuts.center)

    def solve(
        self,
        lower: Numbers,  # shape: (count,)
        upper: Numbers,  # shape: (count,)
        box: tuple[Numbers, Numbers],  # shape: (columns,)
    ) -> Answer:
        """Whether anything lies in a part, and where.

        Args:
            lower: lower bounds of z of all neurons, layer after layer.
            upper: upper bounds.
            box: how far the inputs can be from the centre, below and above.
        """
        from scipy.optimize import linprog

        A, b = self._inequalities(lower, upper, box)
        kept = (lower >= 0) | (upper <= 0)
        # What is kept on a side may leave it by as much as the room is below 0: the interval is the region's there.
        low, high = np.where(kept, self.lower, lower), np.where(kept, self.upper, upper)
        n, columns = self.count, self.columns
        e = self.center
        c = np.zeros(columns + 2 * n + 1)
        c[-1] = 1.0
        v_low = np.concatenate([box[0], low - self.error, -self.most, [-1.0]])
        v_high = np.concatenate([box[1], high + self.error, self.most, [1.0]])
        # z is what the gains give, which the neuron's own is off from by its error at most.
        result = linprog(-c, A, b, self.equations, e, np.stack([v_low, v_high], 1), method="highs")
        if result.status == 2 or result.x is None:
            return Answer(False, None)
        y, w = np.maximum(-result.ineqlin.marginals, 0.0), -result.eqlin.marginals
        largest = self._safe_bound(c, (A, b), (self.equations, e), (v_low, v_high), y, w)
        return Answer(bool(largest < 0), None if largest < 0 else np.asarray(result.x[:columns]))

    def _inequalities(self, lower: Numbers, upper: Numbers, box: tuple[Numbers, Numbers]) -> tuple[csr_matrix, Numbers]:
        """What the variables of a part satisfy besides their equations: ``A v <= b``."""
        from scipy.sparse import csr_matrix, vstack

        n, columns = self.count, self.columns
        above, below = lower >= 0, upper <= 0
        kept = np.flatnonzero(above | below)
        side = np.where(above, 1.0, -1.0)[kept]
        width = np.maximum(self.upper - self.lower, np.finfo(float).tiny)
        inside = ~(above | below)
        span = np.where(inside, upper - lower, 1.0)
        chord = np.where(
            inside, (self.right * upper - self.left * lower) / span, np.where(above, self.right, self.left)
        )
        height = np.where(inside, (self.left - self.right) * lower * (upper / span), 0.0)
        convex = np.where(self.left <= self.right, 1.0, -1.0)
        pieces = [np.where(inside, slope, chord) for slope in (self.left, self.right)]  # of a kept one its own alone
        # sign (slope z + constant - a0 - b) <= room, three for each neuron, and width s <= +-z of those kept
        slopes = np.concatenate([convex * pieces[0], convex * pieces[1], -convex * chord])
        ofb = np.concatenate([-convex, -convex, convex])
        b = np.concatenate([*[convex * self.at_center + self.room] * 2, convex * (height - self.at_center) + self.room])
        b = np.concatenate([b, self.error[kept]])
        every, last = np.arange(3 * n), 3 * n + np.arange(len(kept))
        neuron = np.tile(np.arange(n), 3)
        A = csr_matrix(
            (
                np.concatenate([slopes, ofb, -side, width[kept]]),
                (
                    np.concatenate([every, every, last, last]),
                    np.concatenate(
                        [columns + neuron, columns + n + neuron, columns + kept, 0 * kept + columns + 2 * n]
                    ),
                ),
            ),
            shape=(3 * n + len(kept), columns + 2 * n + 1),
        )
        matrix, ends = self.cuts
        if len(ends):  # with as much room as makes the program feasible, whatever the part
            farthest = np.concatenate([np.maximum(np.abs(box[0]), np.abs(box[1])), self.most])
            terms = (np.abs(matrix) @ farthest + np.abs(ends) + np.finfo(float).tiny)[:, None]
            none = np.zeros((len(ends), n))
            A = vstack([A, csr_matrix(np.hstack([matrix[:, :columns], none, matrix[:, columns:], terms]))]).tocsr()
            b = np.concatenate([b, ends])
        return A, b

    @staticmethod
    def _safe_bound(
        c: Numbers,
        inequalities: tuple[csr_matrix, Numbers],
        equations: tuple[csr_matrix, Numbers],
        box: tuple[Numbers, Numbers],
        y: Numbers,
        w: Numbers,
    ) -> float:
        """An upper bound of ``c v``, whatever y >= 0 and w are."""
        (A, b), (E, e), (low, high) = inequalities, equations, box
        rest = c - A.T @ y - E.T @ w
        bound = y @ b + w @ e + np.maximum(rest * low, rest * high).sum()
        farthest = np.maximum(np.abs(low), np.abs(high))
        sizes = np.abs(c) + abs(A).T @ y + abs(E).T @ np.abs(w)
        size = y @ np.abs(b) + np.abs(w) @ np.abs(e) + sizes @ farthest
        return float(bound + gamma(4 * (len(c) + len(b) + len(e)) + 64) * size + underflow(len(c) + len(b)))


def numbers(values: torch.Tensor) -> Numbers:
    """What a program is made of: programs are solved on the processor, wherever the network lies."""
    return values.cpu().numpy()


def joined_intervals(parts: Parts, layers: tuple[str, ...]) -> tuple[Numbers, Numbers]:
    """The intervals of all neurons of parts, layer after layer: (n, count) each."""
    ends = ([end[layer] for layer in layers] for end in (parts.lower, parts.upper))
    lower, upper = (numbers(torch.cat(each, 1)) if each else np.zeros((len(parts), 0)) for each in ends)
    return lower, upper
