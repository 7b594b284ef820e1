"""Lipschitz constants between two proven bounds that close in on each other, over sides of neurons or boxes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.problem import Problem, read_in_float64
from recurjac_plugin.host.region import Inputs, cut, through_float32, type_of
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.entry_search import reduced_network
from recurjac_plugin.jacobian.methods import Norm
from recurjac_plugin.kept import Kept
from recurjac_plugin.lipschitz.matrix_norms import NORMS, dual_of
from recurjac_plugin.neurons.points import without_pieces
from recurjac_plugin.neurons.searches.largest import Effort, Found, Progress, effort_of, largest_value
from recurjac_plugin.numerics.intervals import rounded_up
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.written.frames import data_frame, entries
from recurjac_plugin.written.markup import interval

from .boxes import Wanted, largest_over_boxes
from .quantities import Norms

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Tightened(Kept):
    """``lower <= constant <= upper``, both proven; equal but for rounding where the search came to its end.

    Attributes:
        lower, upper: shape (b,), or (b, k) per output.
        points: where the norm of the Jacobian is at least `lower`: (b, *input_shape), or (b, k, *input_shape); as
            computed, so on an edge of the region off by a rounding.
        parts: how many parts of each region were bounded.
        seconds: how long each took.
    """

    lower: Tensor
    upper: Tensor
    points: Tensor
    parts: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def gap(self) -> Tensor:
        """``upper / lower - 1``, inf where the lower bound is 0 and the upper one is not."""
        both = self.upper / self.lower - 1
        return torch.where(self.upper == 0, 0.0, both)

    def to_dataframe(self) -> pd.DataFrame:
        """A table of pandas with one line for each constant: region, row (per output), lower, upper, gap.

        Raises:
            ExtraError: pandas is not installed.
        """
        rows = 1 if self.lower.dim() == 1 else self.lower.shape[1]
        places = entries((len(self.lower), rows, 1), None, None)
        columns = {name: places[name] for name in ("region", "row")[: self.lower.dim()]}
        found = {"lower": self.lower, "upper": self.upper, "gap": self.gap}
        return data_frame(columns | {name: value.flatten().cpu().numpy() for name, value in found.items()})

    def __repr__(self) -> str:
        count, work = self.lower.numel(), f"{sum(self.parts)} parts, {sum(self.seconds):.3g} s"
        if not count:
            return "Tightened(no constants)"
        ends = interval(float(self.lower.min()), float(self.upper.max()), 6)
        of = f"constant in {ends}" if count == 1 else f"{count} constants in {ends}"
        return f"Tightened({of}, gap up to {float(self.gap.max()):.3g}, {work})"


@through_float32
@full_precision()
@torch.no_grad()
def tighten(
    model: nn.Module,
    x: Inputs,
    *,
    C: Tensor | None = None,
    norm: Norm | None = None,
    output_norm: Norm | None = None,
    per_output: bool = False,
    gap: float | None = None,
    budget: float | None = None,
    memory_budget: int | None = None,
    reference: nn.Module | None = None,
    seen: Callable[[Progress], None] | None = None,
) -> Tightened:
    r"""The Lipschitz constant of ``C f`` over the region of `x`, as exactly as time allows.

    The region is cut, until the largest bound on any part,

    .. math:: \sup_x \lVert J(x) \rVert \in [\text{lower}, \text{upper}], \qquad \text{upper} \le (1 + \text{gap}) \,
        \text{lower},

    is close to the norm of the Jacobian at some point, or time is up. Networks of functions with two linear pieces
    (ReLU, leaky ReLU, PReLU, absolute values, maxima, max-pooling) are cut where neurons change sides, and the result
    is exact where both meet; all others into boxes (`searched.boxes`), which helps where inputs are few. Everything is
    computed in float64 from pre-activation bounds of our own, with proven room for rounding, and rounded outward to the
    type of the model.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        norm: p of the constant, 1, 2 or inf, or for single outputs any of at least 1; None for the norm of the region.
        output_norm: that of the output, 1, 2 or inf; None for that of the input.
        per_output: one constant per row instead of one for the vector output.
        gap: relative difference of the bounds at which the search of a region ends; `GAP` if neither is given, and 0
            if only a budget is.
        budget: seconds for each region; None for no limit if a gap is given, and `BUDGET` if neither is.
        memory_budget: bytes that one chunk of rows or columns may take.
        reference: the module that the model was made of, see `jacobian_bounds`.
        seen: called with the `Progress` of the search after every step.

    Raises:
        InputError: model, input or C do not fit together; a gap or budget below 0; or a norm without a formula.
        UnsupportedError: the network has parts without a rule, or several inputs and functions that have no two linear
            pieces.

    Source:
        Own; exact constants by patterns are those of LipBaB, Bhowmick, D'Souza, Raghavan, ICANN 2021, arXiv:2105.05495.
    """
    gap, seconds = effort_of(gap, budget)
    declare(model, reference)
    lower, upper, points, parts, took = [], [], [], [], []
    for i in range(len(x[0] if isinstance(x, (tuple, list)) else x)):
        start = time.perf_counter()
        problem = read_in_float64(model, cut(x, slice(i, i + 1)))
        own = C[i : i + 1] if isinstance(C, Tensor) and C.dim() > 2 and len(C) > 1 else C
        center = problem.region.center
        found = _searched(
            problem, own, (norm, output_norm), per_output, Effort(gap, start + seconds), memory_budget, seen
        )
        at = center + found.points.reshape(-1, *center.shape[1:])
        shape = (slice(None),) if per_output else (0,)
        lower.append(found.lower[shape])
        upper.append(found.upper[shape])
        points.append(at[shape])
        parts.append(found.parts)
        took.append(time.perf_counter() - start)
    dtype = type_of(x)
    return Tightened(
        lower=-rounded_up(-torch.stack(lower), dtype),
        upper=rounded_up(torch.stack(upper), dtype),
        points=torch.stack(points).to(dtype),
        parts=tuple(parts),
        seconds=tuple(took),
    )


def _searched(
    problem: Problem,
    C: Tensor | None,
    norms: tuple[float | None, float | None],
    per_output: bool,
    effort: Effort,
    memory_budget: int | None,
    seen: Callable[[Progress], None] | None,
) -> Found:
    """The search over one region."""
    p = problem.region.norm if norms[0] is None else float(norms[0])
    q = p if norms[1] is None else float(norms[1])
    if not p >= 1 or (not per_output and not {p, q} <= {*NORMS}):
        raise InputError(
            "The norms must be 1, 2 or inf for a vector output, and that of the input at least 1 with "
            f"`per_output=True`, got {p:g} and {q:g}."
        )
    reduced, memory = reduced_network(problem, C, memory_budget)
    if without_pieces(reduced):
        return largest_over_boxes(problem, C, Wanted(p, None if per_output else q), effort, memory_budget, seen)
    if per_output:
        return largest_value(reduced, Norms(reduced, dual_of(p), False, True, memory), effort, seen)
    return largest_value(reduced, Norms.of_vector(reduced, p, q, memory), effort, seen)
