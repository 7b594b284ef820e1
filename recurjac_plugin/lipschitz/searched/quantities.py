r"""Norms of the Jacobian as the search sees them (`neurons.searches.largest`): bounds on parts, and values at points.

===========================  ======================================  ====================
what                         terms                                   groups
===========================  ======================================  ====================
``p -> inf``, vector         ``|J_k|_p*`` of every row k             one
``1 -> q``, vector           ``|J_r|_q`` of every column r           one
other ``p -> q``, vector     ``|J|_{p->q}`` (`norms`)                one
per output, norm p           ``|J_k|_p*`` of every row k             one for each row
===========================  ======================================  ====================

with p* the dual of p. Columns are the rows of the transposed gains.

Source: RecurJac, arXiv:1810.11783, section 3.4, for sums of entries as one pushed column; the rest is own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.jacobian.bounded import BoundedByOrder
from recurjac_plugin.jacobian.methods import parse_jacobian_method
from recurjac_plugin.lipschitz.matrix_norms import dual_of, norm_below, norm_of_magnitudes
from recurjac_plugin.lipschitz.norms import vector_constant
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.points import jacobian_of_slopes
from recurjac_plugin.neurons.reduced import Reduced
from recurjac_plugin.neurons.searches.largest import Above
from recurjac_plugin.numerics.rounding import gamma, underflow
from recurjac_plugin.passes.rules import recurjac_linear
from recurjac_plugin.recursion.backward import BackwardOrder, backward_order
from recurjac_plugin.recursion.forward import ForwardOrder
from recurjac_plugin.recursion.order import BothOrders, Order

_LINEAR = parse_jacobian_method("RecurJac-Linear")
_FEW = 32  # with so many rows and columns both orders pay


@dataclass(frozen=True, eq=False)
class Norms:
    """The norm of rows, of columns, or of the matrix, over parts of one region.

    Attributes:
        reduced: the network over the region.
        of: which norm rows (or columns) have, 1 for sums of absolute values; p and q of the matrix.
        transposed: whether the terms are columns.
        grouped: whether every row is a group of its own.
        memory_budget: bytes for one chunk of columns.
    """

    reduced: Reduced
    of: float | tuple[float, float]
    transposed: bool
    grouped: bool
    memory_budget: int

    @staticmethod
    def of_vector(reduced: Reduced, p: float, q: float, memory_budget: int) -> Norms:
        """The constant of the vector output, from norm p to q."""
        if q == math.inf:
            return Norms(reduced, dual_of(p), False, False, memory_budget)
        if p == 1:
            return Norms(reduced, q, True, False, memory_budget)
        return Norms(reduced, (p, q), False, False, memory_budget)

    @property
    def each(self) -> bool:
        """Whether the terms are rows, or columns, not the matrix."""
        return not isinstance(self.of, tuple)

    @cached_property
    def groups(self) -> Tensor:
        """The group of each term."""
        gains = self.reduced.gains
        terms = (gains.columns if self.transposed else gains.rows) if self.each else 1
        number = torch.arange(terms, device=self.reduced.center.device)
        return number if self.grouped else torch.zeros_like(number)

    @property
    def entries(self) -> int:
        """Number of entries of a sum of absolute values, whose signs can be chosen."""
        gains = self.reduced.gains
        return (gains.rows if self.transposed else gains.columns) if self.of == 1 else 0

    @cached_property
    def error(self) -> Tensor:
        """Of the entries, (1, k, columns), or transposed."""
        error = self.reduced.entry_error
        return error.mT if self.transposed else error

    def above(self, parts: Parts, terms: Tensor, signs: Tensor, scored: bool) -> Above:
        """Upper bounds on parts."""
        gains = replace(self.reduced.on(parts.lower, parts.upper), batch=len(parts))
        if self.transposed:
            gains = gains.transposed()
        error = self.error
        if self.each:
            gains = gains.one_row_each(terms)
            error = error[0][terms].unsqueeze(1)
        backward = backward_order(gains, recurjac_linear, self.memory_budget)
        order: Order = backward
        if max(gains.columns, gains.rows) <= _FEW:
            order = BothOrders(ForwardOrder(gains, recurjac_linear, self.memory_budget), backward)
        region, center, treatment = self.reduced.regions[0], self.reduced.center, _LINEAR.treatment
        bounded = BoundedByOrder(region, center, treatment, order, error)
        entries, weights = parts.box[0].new_zeros(len(parts), 0), None
        if isinstance(self.of, tuple):
            bound = vector_constant(bounded, *self.of, proven=True)
        elif self.of == 1:
            bound, weights, entries = self._sum(bounded, signs)
        else:
            bound = self._norm(*bounded.jacobian)
        lower = bounded.jacobian[0]
        bound = bound * (1 + gamma(2 * lower[0].numel() + 64)) + underflow(1)
        if not scored:
            return Above(bound, *[lower.new_zeros(len(parts), 0)] * 3)
        return Above(bound, *self._worth(parts, gains, backward, weights, entries))

    def _sum(self, bounded: BoundedByOrder, signs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bounds of sums of absolute values (n,), the weights (n, columns), and what the chords add (n, columns)."""
        lower, upper = bounded.jacobian
        chosen = signs.unsqueeze(1).to(lower)
        free = (chosen == 0) & (lower < 0) & (upper > 0)
        width = torch.where(free, upper - lower, 1.0)
        known = torch.where(chosen == 0, torch.where(lower >= 0, 1.0, -1.0), chosen)
        weights = torch.where(free, (upper + lower) / width, known)
        chord = torch.where(free, -2 * lower * (upper / width), 0.0)
        plain = torch.where(chosen > 0, upper, torch.where(chosen < 0, -lower, torch.maximum(upper, -lower))).sum(2)
        pushed = bounded.upper_of_sum(weights) + chord.sum(2)
        size = torch.maximum(upper.abs(), lower.abs()).sum(2)
        bound = torch.minimum(plain, pushed) + gamma(lower.shape[2] + 16) * size
        return bound.squeeze(1), weights.squeeze(1), chord.squeeze(1)

    def _norm(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Bounds of norms of rows: (n,)."""
        largest = torch.maximum(upper.abs(), lower.abs())
        middle = (lower + upper) / 2
        radius = torch.maximum(upper - middle, middle - lower)
        plain, centred, spread = (
            torch.linalg.vector_norm(each, ord=self.of, dim=2).squeeze(1) for each in (largest, middle, radius)
        )
        return torch.minimum(plain, centred + spread)

    def _worth(
        self, parts: Parts, gains: Gains, order: BackwardOrder, weights: Tensor | None, entries: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What neurons, entries and inputs are worth: width of the derivative, times |y|, times what arrives there."""
        reduced, count = self.reduced, len(parts)
        ranges = {
            layer: reduced.neurons[layer].ranges(parts.lower[layer], parts.upper[layer]) for layer in reduced.layers
        }
        middle = {layer: (dl + du) / 2 for layer, (dl, du) in ranges.items()}
        arrived, _ = jacobian_of_slopes(reduced, middle, count)
        scores, on_inputs = [], parts.box[0].new_zeros(parts.box[0].shape)
        for layer in reduced.layers:
            dl, du = ranges[layer]
            X = arrived[layer]
            y = torch.maximum(*(end.abs() for end in order.gradients[layer])).amax(1)
            if self.transposed:  # y is the way in; the way out is not known for the rows alone
                met = gains.block(layer, INPUT).abs().sum(2)
            elif weights is None:
                met = torch.linalg.vector_norm(X, dim=2)
            else:
                free = (entries > 0).to(X) * (1 - weights.abs())
                met = (X @ weights.unsqueeze(2)).squeeze(2).abs() + (X.abs() @ free.unsqueeze(2)).squeeze(2)
            score = (du - dl) * y * met
            scores.append(score)
            spread = (parts.upper[layer] - parts.lower[layer]).clamp(min=torch.finfo(score.dtype).tiny)
            on_inputs = on_inputs + ((score / spread).unsqueeze(1) @ X.abs()).squeeze(1)
        neurons = torch.cat(scores, 1) if scores else parts.box[0].new_zeros(count, 0)
        return neurons, entries, on_inputs * (parts.box[1] - parts.box[0])

    def below(self, jacobian: Tensor) -> Tensor:
        """Values at points, rounded down: (n, groups)."""
        J, error = (jacobian.mT if self.transposed else jacobian), self.error
        if isinstance(self.of, tuple):
            values, room = norm_below(J, *self.of).unsqueeze(1), norm_of_magnitudes(error, *self.of).unsqueeze(1)
        else:
            values, room = (torch.linalg.vector_norm(each, ord=self.of, dim=2) for each in (J, error))
        values = (values - room) * (1 - gamma(2 * jacobian[0].numel() + 64)) - underflow(1)
        values = values.clamp(min=0)
        return values if self.grouped else values.amax(1, keepdim=True)
