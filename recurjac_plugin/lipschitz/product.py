"""Global Lipschitz constants: products of the operator norms of a network's layers, the classical baseline.

The graph is cut at its activations into linear parts. A part with inputs h_j, of constants L_j, and matrices A_j to its
output has the constant of ``sum_j A_j h_j``, an activation that of its input times ``sup |s'|``; the formulas are in
`global_lipschitz`. From the input, whose constant is 1, to the output one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError, MethodError, UnsupportedError
from recurjac_plugin.gains.gains import compute_gains
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.linear_maps import Embedding, LinearMap
from recurjac_plugin.graph.steps import ActivationFactor, LinearStep
from recurjac_plugin.graph.sweeps import Arrived, ancestors, backward, forward, stop
from recurjac_plugin.host.library import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read, specification
from recurjac_plugin.host.region import require_full_type, through_float32
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.methods import GLOBAL_METHODS, OPERATOR_NORM, GlobalMethodName, Norm, parse_global
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.memory import memory_budget
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import sum_error

from .ellipsoids import Grams, jacobian_grams
from .operator_norms import SMALL, fused, in_double, matrix_norm, operator_norm

NORMS = (1.0, 2.0, math.inf)
"""The p for which operator norms have a formula."""


_NEURONS, _COLUMNS = 2048, 4096  # of networks that this is worth its time for

# Where the derivative of an activation is looked at for its largest value: beyond its critical points it is monotone,
# and has a limit there only if its growth from one of these to the next falls.
_FAR = (1e4, 1e8, 1e12)


@torch.no_grad()
@through_float32
@full_precision()
def global_lipschitz(
    model: nn.Module,
    *,
    norm: Norm,
    method: GlobalMethodName | None = None,
    C: Tensor | None = None,
    per_output: bool = False,
    reference: nn.Module | None = None,
) -> Tensor:
    r"""Upper bound of the Lipschitz constant of ``C f`` on the whole space, in the l_p norm on both sides.

    For a network ``A_n s_{n-1}(... s_1(A_1 x))`` it is the product of operator norms

    .. math:: |g(x) - g(x')|_p \le \lVert C A_n \rVert_p \prod_{i<n} \sup|s_i'| \, \lVert A_i \rVert_p
        \; |x - x'|_p .

    The A_i are whole linear stretches between activations (a convolution with its batch normalisation, a skip
    connection around linear layers), written out where they are small. Where branches h_j with constants L_j meet in
    ``sum_j A_j h_j``, the constant is the largest over the rows i of ``sum_j L_j sum_c |A_j|_ic`` for p = inf,
    ``sum_j L_j ||A_j||`` for p = 1, and the smaller of ``sqrt(sum_jk L_j L_k ||A_j^T A_k||)`` and
    ``||[A_1 A_2 ...]|| |L|_2`` for p = 2; all are at most ``sum_j L_j ||A_j||``.

    For p = 2 it is no more than what ellipsoids that hold all Jacobians say (`recurjac_plugin.lipschitz.ellipsoids`),
    which take into account in which directions a layer stretches; these are for networks of up to 2048 neurons.

    Norms for p = 1 and inf are exact; those for p = 2 are exact for small or dense layers, and certified from above for
    others, see `recurjac_plugin.lipschitz.operator_norms`.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        norm: p, one of 1, 2 and inf.
        method: ``"Operator-Norm"`` for the product alone; None for the smaller one of both.
        C: specification matrix, shape (b, k, n_out); None takes every output.
        per_output: one constant per row instead of one for the vector output; with q dual to p, the row's own operator
            norm is ``|C_k A_n|_q``.
        reference: as in `jacobian_bounds`.

    Returns:
        Shape (1,), or (1, k) with `per_output`; the leading size is b where C has b matrices. Of the model's dtype and
        device, rounded up.

    Raises:
        InputError: another norm, or C does not fit the model.
        MethodError: another method.
        UnsupportedError: the network has parts without a rule, or activations whose derivative is not bounded; all of
            them are listed.

    Source:
        Szegedy et al.: Intriguing properties of neural networks, ICLR 2014, section 4.3; the baseline of RecurJac's
        experiments.
    """
    declare(model, reference)
    if not isinstance(norm, (int, float)) or norm not in NORMS:
        raise InputError(f"`norm` must be 1, 2 or inf, got {norm!r}; operator norms have no formula for others.")
    if method is not None and parse_global(method) is None:
        raise MethodError(f"`method` must be None or one of {', '.join(GLOBAL_METHODS)}, got {method!r}.")
    graph, output = _read(model)
    rows = specification(C, output.expand(_batch_of(C), *output.shape[1:]))
    composition = _Composition(graph, float(norm), output)
    starts = rows.double().reshape(*rows.shape[:2], *graph.shapes[graph.output])
    numbers = [composition.of_rows(start, per_output) for start in starts]
    constants = torch.tensor(numbers, dtype=torch.float64, device=output.device)
    if method is None and norm == 2:
        constants = torch.minimum(constants, _by_ellipsoids(graph, starts, per_output))
    return _rounded_up(constants, output.dtype)


def _by_ellipsoids(graph: Graph, starts: Tensor, per_output: bool) -> Tensor:
    """The constants of rows (b, k, *output_shape) by matrices above Gram matrices: (b,), or (b, k) per output."""
    found = []
    for rows in starts.split(1):
        grams = grams_everywhere(graph, rows)
        if grams is None:
            return starts.new_tensor(math.inf)
        found.append(grams.rows(2.0, graph.columns) if per_output else grams.constant(2.0, 2.0, graph.columns))
    return torch.cat(found)


def _batch_of(C: Any) -> int:
    return len(C) if isinstance(C, Tensor) and C.dim() == 3 and len(C) > 0 else 1


def _read(model: Any) -> tuple[Graph, Tensor]:
    """The graph of a model, and its output for one sample: (1, *output_shape)."""
    if not isinstance(model, BoundedModule):
        raise InputError(
            f"`model` must be auto_LiRPA's `BoundedModule`, got {type(model).__name__}; wrap it as "
            "`BoundedModule(model, example_input)`."
        )
    inputs = model.global_input  # the example that the model was built with: a tensor on 0.3, else a tuple
    inputs = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    if len(inputs) != 1:
        raise UnsupportedError(
            "The model", [f"{len(inputs)} inputs"], f"`{OPERATOR_NORM}` takes networks with one input."
        )
    example = inputs[0].detach()
    parameter = next(model.parameters(), None)
    example = example if parameter is None else example.to(parameter)
    require_full_type("`model`", example.dtype)
    example = torch.zeros_like(example)  # any point will do: only shapes and constants are read
    problem = read(model, BoundedTensor(example, PerturbationLpNorm(norm=math.inf, eps=0.0)))
    return problem.graph, problem.host_graph.output[:1]


def _rounded_up(value: Tensor, dtype: torch.dtype) -> Tensor:
    nearest = value.to(dtype)
    above = torch.nextafter(nearest, torch.full_like(nearest, math.inf))
    return torch.where(nearest.double() < value, above, nearest)


@dataclass(frozen=True)
class _Partial:
    """A step as ``tail(g(x))``, where g has the Lipschitz constant `constant`; without a tail it is g itself."""

    constant: float
    tail: LinearMap | None = None


class _Composition:
    """Lipschitz constants of all activations of a graph, from the input on.

    Args:
        graph: the network.
        norm: 1, 2 or inf.
        like: a tensor of the network's number type and device.

    Raises:
        UnsupportedError: derivatives of activations are not bounded.
    """

    def __init__(self, graph: Graph, norm: float, like: Tensor) -> None:
        self.graph, self.norm, self.like = graph, norm, like
        self.maps = {
            step.name: tuple(in_double(linear, like) for _, linear in step.sources)
            for step in graph.steps
            if isinstance(step, LinearStep)
        }
        slopes = largest_slopes(graph, like.device)
        self.constants = dict.fromkeys(graph.inputs, 1.0)
        for step in graph.factors:
            self.constants[step.name] = slopes[step.name] * self._of_step(step.source)

    def of_rows(self, rows: Tensor, per_output: bool) -> float | list[float]:
        """The constant of the output under rows (k, *output_shape), or one for each row."""
        matrices = self._matrices(self._linear_part(self.graph.output), rows)
        if not per_output:
            return self._joint(matrices)
        dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self.norm]
        terms = [
            self.constants[name]
            * torch.linalg.vector_norm(matrix, ord=dual, dim=1)
            * (1 + sum_error(max(matrix.shape)))
            for name, matrix in matrices.items()
        ]
        return torch.stack(terms).sum(0).tolist()

    def _of_step(self, name: str) -> float:
        """The Lipschitz constant of one step."""
        part = self._linear_part(name)
        if not part.steps:
            return self.constants[name]
        size = math.prod(self.graph.shapes[name])
        widest = max(math.prod(self.graph.shapes[each]) for each in part.position)
        if size * widest <= SMALL and len(part.steps) > 1:
            units = torch.eye(size, dtype=torch.float64, device=self.like.device)
            return self._joint(self._matrices(part, units.reshape(-1, *self.graph.shapes[name])))
        return self._chained(part)

    def _linear_part(self, name: str) -> Graph:
        """The linear steps between a step and the activations, or inputs, that it is computed from: its inputs."""
        there = ancestors(self.graph, name, lambda step: False)
        steps = tuple(step for step in self.graph.steps if step.name in there and isinstance(step, LinearStep))
        linear = {step.name for step in steps}
        # Listed from the output back, as their matrices are added up.
        inputs = dict.fromkeys(source for step in steps[::-1] for source, _ in step.sources if source not in linear)
        return replace(self.graph, steps=steps, inputs=tuple(inputs) or (name,), output=name)

    def _matrices(self, part: Graph, rows: Tensor) -> dict[str, Tensor]:
        """The matrix of rows, shape (k, *output_shape), in every input of a linear part: (k, inputs)."""

        def pulled(step: LinearStep, value: Tensor) -> Iterator[Tensor]:
            return (linear.pull(value) for linear in self.maps[step.name])

        arrived = backward(part, part.output, rows, stop, pulled)
        return {name: arrived[name].flatten(1) for name in part.inputs}

    def _joint(self, matrices: Mapping[str, Tensor]) -> float:
        """The constant of ``sum_j A_j h_j`` for ``|h_j(x) - h_j(x')| <= L_j |x - x'|``."""
        parts = list(matrices.values())
        weights = [self.constants[name] for name in matrices]
        norms = [matrix_norm(part, self.norm) for part in parts]
        plain = math.fsum(weight * size for weight, size in zip(weights, norms, strict=True))
        if len(parts) == 1 or self.norm == 1:
            return plain
        if self.norm == math.inf:
            sums = [
                weight * part.abs().sum(1) * (1 + sum_error(max(part.shape)))
                for weight, part in zip(weights, parts, strict=True)
            ]
            return float(torch.stack(sums).sum(0).max())
        stacked = matrix_norm(torch.cat(parts, 1), 2.0) * math.hypot(*weights)
        crossed = math.fsum(
            weights[i] * weights[j] * (norms[i] ** 2 if i == j else 2 * matrix_norm(parts[i].T @ parts[j], 2.0))
            for i in range(len(parts))
            for j in range(i + 1)
        )
        return min(plain, stacked, math.sqrt(crossed))

    def _chained(self, part: Graph) -> float:
        """The constant of a linear part from the norms of its maps, neighbours taken together if that costs nothing."""

        def joined(step: LinearStep, arrived: Arrived[_Partial]) -> _Partial:
            maps = self.maps[step.name]
            extended = [self._extended(partial, maps[i]) for i, partial in arrived]
            if len(maps) == 1:
                return extended[0]
            constants = [self._closed(partial) for partial in extended]
            places = {linear.offset for linear in maps if isinstance(linear, Embedding)}
            together = math.fsum(constants)
            if len(places) == len(maps):  # the parts of a concatenation do not meet
                together = max(constants) if self.norm == math.inf else together
                together = math.hypot(*constants) if self.norm == 2 else together
            return _Partial(together)

        starts = {name: _Partial(self.constants[name]) for name in part.inputs}
        return self._closed(forward(part, starts, stop, joined)[part.output])

    def _extended(self, partial: _Partial, linear: LinearMap) -> _Partial:
        if partial.tail is None:
            return _Partial(partial.constant, linear)
        joined = fused(partial.tail, linear)
        return _Partial(self._closed(partial), linear) if joined is None else _Partial(partial.constant, joined)

    def _closed(self, partial: _Partial) -> float:
        return partial.constant * (1.0 if partial.tail is None else operator_norm(partial.tail, self.norm))


def largest_slopes(graph: Graph, device: torch.device) -> dict[str, float]:
    """The largest ``|s'|`` on the real line of every activation.

    Raises:
        UnsupportedError: lists all activations for which there is none.
    """
    slopes, offenders = {}, []
    for step in graph.factors:
        if not isinstance(step.factor, ActivationFactor):
            offenders.append(f"`{step.name.partition(':')[0]}`: products and extremes have no operator norm")
            continue
        slope = _largest_slope(step.factor, step.shape, device)
        if math.isfinite(slope):
            slopes[step.name] = slope
        else:
            name = step.factor.activation.name
            offenders.append(f"`{step.name}` ({name}): its derivative is not bounded on the real line")
    if offenders:
        raise UnsupportedError(
            "The network",
            list(dict.fromkeys(offenders)),
            "It has no global Lipschitz constant here; bound a local one, `local_lipschitz`.",
        )
    return slopes


def _largest_slope(factor: ActivationFactor, shape: tuple[int, ...], device: torch.device) -> float:
    found = slope_range(factor, shape, device)
    return math.inf if found is None else float(torch.stack(found).abs().max())


def slope_range(factor: ActivationFactor, shape: tuple[int, ...], device: torch.device) -> Interval | None:
    """The smallest and the largest derivative on the real line, (1, *shape) each in float64; None if it has none."""
    seen = []
    for far in _FAR:
        end = torch.full((1, *shape), far, dtype=torch.float64, device=device)
        seen.append(factor.derivative_range((-end, end)))
    if not all(bool(bound.isfinite().all()) for bounds in seen for bound in bounds):
        return None
    sizes = [float(torch.maximum(low.abs(), high.abs()).max()) for low, high in seen]
    if sizes[2] - sizes[1] > (sizes[1] - sizes[0]) / 2:
        return None
    (_, _), (low, high), (lowest, highest) = seen
    # What is left to the limit.
    return lowest - (low - lowest).clamp(min=0), highest + (highest - high).clamp(min=0)


def grams_everywhere(graph: Graph, rows: Tensor) -> Grams | None:
    """`jacobian_grams` of rows on the whole space, of one region; None for networks that are too large.

    Args:
        graph: a network whose factor steps are activations with bounded derivatives.
        rows: what is differentiated, shape (1, k, *output_shape), float64.
    """
    sizes = [math.prod(step.shape) for step in graph.factors]
    if sum(sizes) > _NEURONS or graph.columns > _COLUMNS:
        return None
    steps = tuple(
        replace(step, sources=tuple((name, in_double(linear, rows)) for name, linear in step.sources))
        if isinstance(step, LinearStep)
        else step
        for step in graph.steps
    )
    derivatives = {}
    for step in graph.factors:
        assert isinstance(step.factor, ActivationFactor)
        found = slope_range(step.factor, step.shape, rows.device)
        if found is None:
            return None
        index = torch.arange(math.prod(step.shape), device=rows.device).unsqueeze(0)
        derivatives[step.name] = Layer(index, found[0].flatten(1), found[1].flatten(1), None)
    gains = compute_gains(replace(graph, steps=steps), derivatives, rows, memory_budget(None, rows.device))
    return jacobian_grams(gains)
