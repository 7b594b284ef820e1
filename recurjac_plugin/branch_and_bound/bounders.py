r"""Bounds of the rows of a property on many boxes at once, by any method.

For every box and row k they are lower bounds of :math:`A_k f(x) - b_k` over the box, of two kinds: numbers, and linear
functions ``s_k (x - x0) + t_k`` with x0 the middle of the box. Bounds of the rows' Jacobian are made when asked for.

Two ways lead to them. Where all activations are linear on either side of a kink and CROWN bounds the pre-activations,
the host bounds the whole region once, and the bounds on every box cut from it follow from those (`refinement`):
`RefiningBounder`. Anything else goes through the host anew for every batch: `HostBounder`.

Source: the linear bounds are CROWN's, Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.jumps import JUMPS
from recurjac_plugin.errors import InputError
from recurjac_plugin.gains.errors import estimated_errors, jacobian_error
from recurjac_plugin.graph.graph import refinable
from recurjac_plugin.host.problem import Problem, over, read, read_in_float64, specification
from recurjac_plugin.host.read import HostGraph
from recurjac_plugin.host.region import perturbed_box
from recurjac_plugin.host.state import evaluated
from recurjac_plugin.jacobian.analysis import analyse, gathered_rows
from recurjac_plugin.jacobian.bounded import BoundedByOrder, BoundedJacobian
from recurjac_plugin.jacobian.methods import LINES, Method, parse, require_own_outputs
from recurjac_plugin.lipschitz.mean_value import largest_drop
from recurjac_plugin.numerics.intervals import Intervals
from recurjac_plugin.numerics.memory import memory_budget
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.numerics.rounding import eps
from recurjac_plugin.preactivations.crown import CrownBounds, Known, crown_bounds
from recurjac_plugin.preactivations.host import host_bounds
from recurjac_plugin.recursion.backward import BackwardOrder, backward_order
from recurjac_plugin.recursion.fast_lip import IntervalArithmetic

from .boxes import Boxes, Disjuncts
from .goals import Rows
from .search import Bounder

_ELEMENTS = 1 << 21  # largest number of neurons times boxes in a batch
_LEAST, _MOST = 8, 4096  # boxes in a batch
_PART = 256  # boxes that the host bounds at once
_WORK = 1 << 24  # largest number of elements of the gains of a part of a batch
# A part is made of boxes in the order of their numbers of undetermined neurons. It ends before a box that has this many
# times as many as its first one, but not before it has so many boxes.
_FACTOR, _FEW = 2.0, 64


@dataclass(frozen=True, eq=False)
class BoxBounds:
    """Bounds of the rows ``A f - b`` on a batch of n boxes: ``lower``, and ``slope (x - x0) + offset`` where given.

    Attributes:
        outputs: of the network at the middles x0, (n, n_outputs).
        lower: lower bounds of the rows, (n, k), of the host's method alone; -inf where the method has none.
        slope: of the best linear lower bound of every row, (n, k, columns); None where there is none.
        linear: all linear lower bounds ``slope (x - x0) + offset``, of every row v of them: slopes (n, v, k, columns)
            and offsets (n, v, k); None where the method has none.
        around: pre-activation bounds for the boxes that are cut from these ones.
        differentiated: bounds of the Jacobian on some of the boxes: takes their positions (m,) and, for each of them,
            the positions of the rows to differentiate (m, k').
    """

    outputs: Tensor
    lower: Tensor
    slope: Tensor | None
    linear: tuple[Tensor, Tensor] | None
    around: Intervals
    differentiated: Callable[[Tensor, Tensor], BoundedJacobian]


class RowsBounder(Bounder[Disjuncts, BoxBounds]):
    """Bounds the rows of one property on parts of one region.

    Attributes:
        model: the host's model, in the arithmetic in which everything is computed.
        rows: what is bounded.
        method: by what.
        cuts_by: the method that bounds the Jacobian.
        uses_jacobian: whether the Jacobian is bounded on the boxes at all.
        input_shape: shape of one input.
        batch: how many boxes are bounded at once.
        cost: of one box, the number of neurons.

    Source:
        Own as an interface; the bounds are those of CROWN and RecurJac, see the two subclasses.
    """

    batch: int
    cost: int

    def __init__(self, model: Any, rows: Rows, method: Method, input_shape: tuple[int, ...], branching: str) -> None:
        self.model, self.rows, self.method, self.input_shape = model, rows, method, input_shape
        # Where a method has no Jacobian of its own, the tighter one decides about cuts.
        cuts_by = replace(parse(f"{method.host}+{LINES}"), with_host_output=method.with_host_output)
        self.cuts_by = method if method.bounds_jacobian else cuts_by
        self.uses_jacobian = method.bounds_jacobian or branching == "jacobian"

    def _may_jump(self, jumps: bool) -> None:
        if jumps:
            require_own_outputs(self.method)
            self.uses_jacobian = False

    @abc.abstractmethod
    def first(self, lower: Tensor, upper: Tensor) -> Boxes[Disjuncts]:
        """The whole region as a batch of one, from its ends, (1, columns) each."""

    def bytes_per_box(self) -> int:
        """Memory that a waiting box takes: 16 bytes per column, for two ends of at most 8 bytes."""
        return 16 * math.prod(self.input_shape)

    def shaped(self, x: Tensor) -> Tensor:
        """(n, columns) -> (n, *input_shape)."""
        return x.reshape(-1, *self.input_shape)

    def evaluate(self, x: Tensor) -> Tensor:
        """Outputs of the network, (n, columns) -> (n, n_outputs)."""
        return evaluated(self.model, self.shaped(x), ())[0].flatten(1)

    def _undecided(self, lower: Tensor, upper: Tensor, around: Intervals) -> Boxes[Disjuncts]:
        """Boxes of which nothing is known but pre-activation bounds."""
        region = torch.zeros(len(lower), dtype=torch.int64, device=lower.device)
        alive = torch.ones(len(lower), self.rows.disjuncts, dtype=torch.bool, device=lower.device)
        known = Disjuncts(alive, lower.new_full((len(lower),), -math.inf))
        return Boxes(region, lower, upper, known, around)


def bounder(
    model: Any,
    rows: Rows,
    method: Method,
    input_shape: tuple[int, ...],
    lower: Tensor,
    upper: Tensor,
    branching: str,
    rigorous: bool = False,
) -> RowsBounder:
    """The bounder that suits the network and the method.

    `RefiningBounder` if the method's pre-activation bounds are CROWN's and the graph is `refinable`, or if bounds are
    to be rigorous; else `HostBounder`.

    Args:
        model: the host's model; for rigorous bounds also a `HostGraph` in float64 that was read without the host.
        rows: what is to be bounded.
        method: by what.
        input_shape: shape of one input.
        lower: lower ends of the region, (1, columns).
        upper: its upper ends, (1, columns).
        branching: what boxes will be cut by.
        rigorous: whether the bounds are to be proven, by CROWN of our own.

    Raises:
        InputError: `branching` needs linear bounds that this network or method does not give.
        UnsupportedError: the host cannot bound the network, or is known or seen to do it wrongly.

    Source:
        Own.
    """
    if method.host == "CROWN":
        region = _region(lower, upper, input_shape)
        if isinstance(model, HostGraph):
            problem = over(model, region)
        else:
            problem = read_in_float64(model, region) if rigorous else read(model, region)
        if rigorous or refinable(problem.function):
            return RefiningBounder(problem, rows, method, input_shape, branching, rigorous)
    if branching == "crown":
        raise InputError(
            f"`branching='crown'` needs CROWN's linear bounds of a network of ReLUs, leaky ReLUs or Abs; with "
            f"`{method.name}` on this one use 'jacobian' or 'longest'."
        )
    return HostBounder(model, rows, method, input_shape, branching)


def _region(lower: Tensor, upper: Tensor, input_shape: tuple[int, ...]) -> Any:
    """Boxes (n, columns) as a perturbed input of the host."""
    low, high = (end.reshape(-1, *input_shape) for end in (lower, upper))
    return perturbed_box(low, high)


class RefiningBounder(RowsBounder):
    """Bounds by CROWN on the gains, from the bounds of the whole region.

    A neuron that is stable on the region is stable on every box: only the others are looked at again.

    Source:
        CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2, on gains (`preactivations.crown`).
    """

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        method: Method,
        input_shape: tuple[int, ...],
        branching: str,
        rigorous: bool,
    ) -> None:
        super().__init__(problem.model, rows, method, input_shape, branching)
        self.graph, self.rigorous = problem.function, rigorous
        self._may_jump(self.graph.jumps)
        self.memory_budget = memory_budget(None, rows.A.device)
        self.host_graph = problem.host_graph
        self._whole: tuple[Region, CrownBounds] | None = None  # the region's, until the first box is bounded
        C = specification(rows.A.unsqueeze(0), problem.host_graph.output)
        self.root, self.entry_error = self._proven(problem, C) if rigorous else self._estimated(problem, C)
        if rigorous:
            self.rows = replace(rows, evaluation=self.root.row_error[0])
        self.cost = max(1, sum(low[0].numel() for low, _ in self.root.bounds.values()))
        self.batch = min(max(_ELEMENTS // self.cost, _LEAST), _MOST)
        self.widest = max(torch.Size(shape).numel() for shape in self.graph.shapes.values())

    def _proven(self, problem: Problem, C: Tensor) -> tuple[Known, Tensor]:
        """Bounds of the whole region by CROWN of our own, and the errors of the rows' Jacobian there."""
        values, output, regions = problem.host_graph.values, problem.host_graph.output, problem.arguments.regions
        C = C.reshape(*C.shape[:2], *self.graph.shapes[self.graph.output])
        bounds = crown_bounds(self.graph, values, output, regions, C, self.memory_budget, judged=self.rows.eps)
        error = jacobian_error(self.graph, bounds.layers, C, self.memory_budget) if self.uses_jacobian else None
        if len(regions) == 1:
            self._whole = regions[0], bounds
        return bounds.known, C.new_zeros(()) if error is None else error

    def _estimated(self, problem: Problem, C: Tensor) -> tuple[Known, Tensor]:
        """The host's bounds of the whole region, with estimated errors; those of the rows are the goal's."""
        root, _, unit = host_bounds(problem, self.method.host, C, [*(graph := self.graph).reads])
        errors = estimated_errors(graph, problem.host_graph.values, problem.reach, root, unit)
        by_step = {graph.stands_for[name]: error for name, error in errors.items()}
        return Known(root, by_step, C.new_zeros(1, C.shape[1])), C.new_zeros(())

    def first(self, lower: Tensor, upper: Tensor) -> Boxes[Disjuncts]:
        """The region with what is known of it."""
        return self._undecided(lower, upper, self.root.bounds)

    def bytes_per_box(self) -> int:
        """16 bytes per column and neuron: two bounds of at most 8 bytes."""
        return super().bytes_per_box() + 16 * self.cost

    def parts(self, boxes: Boxes[Disjuncts]) -> list[Boxes[Disjuncts]]:
        """Boxes with about the same number of undetermined neurons each.

        Undetermined neurons (``l < 0 < u``) are listed per box, and the lists of a part are padded to the longest of
        them. In increasing order of their number u, a part of n boxes ends before the box with which ``n u (u + w)``
        would exceed `_WORK`, w being the largest layer, or, from `_FEW` boxes on, before the one with
        ``u > _FACTOR (u_first + 1)``.
        """
        count = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.lower.device)
        for low, high in boxes.around.values():
            count = count + ((low < 0) & (high > 0)).flatten(1).sum(1)
        order = count.argsort(stable=True)
        ordered = count[order].tolist()
        parts, start = [], 0
        for end in range(1, len(ordered) + 1):
            size = end + 1 - start  # of the part if the next box belongs to it
            if (
                end == len(ordered)
                or size * ordered[end] * (ordered[end] + self.widest) > _WORK
                or (size > _FEW and ordered[end] > _FACTOR * (ordered[start] + 1))
            ):
                parts.append(boxes.take(order[start:end]))
                start = end
        return parts

    def __call__(self, boxes: Boxes[Disjuncts]) -> BoxBounds:
        """CROWN's bounds ``max_v (t_vk - sum_r |s_vkr| radius_r)``; the Jacobian from the same gains.

        ``s_vk (x - x0) + t_vk`` are the bounds of `crown_bounds`, less ``b_k``, with v the choice of lines.
        """
        region = self.around(boxes)
        output, values = self.evaluated(region.center)
        C = specification(self.rows.A.unsqueeze(0), output)
        C = C.reshape(*C.shape[:2], *self.graph.shapes[self.graph.output])
        refined = self._of_whole(region)
        if refined is None:
            known = replace(self.root, bounds=boxes.around)
            refined = crown_bounds(
                self.graph, values, output, (region,), C, self.memory_budget, known=known, proven=self.rigorous
            )
        outputs = output.flatten(1)
        offset = refined.offset - self.rows.b - refined.row_error.unsqueeze(1)
        lower, best = (offset - (refined.slope.abs() * region.radius[:, None, None]).sum(3)).max(1)
        slope = refined.slope.gather(1, best[:, None, :, None].expand(-1, 1, -1, refined.slope.shape[3])).squeeze(1)

        def differentiated(index: Tensor, rows: Tensor) -> BoundedJacobian:
            return self._differentiated(boxes.take(index), refined, outputs[index], C[index], index, rows)

        usable = self.method.with_host_output
        lower = lower if usable else torch.full_like(lower, -math.inf)
        linear = (refined.slope, offset) if usable else None
        around = {name: (each.lower, each.upper) for name, each in refined.bounds.items()}
        return BoxBounds(outputs, lower, slope, linear, around, differentiated)

    def _of_whole(self, region: Region) -> CrownBounds | None:
        """The bounds that the search began with, if this is the region that they are of; they are not kept."""
        whole, self._whole = self._whole, None
        if whole is None or not torch.equal(whole[0].center, region.center):
            return None
        return whole[1] if bool((region.radius <= whole[0].radius).all()) else None

    def around(self, boxes: Boxes[Disjuncts]) -> Region:
        """The boxes by middles and radii, which are rounded: so far outward that they reach both ends."""
        return Region(self.shaped(boxes.center), math.inf, boxes.radius * (1 + 4 * eps(boxes.radius)))

    def evaluated(self, x: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Output and values of the network at points, in the arithmetic of the bounds."""
        if not self.rigorous:
            return evaluated(self.model, x, [*self.graph.reads])
        at_points = self.host_graph.at(dict.fromkeys(self.graph.inputs, x))
        return at_points.output, at_points.values

    def _differentiated(
        self, boxes: Boxes[Disjuncts], refined: CrownBounds, outputs: Tensor, C: Tensor, index: Tensor, rows: Tensor
    ) -> BoundedJacobian:
        """The Jacobian of chosen rows on chosen boxes. Derivatives of kinks have no lines with a slope."""
        treatment = self.cuts_by.treatment
        order: BackwardOrder | IntervalArithmetic
        if treatment.upper_line is None:
            derivatives = {name: layer.part(index) for name, layer in refined.layers.items()}
            order = IntervalArithmetic(self.graph, derivatives, gathered_rows(C, rows), self.memory_budget)
        else:
            order = backward_order(refined.gains.part(index, rows), treatment.upper_line, self.memory_budget)
        region = self.around(boxes)
        center = self.rows.values(outputs).gather(1, rows)
        if not self.rigorous:
            return BoundedByOrder(region, center, treatment, order)
        center = center - self.root.row_error[0][rows]
        return BoundedByOrder(region, center, treatment, order, self.entry_error[0][rows])

    def evaluate(self, x: Tensor) -> Tensor:
        """Outputs of the network, (n, columns) -> (n, n_outputs)."""
        return self.evaluated(self.shaped(x))[0].flatten(1)


class HostBounder(RowsBounder):
    """Bounds by the host and the recursion, from scratch for every batch.

    Source:
        The host's methods, see `preactivations.host`; RecurJac, arXiv:1810.11783, Algorithm 1, for the Jacobian.
    """

    def __init__(self, model: Any, rows: Rows, method: Method, input_shape: tuple[int, ...], branching: str) -> None:
        super().__init__(model, rows, method, input_shape, branching)
        self.cost = max(1, sum(math.prod(getattr(n, "output_shape", None) or (1,)) for n in model._modules.values()))
        self.batch = min(max(_ELEMENTS // self.cost, _LEAST), _MOST)
        self._may_jump(any(type(node).__name__ in JUMPS for node in model._modules.values()))

    def parts(self, boxes: Boxes[Disjuncts]) -> Iterator[Boxes[Disjuncts]]:
        """Parts small enough for a deadline to be kept between them."""
        return (boxes.take(slice(start, start + _PART)) for start in range(0, len(boxes), _PART))

    def first(self, lower: Tensor, upper: Tensor) -> Boxes[Disjuncts]:
        """The region; nothing is known of it yet."""
        return self._undecided(lower, upper, {})

    def __call__(self, boxes: Boxes[Disjuncts]) -> BoxBounds:
        """The host's bounds of ``A f``, less b, and what the recursion makes of those of the pre-activations."""
        region = _region(boxes.lower, boxes.upper, self.input_shape)
        A = self.rows.A.unsqueeze(0)
        whole = analyse(self.model, region, self.cuts_by, A) if self.uses_jacobian else None
        if whole is not None:
            host_output = whole.host_output
        else:
            problem = read(self.model, region)
            host_output = host_bounds(problem, self.method.host, specification(A, problem.host_graph.output), ()).output
        outputs = self.evaluate(boxes.center)
        lower = outputs.new_full((len(boxes), len(self.rows.b)), -math.inf)
        if self.method.with_host_output and host_output is not None:
            lower = host_output[0] - self.rows.b

        def differentiated(index: Tensor, rows: Tensor) -> BoundedJacobian:
            assert whole is not None
            chosen = whole.part(index, rows)
            return replace(chosen, center_value=chosen.center_value - self.rows.b[rows])

        return BoxBounds(outputs, lower, None, None, {}, differentiated)


def mean_value(bounded: BoundedJacobian) -> Tensor:
    r"""Lower bounds of the rows by the mean value theorem around the middles, (n, k).

    .. math:: A_k f(x_0) - b_k - \max_{x} \sum_r |J_{kr}(x)| \rho_r,

    with the largest drop bounded as in `lipschitz.mean_value.largest_drop`.

    Args:
        bounded: the rows' Jacobian on n boxes; its `center_value` are the rows at the middles, (n, k).

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 3.5, in one step.
    """
    return bounded.center_value - largest_drop(bounded, bounded.region.radius)
