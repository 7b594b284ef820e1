r"""Bounds of a network on boxes that hold in real arithmetic, whatever float64 rounds.

Element by element, a function with a kink lies between two lines on an interval. From a vector back to the input, a
lower bound :math:`\lambda h + t - e` of a row is replaced by one in terms of earlier vectors: of an affine vector by
its matrix, of a kink by the line below where :math:`\lambda \ge 0` and the line above where :math:`\lambda < 0`.

The coefficients that float64 computes are *taken as they are*. What they miss is small times what they are multiplied
with: with :math:`|h_s| \le H_s`, the step from :math:`\lambda` to :math:`\lambda W` adds

.. math:: |\lambda| \big(\gamma (|W| H_s + |c|) + R H_s + r\big)

to the error e, where R and r are the radii of W and c. That is one product with a vector, not with a matrix.

Of the adjoint network the same substitution bounds the gradient: a product ``d y`` lies below ``max(dl y, du y)`` and
above ``min(dl y, du y)``, functions of y with a kink at 0.

Source: Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2; on the adjoint network
Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, Algorithm 1, with chords. The error term is this package's
own, with gamma from Higham: Accuracy and Stability of Numerical Algorithms, 2002.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .network import Affine, Input, Kinks, Network
from .rounding import GROWTH, TINY, UNIT, above, below, gamma

NEAREST = "nearest"
CHOICES = (NEAREST, "positive", "negative")
"""Which side of a kink a line takes where both would do: the one nearer to the function, or always the same."""

_ELEMENTS = 1 << 22  # coefficients that are worked on at once
Ends = tuple[np.ndarray, np.ndarray]


class Slopes(NamedTuple):
    """Two functions with a kink at 0, one above and one below: their slopes on both sides, each (n, size) or (size,).

    Attributes:
        above_negative: of the upper one, below 0.
        above_positive: of the upper one, from 0 on.
        below_negative: of the lower one, below 0.
        below_positive: of the lower one, from 0 on.
    """

    above_negative: np.ndarray
    above_positive: np.ndarray
    below_negative: np.ndarray
    below_positive: np.ndarray

    @property
    def bent(self) -> np.ndarray:
        """Where either has a kink, or both differ."""
        return (
            (self.above_negative != self.above_positive)
            | (self.below_negative != self.below_positive)
            | (self.above_negative != self.below_negative)
        )


@dataclass(frozen=True, eq=False)
class Form:
    """Lower bounds ``coefficients x + offset - error`` of m rows on each of n boxes.

    Attributes:
        coefficients: (n, m, columns).
        offset: (n, m).
        error: at least 0, (n, m).
    """

    coefficients: np.ndarray
    offset: np.ndarray
    error: np.ndarray

    def least(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower bounds on the boxes ``low <= x <= high``, (n, columns) each, and the room for rounding in them, (n, m).

        The boxes must lie in those that the form is for.
        """
        with np.errstate(all="ignore"):
            positive, negative = np.maximum(self.coefficients, 0.0), np.minimum(self.coefficients, 0.0)
            value = _dot(positive, low) + _dot(negative, high) + self.offset
            sizes = _dot(positive, np.abs(low)) - _dot(negative, np.abs(high)) + np.abs(self.offset)
            room = GROWTH * (self.error + gamma(2 * low.shape[1] + 4) * sizes) + TINY
            return below(value - room), room

    def part(self, i: int) -> Form:
        """That of box i alone."""
        return Form(self.coefficients[i : i + 1], self.offset[i : i + 1], self.error[i : i + 1])


def line_above(
    negative: np.ndarray, positive: np.ndarray, low: np.ndarray, high: np.ndarray, choice: str = NEAREST
) -> Ends:
    """Slope and offset of a line above ``negative z`` (z < 0), ``positive z`` (z >= 0) on ``low <= z <= high``.

    Where the function is bent upwards it is the chord, with any slope near it: the offset is the largest that either
    end needs, rounded up. Where it is bent downwards it is one of its two sides, as `choice` says.
    """
    chord = (positive * high - negative * low) / (high - low)
    farther = high > -low if choice == NEAREST else np.full(low.shape, choice == "positive")
    side = np.where(farther, positive, negative)
    convex = negative <= positive
    slope = np.where(convex, chord, side)
    offset = np.maximum(np.maximum((negative - slope) * low, (positive - slope) * high), 0.0)
    offset = np.where(convex, offset * (1.0 + 8.0 * UNIT) + TINY, 0.0)
    one_sided = (low >= 0) | (high <= 0)
    slope = np.where(low >= 0, positive, np.where(high <= 0, negative, slope))
    return slope, np.where(one_sided, 0.0, offset)


class Bounds:
    """Bounds of every vector of a network on n boxes.

    Args:
        network: the network.
        low: lower ends of the boxes, (n, columns).
        high: their upper ends.
        known: bounds of vectors that are known already, by number, (n, size) each.
        slopes: of the `Kinks` whose slopes are not those of the network, by number.

    Attributes:
        low: lower bounds of every vector, (n, size) each.
        high: their upper bounds.

    Source:
        As this module's.
    """

    def __init__(
        self,
        network: Network,
        low: np.ndarray,
        high: np.ndarray,
        known: Mapping[int, Ends] | None = None,
        slopes: Mapping[int, Slopes] | None = None,
    ) -> None:
        self.network, self.low, self.high = network, [low], [high]
        self._largest = [np.maximum(np.abs(low), np.abs(high))]
        self._lines: dict[tuple[int, str], tuple[np.ndarray, ...]] = {}
        self._errors: dict[int, np.ndarray] = {}  # of a row's step over an affine vector, per coefficient
        self._doubts: dict[int, np.ndarray] = {}
        self._known = known or {}
        self._slopes = self._all_slopes(slopes or {})
        with np.errstate(all="ignore"):  # what overflows proves nothing
            for v, vector in enumerate(network.vectors):
                if isinstance(vector, Affine):
                    self._add(v, *self._affine(v, vector))
                elif isinstance(vector, Kinks):
                    self._refine_for(v, vector.source)
                    self._add(v, *self._kinks(v, vector.source))

    @property
    def read(self) -> dict[int, Ends]:
        """Bounds of the vectors that have kinks, by number, (n, size) each."""
        sources = {vector.source for vector in self.network.vectors if isinstance(vector, Kinks)}
        return {v: (self.low[v], self.high[v]) for v in sorted(sources)}

    def ratios(self, v: int) -> Ends:
        """Between which numbers the ratio of output and input differences of the kinks v lies, (n, size) each."""
        kinks = self.network.vectors[v]
        assert isinstance(kinks, Kinks)
        low, high = self.low[kinks.source], self.high[kinks.source]
        least, most = np.minimum(kinks.negative, kinks.positive), np.maximum(kinks.negative, kinks.positive)
        ends = []
        for bent in (least, most):
            ends.append(np.where(low >= 0, kinks.positive, np.where(high <= 0, kinks.negative, bent)))
        return ends[0], ends[1]

    def output_form(self) -> Form:
        """Lower bounds of the last vector's elements in terms of the input: for each the best of `CHOICES`."""
        last = len(self.network.vectors) - 1
        n, size = self.low[last].shape
        index = np.broadcast_to(np.arange(size), (n, size))
        with np.errstate(all="ignore"):
            forms = [self._form(last, index, (1.0,), choice) for choice in CHOICES]
        least = np.stack([form.least(self.low[0], self.high[0])[0] for form in forms])
        best = np.where(np.isnan(least), -np.inf, least).argmax(0)[None]
        parts = [np.stack([getattr(form, name) for form in forms]) for name in ("coefficients", "offset", "error")]
        return Form(*(np.take_along_axis(each, best[(...,) + (None,) * (each.ndim - 3)], 0)[0] for each in parts))

    def refined(self) -> Ends:
        """Bounds of the last vector by substitution, (n, size) each."""
        last = len(self.network.vectors) - 1
        with np.errstate(all="ignore"):
            self._refine(last, np.ones(self.low[last].shape, bool))
        return self.low[last], self.high[last]

    def _all_slopes(self, given: Mapping[int, Slopes]) -> dict[int, Slopes]:
        slopes = dict(given)
        for v, vector in enumerate(self.network.vectors):
            if isinstance(vector, Kinks) and v not in given:
                slopes[v] = Slopes(vector.negative, vector.positive, vector.negative, vector.positive)
        return slopes

    def _add(self, v: int, low: np.ndarray, high: np.ndarray) -> None:
        if v in self._known:
            low, high = np.maximum(low, self._known[v][0]), np.minimum(high, self._known[v][1])
        self.low.append(low)
        self.high.append(high)
        self._largest.append(np.maximum(np.abs(low), np.abs(high)))

    def _affine(self, v: int, vector: Affine) -> Ends:
        """Interval arithmetic; and the errors of rows that step over this vector."""
        n = len(self.low[0])
        low = high = np.broadcast_to(vector.bias, (n, vector.size))
        sizes, doubts = np.abs(low), np.broadcast_to(vector.radius, (n, vector.size))
        operations, largest = 4 + vector.size, np.ones((n, 1))
        for source, map_ in vector.terms:
            ends = map_.ends(self.low[source], self.high[source])
            low, high = low + ends[0], high + ends[1]
            sizes = sizes + map_.sizes(self._largest[source])
            doubts = doubts + map_.doubts(self._largest[source])
            operations += map_.operations
            largest = largest + self._largest[source].sum(1, keepdims=True)
        self._doubts[v] = doubts
        self._errors[v] = error = GROWTH * (gamma(operations) * sizes + doubts) + TINY * largest
        return below(low - error), above(high + error)

    def _kinks(self, v: int, source: int) -> Ends:
        """The range of the two functions with a kink; and the lines around them."""
        slopes, low, high = self._slopes[v], self.low[source], self.high[source]
        for choice in CHOICES:
            slope, offset = line_above(-slopes.below_negative, -slopes.below_positive, low, high, choice)
            line = line_above(slopes.above_negative, slopes.above_positive, low, high, choice)
            self._lines[v, choice] = (-slope, -offset, *line)
        crossing = ~((low >= 0) | (high <= 0))
        ends = []
        for sign, negative, positive in (
            (-1.0, slopes.below_negative, slopes.below_positive),
            (1.0, slopes.above_negative, slopes.above_positive),
        ):
            most = sign * np.where(low < 0, negative, positive) * low
            most = np.maximum(most, sign * np.where(high > 0, positive, negative) * high)
            ends.append(sign * above(np.where(crossing, np.maximum(most, 0.0), most)))
        return ends[0], ends[1]

    def _refine_for(self, v: int, source: int) -> None:
        """Better bounds of what kinks read, where it matters."""
        low, high = self.low[source], self.high[source]
        self._refine(source, ~((low >= 0) | (high <= 0)) & self._slopes[v].bent)

    def _refine(self, v: int, wanted: np.ndarray) -> None:
        """Better bounds of some elements of a vector by substitution; wanted: bool (n, size)."""
        most = int(wanted.sum(1).max(initial=0))
        if not most or isinstance(self.network.vectors[v], Input):
            return
        # Lists of different lengths are filled up with other elements, whose bounds are as good.
        chosen = np.argsort(~wanted, axis=1, kind="stable")[:, :most]
        low, high = self.low[v].copy(), self.high[v].copy()
        width = max(vector.size for vector in self.network.vectors)
        step = max(1, _ELEMENTS // (2 * len(low) * width))
        for start in range(0, most, step):
            index = chosen[:, start : start + step]
            least, _ = self._form(v, index, (1.0, -1.0)).least(self.low[0], self.high[0])
            lower, upper = least[:, : index.shape[1]], -least[:, index.shape[1] :]
            np.put_along_axis(low, index, np.maximum(np.take_along_axis(low, index, 1), lower), 1)
            np.put_along_axis(high, index, np.minimum(np.take_along_axis(high, index, 1), upper), 1)
        self.low[v], self.high[v] = low, high
        self._largest[v] = np.maximum(np.abs(low), np.abs(high))

    def _form(self, v: int, index: np.ndarray, signs: tuple[float, ...], choice: str = NEAREST) -> Form:
        """Lower bounds of elements (n, m) of vector v, times each of the signs: (n, signs m) rows."""
        vector = self.network.vectors[v]
        one_map = vector.terms[0][1] if isinstance(vector, Affine) and len(vector.terms) == 1 else None
        weight = getattr(one_map, "weight", np.zeros(0))
        if isinstance(vector, Affine) and weight.ndim == 2:
            rows, start = weight[index], vector.terms[0][0]
            offset = np.concatenate([sign * vector.bias[index] for sign in signs], 1)
            error = GROWTH * np.concatenate([np.take_along_axis(self._doubts[v], index, 1) for _ in signs], 1)
        else:
            rows, start = np.zeros((*index.shape, vector.size)), v
            np.put_along_axis(rows, index[..., None], 1.0, 2)
            offset = error = np.zeros((len(index), len(signs) * index.shape[1]))
        return self._substituted(start, np.concatenate([sign * rows for sign in signs], 1), offset, error, choice)

    def _substituted(self, v: int, rows: np.ndarray, offset: np.ndarray, error: np.ndarray, choice: str) -> Form:
        """Lower bounds of ``rows h_v + offset`` in terms of the input."""
        pending = {v: rows}
        for u in range(v, 0, -1):
            if u not in pending:
                continue
            rows, vector = pending.pop(u), self.network.vectors[u]
            if isinstance(vector, Affine):
                offset = offset + rows @ vector.bias
                error = error + _dot(np.abs(rows), self._errors[u]) + 2 * UNIT * np.abs(offset) + TINY
                steps = [(source, map_.pulled(rows)) for source, map_ in vector.terms]
            else:
                assert isinstance(vector, Kinks)
                rows, more, lost = self._over_kinks(u, rows, choice)
                offset = offset + more
                error = error + lost + 2 * UNIT * np.abs(offset)
                error = error + 2 * UNIT * _dot(np.abs(rows), self._largest[vector.source])
                steps = [(vector.source, rows)]
            for source, part in steps:
                if source in pending:
                    part = pending[source] + part
                    error = error + 2 * UNIT * _dot(np.abs(part), self._largest[source])
                pending[source] = part
        columns = self.low[0].shape[1]
        return Form(pending.get(0, np.zeros((*offset.shape, columns))), offset, error)

    def _over_kinks(self, v: int, rows: np.ndarray, choice: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows in terms of what the kinks read, the constants of their lines, and what those lose by rounding."""
        slope_below, offset_below, slope_above, offset_above = self._lines[v, choice]
        # Offsets below are <= 0, those above >= 0: both sums are sums of numbers of one sign.
        low, high = _dot(np.maximum(rows, 0.0), offset_below), _dot(np.minimum(rows, 0.0), offset_above)
        largest = self._largest[self._source(v)]
        lost = gamma(2 * rows.shape[2] + 4) * (np.abs(low) + np.abs(high))
        lost = GROWTH * (lost + TINY * (1.0 + largest.sum(1, keepdims=True)))
        return rows * np.where(rows >= 0, slope_below[:, None], slope_above[:, None]), low + high, lost

    def _source(self, v: int) -> int:
        vector = self.network.vectors[v]
        assert isinstance(vector, Kinks)
        return vector.source


def gradient_bounds(bounds: Bounds, at: np.ndarray, rows: np.ndarray) -> Ends:
    """Bounds of the gradients of some elements of the last vector by the input.

    Two inputs x, x' of a box that differ in coordinate r alone have a difference of that element between
    ``low_r (x_r - x'_r)`` and ``high_r (x_r - x'_r)`` if ``x_r >= x'_r``.

    Args:
        bounds: of the network on n boxes.
        at: which boxes, int (m,).
        rows: for each of them which element, int (m,).

    Returns:
        Lower and upper bounds, (m, columns) each.
    """
    adjoint, ratios = bounds.network.adjoint()
    unit = np.eye(adjoint.vectors[0].size)[rows]
    slopes = {}
    for kinks, v in ratios.items():
        least, most = (end[at] for end in bounds.ratios(v))
        slopes[kinks] = Slopes(least, most, most, least)
    return Bounds(adjoint, unit, unit, slopes=slopes).refined()


def _dot(rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n, m, size) rows times (n, size) vectors: (n, m)."""
    return (rows @ vectors[:, :, None])[:, :, 0]
