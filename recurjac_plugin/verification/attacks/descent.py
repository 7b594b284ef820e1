r"""Search for counterexamples by projected gradient descent.

For one box ``l <= x <= u`` and one disjunct ``A y <= b`` of it,

.. math:: \min_{z \in [0, 1]^n} \; \max_k \; (A f(l + (u - l) z) - b)_k

is looked for; wherever the maximum is at most 0 the property is violated. Many starts descend at once, each towards its
own (box, disjunct) pair, with Adam, and are clipped to the box after every step. Only what `counterexample.check`
confirms is returned.

Source: projected gradient descent of Madry, Makelov, Schmidt, Tsipras, Vladu, ICLR 2018, arXiv:1706.06083, with the
steps of Kingma, Ba: Adam, ICLR 2015, arXiv:1412.6980, Algorithm 1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, counted
from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.properties.spec import Polytope, Spec
from recurjac_plugin.verification.counterexample import Counterexample, Session, check, representable_bounds

_TRIES = 8  # random points per start, of which the best is taken
_ALONE = 2  # the same where nothing descends from it: a point and a corner, which is cheaper than the first bounds
_CHECKS = 4  # candidates confirmed by onnxruntime per step at most
_ELEMENTS = 1 << 16  # inputs of a batch taken together
_PRODUCTS = 1 << 28  # weights of the network times inputs of a batch
_LEAST, _MOST = 16, 1024  # starts in a batch
_LENGTHS = 4  # many short descents find some counterexamples, a few long ones others: both take turns
_MOMENTS, _TINY = (0.9, 0.999), 1e-8  # Adam's constants
_SMALL_RATES = (0.01, 0.0005)
_RATES = (0.1, 0.005)  # Adam's step at the beginning and at the end, in widths of the box


@dataclass(frozen=True)
class _Targets:
    """All (box, disjunct) pairs of a property; short conjunctions get additional rows that hold."""

    lower: Tensor  # [t, n_inputs]
    upper: Tensor  # [t, n_inputs]
    A: Tensor  # [t, m, n_outputs]
    b: Tensor  # [t, m]
    source: Tensor | None  # [t, n_inputs], the input that each one must be equal to; None for itself

    @classmethod
    def of(cls, spec: Spec, dtype: torch.dtype, device: torch.device) -> _Targets:
        pairs = [(i, polytope) for i, box in enumerate(spec.boxes) for polytope in box.disjuncts]
        rows = max(len(polytope.b) for _, polytope in pairs)
        A = np.zeros((len(pairs), rows, spec.n_outputs))
        b = np.full((len(pairs), rows), np.inf)
        for target, (_, polytope) in enumerate(pairs):
            A[target, : len(polytope.b)] = polytope.A
            b[target, : len(polytope.b)] = polytope.b
        numpy_type = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
        bounds = [representable_bounds(box, numpy_type) for box in spec.boxes]
        # Where no number lies between the bounds, both become the one nearest to them.
        ends = [(np.minimum(lo, hi), np.where(lo <= hi, hi, np.minimum(lo, hi))) for lo, hi in bounds]
        index = [i for i, _ in pairs]
        lower, upper = (np.stack([end[side] for end in ends])[index] for side in (0, 1))
        source = _equal_inputs(spec, [polytope for _, polytope in pairs], lower, upper)
        low, high, rows_of, right = (torch.from_numpy(a).to(device, dtype) for a in (lower, upper, A, b))
        return cls(low, high, rows_of, right, None if source is None else torch.from_numpy(source).to(device))

    def __len__(self) -> int:
        return len(self.b)

    def take(self, index: Tensor) -> _Targets:
        source = None if self.source is None else self.source[index]
        return _Targets(self.lower[index], self.upper[index], self.A[index], self.b[index], source)

    def points(self, z: Tensor) -> Tensor:  # z: [t, n_inputs] in [0, 1] -> x: [t, n_inputs]
        x = torch.clamp(self.lower + (self.upper - self.lower) * z, self.lower, self.upper)
        return x if self.source is None else x.gather(1, self.source)

    def loss(self, y: Tensor) -> Tensor:  # y: [t, n_outputs] -> [t]
        worst = ((self.A @ y.unsqueeze(-1)).squeeze(-1) - self.b).amax(1)
        return torch.where(worst.isnan(), torch.inf, worst)


def _equal_inputs(spec: Spec, polytopes: Sequence[Polytope], lower: np.ndarray, upper: np.ndarray) -> np.ndarray | None:
    """The first of the inputs that the rows of each target make equal, [t, n_inputs]; None where none are.

    No descent meets an equality exactly. Bounds of equal inputs, [t, n_inputs], become what all of them allow.
    """
    if not spec.inputs_appended:
        return None
    source = np.tile(np.arange(spec.n_inputs), (len(polytopes), 1))
    for target, polytope in enumerate(polytopes):
        rows = [tuple(row) for row in np.concatenate([polytope.A, polytope.b[:, None]], 1).tolist()]
        for row in set(rows) & {tuple(-each for each in row) for row in rows}:
            used = np.flatnonzero(row)
            if len(used) == 2 and used[0] >= spec.n_outputs - spec.n_inputs and row[used[0]] == -row[used[1]]:
                first, second = source[target, used - (spec.n_outputs - spec.n_inputs)]
                source[target][source[target] == max(first, second)] = min(first, second)
        for first in np.unique(source[target]):
            same = source[target] == first
            lower[target, same], upper[target, same] = lower[target, same].max(), upper[target, same].min()
    return source


def find_counterexample(
    network: OnnxNetwork,
    spec: Spec,
    session: Session,
    *,
    seconds: float = 5.0,
    rounds: int | None = None,
    first_round: int = 0,
    steps: int = 30,
    seed: int = 0,
    starts: Tensor | None = None,
) -> Counterexample | None:
    """Look for an input that violates a property.

    Args:
        network: as `load_onnx` returns it; it is evaluated and differentiated, not changed.
        spec: the property.
        session: the same network on onnxruntime, which has the last word.
        seconds: stop after this time.
        rounds: stop after this many rounds of new starts; None means only `seconds` counts.
        first_round: number of the first round, where an attack goes on that was interrupted.
        steps: gradient steps of round 0, 0 for random points alone; the next ones take 2, 4 and 8 times as
            many, then it starts over.
        seed: of the random starts; the centre of every box is a start of round 0.
        starts: points (n, n_inputs) to descend from with small steps, once and towards every disjunct of every box,
            instead of from random ones.

    Returns:
        A confirmed counterexample, or None if none was found, which proves nothing.

    Raises:
        InputError: the property is not about a network with these numbers of inputs and outputs.
    """
    n_inputs = int(np.prod(network.input_shape))
    if (spec.n_inputs, spec.n_outputs) != (n_inputs, network.n_outputs):
        raise InputError(
            f"`spec` has {counted(spec.n_inputs, 'input')} and {counted(spec.n_outputs, 'output')}: expected "
            f"{n_inputs} and {network.n_outputs} as the network; give the property that belongs to it."
        )
    descent = _Descent(network, spec, session, time.monotonic() + seconds, seed)
    if starts is not None:
        return descent.near(starts, steps)
    number = first_round
    while time.monotonic() < descent.deadline and (rounds is None or number < first_round + rounds):
        counterexample = descent.round(number, steps * 2 ** (number % _LENGTHS))
        if counterexample is not None:
            return counterexample
        number += 1
    return None


class _Descent:
    """One attack: the targets, the generator of starts, and the time at which to stop."""

    def __init__(self, network: OnnxNetwork, spec: Spec, session: Session, deadline: float, seed: int) -> None:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        self.network, self.spec, self.session, self.deadline = network, spec, session, deadline
        self.targets = _Targets.of(spec, network.dtype, device)
        self.random = torch.Generator().manual_seed(seed)
        weights = max(1, sum(parameter.numel() for parameter in network.parameters()))
        self.size = min(max(min(_ELEMENTS // spec.n_inputs, _PRODUCTS // weights), _LEAST), _MOST)

    def round(self, number: int, steps: int) -> Counterexample | None:
        """Descend from one batch of starts; batches go through the targets in turn."""
        index = (torch.arange(self.size) + number * self.size) % len(self.targets)
        targets = self.targets.take(index.to(self.targets.b.device))
        # The best of many points often lead to the same few places: every other round starts anywhere.
        tries = (_TRIES if number % 2 == 0 else 1) if steps else _ALONE
        z, met = self._starts(targets, tries, centre=number * self.size < len(self.targets))
        return met if met is not None else self._descended(z, targets, steps, _RATES)

    def near(self, starts: Tensor, steps: int) -> Counterexample | None:
        """Descend from given points, each towards every target."""
        index = torch.arange(len(self.targets.b), device=self.targets.b.device).repeat(len(starts))
        targets = self.targets.take(index)
        extent = targets.upper - targets.lower
        z = (starts.to(extent).repeat_interleave(len(self.targets.b), 0) - targets.lower) / torch.where(
            extent > 0, extent, 1.0
        )
        return self._descended(z.clamp(0.0, 1.0), targets, steps, _SMALL_RATES)

    def _descended(self, z: Tensor, targets: _Targets, steps: int, rates: tuple[float, float]) -> Counterexample | None:
        """Follow the gradient from every start, (t, n_inputs) across its box, and confirm what is met."""
        z = z.detach().requires_grad_(True)
        mean, square = torch.zeros_like(z), torch.zeros_like(z)
        for step in range(1, steps + 1):
            if time.monotonic() > self.deadline:
                return None
            x = targets.points(z)
            loss = targets.loss(self._outputs(x))
            counterexample = self._confirmed(x.detach(), loss.detach())
            if counterexample is not None:
                return counterexample
            if not loss.requires_grad:
                return None  # steps all the way: there is nothing to descend
            (gradient,) = torch.autograd.grad(loss.sum(), z, materialize_grads=True)
            rate = rates[0] * (rates[1] / rates[0]) ** ((step - 1) / steps)
            with torch.no_grad():
                # Adam, written out: torch.optim imports the compiler, which takes as long as a verification.
                mean = torch.lerp(gradient, mean, _MOMENTS[0])
                square = torch.lerp(gradient.square(), square, _MOMENTS[1])
                unbiased = (square / (1 - _MOMENTS[1] ** step)).sqrt() + _TINY
                z -= rate * (mean / (1 - _MOMENTS[0] ** step)) / unbiased
                z.clamp_(0.0, 1.0)
        return None

    def _starts(self, targets: _Targets, tries: int, centre: bool) -> tuple[Tensor, Counterexample | None]:
        """The best of some random points and corners for every target, or a counterexample met on the way."""
        shape = (len(targets), self.spec.n_inputs)
        best = torch.full(shape, 0.5).to(targets.b)
        least = torch.full((len(targets),), torch.inf).to(targets.b)
        for attempt in range(tries):
            z = torch.rand(shape, generator=self.random)
            if attempt % 2:
                z = z.round()
            if centre and attempt == 0:
                z[: len(self.targets)] = 0.5
            z = z.to(targets.b)
            x = targets.points(z)
            with torch.no_grad():
                loss = targets.loss(self._outputs(x))
            counterexample = self._confirmed(x, loss)
            if counterexample is not None or time.monotonic() > self.deadline:
                return best, counterexample
            better = loss < least
            best, least = torch.where(better.unsqueeze(1), z, best), torch.where(better, loss, least)
        return best, None

    def _outputs(self, x: Tensor) -> Tensor:  # x: [t, n_inputs] -> [t, n_outputs]
        x = x.reshape(-1, *self.network.input_shape)
        return self.network(x) if self.network.takes_batches else torch.cat([self.network(row) for row in x.split(1)])

    def _confirmed(self, x: Tensor, loss: Tensor) -> Counterexample | None:
        """A counterexample among the points of loss at most 0, the smallest first."""
        if bool((loss > 0).all()):
            return None
        for i in loss.argsort()[:_CHECKS].tolist():
            if loss[i] > 0:
                return None
            counterexample = check(self.spec, self.session, x[i].cpu().numpy())
            if counterexample is not None:
                return counterexample
        return None
