r"""Affine forms of all gradients of a smooth network, at the price of a few evaluations of it for each row.

The derivatives of a smooth network vary with its input, and so do the gradients y of the rows. Around the centre x0 of
the region, with ``t = z - z0`` the distances of the pre-activations from their values there, everything has a form that
is affine in x, and a radius for what it leaves out:

.. math:: t_l = T_l (x - x_0) + o_l \pm E_l, \qquad d_l = \beta_l t_l + \mu_l \pm \delta_l .

From a nominal gradient :math:`y^0`, that of the network with the middle derivatives :math:`d^0`, a product is

.. math:: d y = d^0 y + y^0 (d - d^0) + (d - d^0)(y - y^0), \qquad
    |(d - d^0)(y - y^0)| \le r_d \max |y - y^0| ,

so that, pulled back from the rows to every layer m,

.. math:: y_m \in y^0_m + h_m + F_m (x - x_0) \pm \sum_{l > m} |c_{l,m}|^T R_l, \qquad
    R_l = |y^0_l| (\delta_l + |\beta_l| E_l) + r_{d,l} \max |y_l - y^0_l| ,

    F_m = \sum_l W_{lm}^T (d^0_l F_l + y^0_l \beta_l T_l), \qquad
    h_m = \sum_l W_{lm}^T (d^0_l h_l + y^0_l (\beta_l o_l + \mu_l - d^0_l)),

with c the gains that have the middle derivatives inserted. Only F has a row for each pair of an output and an input
coordinate; all the rest is computed once for all rows, and both sides. Errors are of second order in the radius, as
those of planes (`mccormick`) are, which cost as much for every neuron's gradient as F does for all of them.

Source: own. Forms with a radius are affine arithmetic (de Figueiredo, Stolfi, Affine Arithmetic, Numerical Algorithms
37, 2004); F is the chain rule of second derivatives at the middle slopes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.gains.windows import Windows, find_windows
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import FactorStep, LinearStep
from recurjac_plugin.graph.sweeps import at_inputs, backward, forward, pull, push, times
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.memory import chunk_size, recomputed
from recurjac_plugin.numerics.region import Region

from .mccormick import NetworkRelaxation
from .remainders import spread

# What is done with one element of a form at a step, relative to a multiplication within a product of matrices.
_ELEMENT = 50


class Band(NamedTuple):
    """``slope t + offset -+ radius``, what a function of t lies in; shape (b, u) each."""

    slope: Tensor
    offset: Tensor
    radius: Tensor


def band(
    lines: Relaxation,  # shape: (b, u)
    middle: Tensor,  # shape: (b, u)
    half: Tensor,  # shape: (b, u)
) -> Band:
    """The band around two lines, where ``|t - middle| <= half``: its slope is the mean of theirs.

    Source: own.
    """
    slope, turn = (lines.upper_slope + lines.lower_slope) / 2, (lines.upper_slope - lines.lower_slope) / 2
    most = torch.where(turn == 0, 0.0, turn.abs() * half)  # an interval without end has parallel lines only
    high, low = lines.upper_constant + turn * middle + most, lines.lower_constant - turn * middle - most
    return Band(slope, (high + low) / 2, (high - low).clamp(min=0) / 2)


@dataclass(frozen=True, eq=False)
class AffinePass:
    """Bounds of the gradients of a network by affine forms, layer by layer from the rows back.

    Source: this module's.

    Attributes:
        gains: the exact part.
        graph: the network.
        rows: what is differentiated, shape (b, k, *output_shape).
        relaxation: lines of the activations and of the derivatives of all layers that have gains.
        memory_budget: largest number of bytes for one chunk of input coordinates.
        radii: R of the layers that have been reached, (b, k, u) each; it grows on the way back.
    """

    gains: Gains
    graph: Graph
    rows: Tensor
    relaxation: NetworkRelaxation
    memory_budget: int
    radii: dict[str, Tensor] = field(default_factory=dict)

    def bounds(self, source: str, windows: Windows | None) -> Interval:
        """Bounds of the derivative of the rows with respect to every neuron of one source, each (b, k, u).

        Args:
            source: a layer, or `INPUT`.
            windows: what its columns meet, if that is little.
        """
        radius = self._variation[source]
        if self.radii:
            radius = radius + spread(self.gains, source, self._middles, self.radii, self.memory_budget, windows)
        center = self._nominal[source] + self._offset[source]
        if self.relaxation.used is not None:
            radius = torch.where(self.relaxation.used[:, None, None], radius, torch.inf)
        return center - radius, center + radius

    def add(
        self,
        layer: str,
        lower: Tensor,  # shape: (b, k, u)
        upper: Tensor,  # shape: (b, k, u)
    ) -> None:
        """Take up the next layer on the way back, where y is in [lower, upper]: its R."""
        nominal, derivative = self._nominal[layer], self._derivatives[layer]
        away = torch.maximum(upper - nominal, nominal - lower)
        own = derivative.radius + derivative.slope.abs() * self._errors[layer]
        half = (self.gains.derivatives[layer].upper - self.gains.derivatives[layer].lower) / 2
        self.radii[layer] = nominal.abs() * own.unsqueeze(1) + half.unsqueeze(1) * away

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k, the form of the sum: (b, k)."""
        center = (weights * (self._nominal[INPUT] + self._offset[INPUT])).sum(2)
        away = spread(self.gains, INPUT, self._middles, self.radii, self.memory_budget, weights=weights)
        upper = center + self._swept(weights)[INPUT].squeeze(2) + away.squeeze(2)
        return upper if self.relaxation.used is None else torch.where(self.relaxation.used[:, None], upper, torch.inf)

    @cached_property
    def work(self) -> int:
        """About how many multiplications F takes for one region: all maps, for each row and input coordinate."""
        work = 0
        for step in self.graph.steps:
            size = torch.Size(step.shape).numel()
            maps = [linear for _, linear in step.sources] if isinstance(step, LinearStep) else []
            work += sum(torch.Size(each.output_shape).numel() * each.terms for each in maps) + _ELEMENT * size
        return self.rows.shape[1] * self.gains.columns * work

    # What the relaxations say

    @cached_property
    def _derivatives(self) -> dict[str, Band]:
        """Of the derivatives, by layer."""
        known = self.relaxation.derivatives.items()
        return self._bands({name: each.lines.mapped(lambda line: line.squeeze(1)) for name, each in known})

    @cached_property
    def _changes(self) -> dict[str, Band]:
        """Of the activations' changes, by layer."""
        return self._bands(self.relaxation.activations)

    def _bands(self, lines: Mapping[str, Relaxation]) -> dict[str, Band]:
        """Those around lines of shape (b, u), by layer."""
        return {
            name: band(lines[name], known.middle.squeeze(1), known.half.squeeze(1))
            for name, known in self.relaxation.derivatives.items()
        }

    @cached_property
    def _middles(self) -> dict[str, Tensor]:
        """d0 of the undetermined neurons, (b, u) by layer."""
        layers = ((name, self.gains.derivatives[name]) for name in self.gains.layers)
        return {name: (layer.lower + layer.upper) / 2 for name, layer in layers}

    @cached_property
    def _errors(self) -> dict[str, Tensor]:
        """E of every layer, (b, u): what the activations before it add to the form of t, on all ways together."""
        slopes = {name: each.slope for name, each in self._changes.items()}
        radii = {name: each.radius.unsqueeze(1) for name, each in self._changes.items()}
        found, backwards = {}, self.gains.transposed()
        for position, layer in enumerate(backwards.layers):
            before = backwards.layers[position + 1 :]
            if not before:
                found[layer] = torch.zeros_like(slopes[layer])
                continue
            windows = find_windows(backwards, layer, before)
            earlier = {name: radii[name] for name in before}
            found[layer] = spread(backwards, layer, slopes, earlier, self.memory_budget, windows).squeeze(1)
        return found

    # Sweeps over the network: every neuron of a layer takes part, those that are stable with their derivatives.

    def _everywhere(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Numbers of undetermined neurons, (b, *any, u) by layer, as (b, *any, *shape), 0 at all others."""
        return {
            step.name: self.gains.derivatives[step.name]
            .placed(values[step.name], torch.Size(step.shape).numel())
            .unflatten(-1, step.shape)
            for step in self.graph.factors
            if step.name in values
        }

    def _with_stable(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Numbers of undetermined neurons, (b, u) by layer, beside the derivatives of all others: (b, *shape)."""
        everywhere = {}
        for step in self.graph.factors:
            layer, size = self.gains.derivatives[step.name], torch.Size(step.shape).numel()
            value = layer.stable_of(self.gains.batch, size)
            if step.name in values:
                value = value + layer.placed(values[step.name], size)
            everywhere[step.name] = value.unflatten(-1, step.shape)
        return everywhere

    @cached_property
    def _multipliers(self) -> dict[str, Tensor]:
        """d0 of all neurons, (b, *shape) by factor step."""
        return self._with_stable(self._middles)

    @cached_property
    def _slopes(self) -> dict[str, Tensor]:
        """Slopes of the activations' changes, (b, *shape) by factor step."""
        return self._with_stable({name: each.slope for name, each in self._changes.items()})

    @cached_property
    def _read(self) -> frozenset[str]:
        """The steps that layers with gains multiply."""
        return frozenset(step.source for step in self.graph.factors if step.name in self.gains.layers)

    @cached_property
    def _nominal(self) -> dict[str, Tensor]:
        """y0 by source, (b, k, u)."""
        return self._pulled(self.rows, {})

    @cached_property
    def _offset(self) -> dict[str, Tensor]:
        """h by source, (b, k, u), from the offsets o of all pre-activations."""
        moved = self._everywhere({name: each.offset for name, each in self._changes.items()})
        starts = {name: self.rows.new_zeros(1, *self.graph.shapes[name]) for name in self.graph.inputs}
        offsets = forward(
            self.graph,
            starts,
            lambda step, value: value * self._slopes[step.name] + moved.get(step.name, 0.0),
            push,
            self._read,
        )
        added = {}
        for step in self.graph.factors:
            if step.name in self.gains.layers:
                layer, line = self.gains.derivatives[step.name], self._derivatives[step.name]
                offset = layer.select(offsets[step.source].flatten(1).unsqueeze(1)).squeeze(1)
                added[step.name] = line.slope * offset + line.offset - self._middles[step.name]
        return self._pulled(torch.zeros_like(self.rows), self._times_nominal(added))

    def _times_nominal(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Numbers of neurons times their nominal gradients, (b, k, *shape) by factor step."""
        return self._everywhere({name: self._nominal[name] * value.unsqueeze(1) for name, value in values.items()})

    def _pulled(self, start: Tensor, added: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows pulled back with the middle derivatives, something added behind every layer: (b, k, u) by source."""
        found: dict[str, Tensor] = {}

        def factor(step: FactorStep, value: Tensor) -> Tensor:
            if step.name in self.gains.layers:
                found[step.name] = self.gains.derivatives[step.name].select(value.flatten(2))
            passed = value * self._multipliers[step.name].unsqueeze(1)
            return passed + added[step.name] if step.name in added else passed

        arrived = backward(self.graph, self.graph.output, start, factor, pull)
        found[INPUT] = at_inputs(self.graph, arrived, start.flatten(2)[:, :, 0])
        return self._complete(found)

    def _complete(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same with zeros for layers that nothing arrived at."""
        for name in self.gains.layers:
            if name not in found:
                found[name] = self.rows.new_zeros(*self.rows.shape[:2], self.gains.count(name))
        return found

    @cached_property
    def _variation(self) -> dict[str, Tensor]:
        """The largest ``F (x - x0)`` over the region by source, (b, k, u)."""
        return self._swept(None)

    def _swept(self, weights: Tensor | None) -> dict[str, Tensor]:
        """What `_variation` has; with weights, only for the weighted sum of the entries of every row, (b, k, 1)."""
        slopes = self._times_nominal({name: each.slope for name, each in self._derivatives.items()})
        _ = self._slopes, self._multipliers  # what is computed again for the backward pass finds them there
        kept = 6 * self.rows.shape[0] * self.rows.shape[1] * self.rows.element_size()
        kept *= sum(torch.Size(step.shape).numel() for step in self.graph.steps)
        total: dict[str, Tensor] = {}
        for name, chosen, region in self._parts():

            def swept(chosen: slice, name: str = name, region: Region = region) -> dict[str, Tensor]:
                return self._varying(name, chosen, region, slopes, weights)

            chunk = recomputed(swept, self.gains.columns * kept, self.memory_budget)
            for source, value in chunk(chosen).items():
                total[source] = total[source] + value if source in total else value
        return total if weights is not None else self._complete(total)

    def _parts(self) -> Iterator[tuple[str, slice, Region]]:
        """Chunks of the coordinates of the inputs: the input, the chunk, and where its coordinates lie."""
        widest = max(torch.Size(shape).numel() for shape in self.graph.shapes.values())
        size = chunk_size(self.memory_budget, 6 * self.rows.shape[0] * self.rows.shape[1] * widest, self.rows)
        for name, region in zip(self.graph.inputs, self.relaxation.inputs, strict=True):
            if region.norm < math.inf:  # all coordinates have one radius together
                yield name, slice(0, region.columns), region
                continue
            center, reach = region.center.flatten(1), region.reach
            for start in range(0, region.columns, size):
                chosen = slice(start, min(start + size, region.columns))
                yield name, chosen, Region(center[:, chosen], region.norm, reach[:, chosen])

    def _varying(
        self, name: str, chosen: slice, region: Region, slopes: Mapping[str, Tensor], weights: Tensor | None
    ) -> dict[str, Tensor]:
        """The largest ``F (x - x0)`` over some coordinates of one input, by source."""
        graph, count, found = self.graph, chosen.stop - chosen.start, {}
        units = self.rows.new_zeros(count, torch.Size(graph.shapes[name]).numel())
        units[:, chosen] = torch.eye(count, dtype=units.dtype, device=units.device)
        multipliers = {step: value.unsqueeze(1) for step, value in self._slopes.items()}
        start = {name: units.reshape(1, count, *graph.shapes[name])}
        tangents = forward(graph, start, times(multipliers), push, self._read)

        def largest(source: str, F: Tensor) -> None:  # F of shape (b, k, r, u)
            if region.norm == math.inf:
                found[source] = (region.reach[:, None, None] @ F.abs()).squeeze(2)
            else:
                found[source] = region.concretize(F.transpose(2, 3).flatten(1, 2)).reshape(*F.shape[:2], F.shape[3])

        def factor(step: FactorStep, value: Tensor) -> Tensor:  # shape: (b, k, r, *step.shape)
            if weights is None and step.name in self.gains.layers:
                F = self.gains.derivatives[step.name].select(value.flatten(3).flatten(1, 2))
                largest(step.name, F.unflatten(1, value.shape[1:3]))
            middle = self._multipliers[step.name][:, None, None]
            tangent = tangents.get(step.source)
            if step.name not in slopes or tangent is None:
                return value * middle
            return torch.addcmul(slopes[step.name].unsqueeze(2) * tangent.unsqueeze(1), value, middle)

        lead = (*self.rows.shape[:2], count)
        zero = self.rows.new_zeros(*lead, *graph.shapes[graph.output])
        arrived = at_inputs(graph, backward(graph, graph.output, zero, factor, pull), zero.flatten(3)[..., 0])
        largest(INPUT, arrived if weights is None else arrived @ weights.unsqueeze(3))
        return found


def affine_pass(
    gains: Gains, graph: Graph, rows: Tensor, relaxation: NetworkRelaxation, memory_budget: int
) -> AffinePass | None:
    """The affine pass of a network, if all its uncertain derivatives have lines; None otherwise.

    Of a derivative that jumps a form knows no more than a range, which lines in y make more of.

    Args:
        gains: of this graph.
        graph: the network.
        rows: what is differentiated, shape (b, k, *output_shape).
        relaxation: of the same.
        memory_budget: bytes for one chunk.

    Source: own.
    """
    if relaxation.derivatives.keys() != {*gains.layers}:
        return None
    return AffinePass(gains, graph, rows, relaxation, memory_budget)
