r"""The rows of a property, and what bounds of them prove.

A property is violated by outputs y in the union of polytopes, its disjuncts: :math:`\bigcup_d \{y : A_d y \le b_d\}`.
On a box a disjunct is excluded if *one* of its rows is larger than its right side everywhere on the box. All rows of
all disjuncts are bounded together, below each other, as one specification matrix.

Source: the form of a property is that of VNN-LIB files (`properties`); the slack for rounding is this package's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recurjac_plugin.numerics.rounding import gamma, proof_slack
from recurjac_plugin.properties.spec import Box


@dataclass(frozen=True, eq=False)
class Rows:
    """All k rows ``A y - b`` of all d disjuncts of a box, below each other.

    Attributes:
        A: shape (k, n_outputs).
        b: shape (k,).
        strict: bool (k,), where equality violates nothing.
        disjunct: the disjunct that each row belongs to, int (k,), in increasing order.
        difference: how far the outputs bounded here may be from those of the network that is judged, one number.
        eps: relative error of one rounding in the arithmetic of the network that is judged.
        proven: whether bounds come with proven errors, so that only what is done with them here needs room.
        columns: number of input coordinates, which bounds of rows are sums over.
        evaluation: proven error of the rows of computed outputs, (k,), or one number.
        judged: number of outputs that the network that is judged computes; the others are its inputs, which are known
            exactly there. None for all.

    Source:
        As this module's.
    """

    A: Tensor
    b: Tensor
    strict: Tensor
    disjunct: Tensor
    difference: float
    eps: float
    proven: bool = False
    columns: int = 0
    evaluation: Tensor | float = 0.0
    judged: int | None = None

    @classmethod
    def of(
        cls,
        box: Box,
        like: Tensor,
        difference: float = 0.0,
        eps: float = 0.0,
        proven: bool = False,
        judged: int | None = None,
    ) -> Rows:
        """The rows of one box, in the type and on the device of `like`."""
        counts = [len(polytope.b) for polytope in box.disjuncts]
        (A, b), strict = box.rows(), np.concatenate([polytope.strict for polytope in box.disjuncts])
        disjunct = np.repeat(np.arange(len(counts)), counts)
        return cls(
            torch.from_numpy(A).to(like),
            torch.from_numpy(b).to(like),
            torch.from_numpy(strict).to(like.device),
            torch.from_numpy(disjunct).to(like.device),
            difference,
            eps,
            proven,
            len(box.lower),
            judged=judged,
        )

    @cached_property
    def counts(self) -> list[int]:
        """Number of rows ``k_d`` of every disjunct, d numbers."""
        counts: list[int] = self.disjunct.bincount().tolist()
        return counts

    @property
    def disjuncts(self) -> int:
        """Number of disjuncts."""
        return len(self.counts)

    def members(self, copies: int) -> list[Tensor]:
        """For every disjunct the positions of its rows in a list of all rows that is repeated so many times.

        ``{c k + i : 0 <= c < copies, row i belongs to the disjunct}``, int64 (copies k_d,) for each.
        """
        everything = torch.arange(copies * len(self.b), device=self.b.device).reshape(copies, -1)
        return [part.flatten() for part in everything.split(self.counts, 1)]

    def per_disjunct(self, rows: Tensor, reduce: str) -> Tensor:
        """Reduce over the rows of every disjunct: (n, k) -> (n, d), with ``amax`` or ``amin``."""
        index = self.disjunct.expand(len(rows), -1)
        return rows.new_zeros(len(rows), self.disjuncts).scatter_reduce(1, index, rows, reduce, include_self=False)

    def values(self, outputs: Tensor) -> Tensor:  # shape: (n, n_outputs)
        """``A y - b``, (n, k)."""
        return outputs @ self.A.T - self.b

    def slack(self, outputs: Tensor, lower: Tensor) -> Tensor:
        r"""What rounding may be responsible for, (n, k).

        .. math:: d \sum_j |A_{kj}| + 64 \varepsilon \Big(\sum_j |A_{kj} f_j(x_0)| + |b_k|
            + |A_k f(x_0) - b_k - \text{lower}_k|\Big) + \varepsilon' \sum_j |A_{kj} f_j(x_0)|,

        with x0 the middle of the box, d the `difference`, and eps, eps' those of the arithmetic here and there. An
        estimate, not a proof: see `numerics.rounding.proof_slack`. Where bounds have proven errors, ``64 eps`` becomes
        ``gamma_n``, for the sums that they are combined in.

        Args:
            outputs: of the network at the middles, (n, n_outputs).
            lower: lower bounds of the rows, (n, k); where they are infinite, the term with them is left out.
        """
        A = self.A.abs()
        terms = outputs.abs() @ A.T
        fallen = self.values(outputs) - lower
        sizes = terms + self.b.abs() + torch.where(fallen.isfinite(), fallen.abs(), 0.0)
        slack = self.room(sizes) + (self.evaluation if self.proven else 0.0)
        there = self.judged if self.judged is not None else A.shape[1]
        rounded = outputs[:, :there].abs() @ A[:, :there].T
        return self.difference * A[:, :there].sum(1) + slack + self.eps * rounded

    def room(self, sizes: Tensor) -> Tensor:
        """What the rounding of sums here may be responsible for, from the sizes of their terms (any shape)."""
        if not self.proven:
            return proof_slack(sizes)
        return gamma(self.A.shape[1] + self.columns + 64) * sizes

    def excluded(self, lower: Tensor, slack: Tensor) -> Tensor:
        """The disjuncts that no output of the box lies in: bool (n, d).

        One row above its right side everywhere is enough: ``lower_k > slack_k``. A strict one is excluded by equality,
        too, ``lower_k >= slack_k``, where nothing was rounded (a row of zeros).

        Args:
            lower: lower bounds of the rows, (n, k).
            slack: what rounding may be responsible for, (n, k).
        """
        proved = (lower > slack) | (self.strict & (lower >= slack))
        return self.per_disjunct(proved.to(torch.uint8), "amax").bool()

    def met(self, values: Tensor) -> Tensor:
        """The disjuncts that outputs with these row values (n, k) lie in: all rows are ``<= 0``, bool (n, d)."""
        return self.per_disjunct((values <= 0).to(torch.uint8), "amin").bool()
