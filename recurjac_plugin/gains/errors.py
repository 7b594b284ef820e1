r"""How far rounding can have moved what a network computes, carried along with it from the inputs to the outputs.

Every value and every bound here has an absolute error. Over a region, with h what a linear step reads and e its error,

.. math:: e_z = |W| \, e_h + c \, \varepsilon \, (|W| |h| + |b|), \qquad
    e_a = \max_{l \le z \le u} |a'(z)| \, e_z + c' \varepsilon \, (|a| + \max |a'| \, |z|),

the sizes of h and z being the largest that they have anywhere in the region. There are two ways to add up:

* *proven* errors add up as above, with ``c = gamma_n / eps`` for sums of n products in any order. They are for float64.
* *estimated* errors of many independent roundings add up like those of measurements, as the root of the sum of their
  squares, with the c of `numerics.rounding`. In float32 anything else would drown the bounds of a deep network.

What a bound of a linear form is off by is of the same kind: it is a sum, over all ways through the network, of products
of weights and slopes, times how far the input can move. The sum of their absolute values is carried along, too
(`Proven.spread`), and no product among them is rounded more often than `roundings` says.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, sections 3.1 (inner products) and 3.4 (running
errors); Higham, Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019, for
independent roundings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.graph.factors.jumps import JumpFactor
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import FactorStep, LinearStep
from recurjac_plugin.graph.sweeps import Arrived, at_inputs, backward, forward, pull_absolute
from recurjac_plugin.numerics.intervals import Intervals
from recurjac_plugin.numerics.memory import chunk_size
from recurjac_plugin.numerics.rounding import AT_KINKS, ELEMENTWISE, PER_SUM, gamma, underflow

from .undetermined import Layer

# What a step that is no linear map is rounded: values of functions, products, quotients.
_PER_FACTOR = 16

# Errors of n roundings grow a little faster than their unit: by n units of the coarser type, relative to themselves.
_COARSER = 1.25


@torch.no_grad()
def estimated_errors(
    graph: Graph,
    centers: Mapping[str, Tensor],
    reach: Mapping[str, Tensor],
    bounds: Intervals,
    unit: float,
) -> dict[str, Tensor]:
    r"""Estimated absolute errors of the bounds of what the factors of a graph depend on.

    .. math:: e_z^2 = \sum_i W_i^2 e_i^2 + (2 u)^2 \Big(2 \sum_i |W_i h_i| + |z|\Big)^2, \qquad
        e_a^2 = \max |a'|^2 e_z^2 + (8 u)^2 (|a| + \max |a'| |z|)^2,

    with u the unit; ``2 sum |W h| + |z|`` is at least the sum with the constant among its terms. Errors of two paths
    that meet are added up. What is returned is 8 times as much where a derivative jumps.

    Source: this module's; the numbers are `PER_SUM`, `ELEMENTWISE` and `AT_KINKS`.

    Args:
        graph: the network.
        centers: values of the inputs and nodes at the centres of the regions, (b, *shape) each.
        reach: how far inputs can be from there, (b, *shape); missing ones are certain.
        bounds: of the nodes that factor steps read, (b, *shape) each; behind steps for which they are missing errors
            begin anew.
        unit: relative error of one rounding in the arithmetic that the bounds come from.

    Returns:
        The nodes that factor steps read, by name: (b, *shape), finite.
    """
    far = {name: torch.maximum(low.abs(), high.abs()) for name, (low, high) in bounds.items()}
    known = {graph.stands_for[name]: size for name, size in far.items()}

    def factor(step: FactorStep, before: _Estimate) -> _Estimate:
        value = centers.get(step.name)
        if isinstance(step.factor, JumpFactor):  # where it may jump both values are taken, and they are exact
            size = torch.maximum(*(end.abs() for end in step.factor.values(bounds[step.reads[0].name])))
            return _Estimate(torch.zeros_like(size), size)
        if any(read.name not in bounds for read in step.reads):  # nothing here asks how it changes
            size = before.size if value is None else value.abs()
            return _Estimate(PER_SUM * unit * size, size)
        steepest = _steepest(step, bounds)
        width = torch.zeros(())
        for read in step.reads:
            if graph.stands_for[read.name] == step.source:
                width = (bounds[read.name][1] - bounds[read.name][0]).abs()
        size = steepest * before.size if value is None else value.abs() + steepest * width
        rounded = ELEMENTWISE * unit * (size + steepest * before.size)
        return _Estimate((steepest * before.error).hypot(rounded), size)

    def linear(step: LinearStep, arrived: Arrived[_Estimate]) -> _Estimate:
        error, terms = torch.zeros(()), torch.zeros(())
        for i, value in arrived:
            linear_map = step.sources[i][1]
            error = error + linear_map.push_squared(value.error.square()).sqrt()
            terms = terms + linear_map.push_absolute(value.size)
        size = known.get(step.name, terms)
        return _Estimate(error.hypot(PER_SUM * unit * (2 * terms + size)), size)

    starts = {}
    for name in graph.inputs:
        size = centers[name].abs() + reach.get(name, 0.0)
        starts[name] = _Estimate(unit * size, size)
    wanted = {*known}
    carried = forward(graph, starts, factor, linear, keep=wanted)
    at_kinks = {read.name for step in graph.factors if step.factor.kinked for read in step.reads}
    errors = {}
    for name in bounds:
        if graph.stands_for[name] in carried:
            error = carried[graph.stands_for[name]].error * (AT_KINKS if name in at_kinks else 1.0)
            most = torch.finfo(error.dtype).max / 4
            errors[name] = error.nan_to_num(nan=most, posinf=most).clamp(max=most)
    return errors


@dataclass(frozen=True, eq=False)
class _Estimate:
    """What `estimated_errors` carries along, (b, *shape) each: the error, and the largest size of the value."""

    error: Tensor
    size: Tensor


def _steepest(step: FactorStep, bounds: Intervals) -> Tensor:
    """The largest ``|d|`` of a factor over the bounds of what it reads, shaped like the step."""
    dl, du = step.factor.derivative_range(*(bounds[read.name] for read in step.reads))
    return torch.maximum(dl.abs(), du.abs())


@dataclass(frozen=True, eq=False)
class Proven:
    """What is carried along for proven errors, in float64; all of shape (b, *shape).

    Attributes:
        error: no less than the difference between the computed value at the centre of the region and the exact one.
        size: no less than the computed value there, in absolute value.
        spread: no less than the sum of the absolute values of all terms that linear bounds of the change from the
            centre on are made of.
    """

    error: Tensor
    size: Tensor
    spread: Tensor

    @staticmethod
    def at_input(center: Tensor, reach: Tensor) -> Proven:
        """The input: its centre is exact, and it moves by at most `reach`."""
        return Proven(torch.zeros_like(center), center.abs(), reach)

    @staticmethod
    def summed(step: LinearStep, arrived: Iterable[tuple[int, Proven | None]], value: Tensor | None) -> Proven:
        """Behind a linear step, `value` being what it computes if that is known."""
        there = [(i, each) for i, each in arrived if each is not None]
        terms = sum(step.sources[i][1].terms for i, _ in there)
        pushed = [
            step.sources[i][1].push_absolute(torch.cat((each.error, each.size, each.spread))).chunk(3)
            for i, each in there
        ]
        error, size, spread = (torch.stack(parts).sum(0) for parts in zip(*pushed))
        # Of the constant that is added up with them only the result is known: |b| <= |z| + |W| |h|.
        rounded = gamma(terms + 4) * (2 * size + (size if value is None else value.abs()))
        # The sums here are rounded, too.
        up, tiny = 1 + gamma(terms + 8), underflow(terms + 8)
        return Proven(
            up * (error + rounded) + tiny,
            up * (size if value is None else value.abs()) + tiny,
            up * spread + tiny,
        )

    def through(self, steepest: Tensor, width: Tensor, value: Tensor | None) -> Proven:
        """Behind a factor step with ``|d| <= steepest`` that moves over an interval of the given width."""
        up, tiny = 1 + gamma(_PER_FACTOR), underflow(_PER_FACTOR)
        size = steepest * self.size if value is None else value.abs()
        rounded = gamma(4 * _PER_FACTOR) * (size + steepest * self.size)
        # Lines in the change t have slopes of at most `steepest`, and constants of at most 4 times it times the width.
        spread = steepest * (self.spread + 4 * width)
        return Proven(up * (steepest * self.error + rounded) + tiny, up * size + tiny, up * spread + tiny)

    def of_rows(
        self,
        C: Tensor,  # shape: (b, k, *shape)
    ) -> Proven:
        """Of ``C z``, (b, k) each."""
        weights = C.flatten(2).abs()
        error, size, spread = (
            (weights @ each.flatten(1).unsqueeze(2)).squeeze(2) for each in (self.error, self.size, self.spread)
        )
        return Proven(error + gamma(weights.shape[2] + 8) * size, size, spread)

    def in_units_of(self, unit: float) -> Tensor:
        """The error of the value in an arithmetic that rounds by that unit instead of float64's."""
        return _COARSER * unit / 2.0**-52 * self.error

    def of_bound(self, relative: float, everywhere: float) -> Tensor:
        """Error of a linear bound: that of the value at the centre, of the bound of the change, and of their sum.

        Args:
            relative: gamma of the `roundings` of the change's terms.
            everywhere: sum of the spreads of all steps: a coefficient of each may have lost ``2^-1074`` to underflow.
        """
        total = self.error + relative * self.spread + gamma(4) * (self.size + self.spread)
        return ((total + underflow(1) * 2.0**-30 * everywhere) * (1 + gamma(8))).nan_to_num(nan=torch.inf)


def roundings(graph: Graph, rows: int) -> int:
    """Most roundings that one product of weights and slopes meets in a linear bound, or a derivative, of a graph.

    A way through the network passes every step at most once; there it is one of the terms of a sum, on the way forwards
    or back, and is multiplied by slopes and by numbers that are themselves rounded a few times.
    """
    linear = sum(
        sum(linear_map.terms for _, linear_map in step.sources) + 16
        for step in graph.steps
        if isinstance(step, LinearStep)
    )
    factors = sum(2 * torch.Size(step.shape).numel() + 4 * _PER_FACTOR for step in graph.factors)
    return linear + factors + 2 * graph.columns + rows + 64


@torch.no_grad()
def jacobian_error(
    graph: Graph,
    derivatives: Mapping[str, Layer],
    rows: Tensor,  # shape: (b, k, *output_shape)
    memory_budget: int,  # bytes
    planes: Mapping[str, float] | None = None,
) -> Tensor:
    r"""Proven absolute errors of bounds of the Jacobian's entries, and of weighted sums of them: (b, k, columns).

    The largest possible derivative in absolute value is the sum over all ways p from a coordinate to a row,

    .. math:: A_{kr} = \sum_p \prod_{w \in p} |w| \prod_{j \in p} \max(|\underline{d}_j|, |\overline{d}_j|).

    The terms of a pass add up to at most ``(1 + L) A`` over L layers of undetermined neurons: what goes on with the
    slopes of the lines, and their constants, layer by layer. Bounds of the gradients y of a layer, too, are off by
    rounding, and a line that holds on the rounded range fails on the true one by at most ``dl - du`` times that; with
    what they are off by themselves, layer after layer, this doubles the error at most L times:

    .. math:: E = 2^L \Big(1 + \sum_l s_l\Big) \gamma_N A .

    with ``s_l = 1`` for a layer with lines; planes have more terms.

    Source: own.

    Args:
        graph: the network.
        derivatives: derivative ranges of its factor steps.
        rows: C.
        memory_budget: bytes for a chunk of rows.
        planes: how large the terms of the planes of a layer get, relative to those of its lines, by name.
    """
    count = rows.shape[1]
    undetermined = sum(layer.count > 0 for layer in (derivatives[step.name] for step in graph.factors))
    paths, total = path_sums(graph, derivatives, rows, memory_budget)
    terms = 1 + undetermined + sum((planes or {}).values())
    relative = 2.0**undetermined * terms * gamma(2 * roundings(graph, count))
    return (relative * paths + underflow(1) * 2.0**-30 * total).nan_to_num(nan=torch.inf)


@torch.no_grad()
def path_sums(
    graph: Graph,
    derivatives: Mapping[str, Layer],
    rows: Tensor,  # shape: (b, k, *output_shape)
    memory_budget: int,  # bytes
) -> tuple[Tensor, Tensor]:
    """The A of `jacobian_error`, (b, k, columns), and the largest sum of such numbers over all layers, (b, 1, 1).

    Args:
        graph: the network.
        derivatives: derivative ranges of its factor steps.
        rows: C.
        memory_budget: bytes for a chunk of rows.
    """
    batch, count = rows.shape[:2]
    steepest = {}
    for step in graph.factors:
        ends = derivatives[step.name].dense(batch, torch.Size(step.shape).numel())
        steepest[step.name] = torch.maximum(*(end.abs() for end in ends)).reshape(batch, 1, *step.shape)
    tiny, total = underflow(roundings(graph, count)), torch.zeros(batch, 1, 1, dtype=rows.dtype, device=rows.device)

    def factor(step: FactorStep, value: Tensor) -> Tensor:
        nonlocal total
        total = total + value.flatten(2).sum(2, keepdim=True).amax(1, keepdim=True)
        return value * steepest[step.name] + tiny

    def linear(step: LinearStep, value: Tensor) -> Iterator[Tensor]:
        return (pulled + tiny for pulled in pull_absolute(step, value))

    widest = max(torch.Size(shape).numel() for shape in graph.shapes.values())
    chunks = []
    for part in rows.abs().split(chunk_size(memory_budget, 4 * batch * widest, rows), 1):
        start = part.reshape(*part.shape[:2], *graph.shapes[graph.output])
        arrived = backward(graph, graph.output, start, factor, linear)
        chunks.append(at_inputs(graph, arrived, part.flatten(2)[:, :, 0]))
    return torch.cat(chunks, 1) + tiny, total
