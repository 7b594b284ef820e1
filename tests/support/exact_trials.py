"""Random exact networks with boxes, what the package says about them, and whether that is so."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from cases.case import on_host
from exact import KINDS, ExactNetwork, Truth, exact_network, least_where
from oracle import Box
from properties import box, polytope, spec_of
from random_operators import Choices
from torch import Tensor

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03
from recurjac_plugin.verification.verdicts import Result, Verdict

RIGOROUS = "rigorous" in inspect.signature(rj.jacobian_bounds).parameters
"""Whether this version has rigorous bounds."""

BUILT = tuple(kind for kind in KINDS if not (IS_03 and kind in ("max", "min")))
"""The kinds of layers that the host can build: 0.3 has no maximum or minimum of two tensors."""

DELTAS = (0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-4, 1e-2, 0.3)
"""How far thresholds lie from the true minimum, relative to the outputs' size, on either side."""


@dataclass(frozen=True)
class ExactTrial:
    """A network and boxes, as plain data: printed, it makes the same ones again.

    Attributes:
        kinds, widths: of the hidden layers.
        outputs: number of outputs.
        seed: of the weights, and of the boxes.
        single: whether the module is in float32.
        scale: power of ten of the first layer's weights; the last one's have its negative.
        offset: power of ten of the centre, None for the origin.
        radii: of the boxes, powers of ten; never less than what the type can tell apart at the centre.
    """

    kinds: tuple[str, ...]
    widths: tuple[int, ...]
    outputs: int
    seed: int
    single: bool
    scale: int
    offset: int | None
    radii: tuple[float, ...]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.single else torch.float64

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of the boxes, (b, 2), in the module's type."""
        generator = torch.Generator().manual_seed(self.seed)
        size = 0.0 if self.offset is None else 10.0**self.offset
        middle = size * torch.randn(2, generator=generator, dtype=torch.float64)
        least = 64 * torch.finfo(self.dtype).eps * max(size, 1e-3)
        radius = torch.tensor([[max(10.0**each, least)] for each in self.radii], dtype=torch.float64)
        parts = 0.2 + 0.8 * torch.rand(2, len(self.radii), 2, generator=generator, dtype=torch.float64)
        return (middle - radius * parts[0]).to(self.dtype), (middle + radius * parts[1]).to(self.dtype)

    @cached_property
    def network(self) -> ExactNetwork:
        lower, upper = self.ends
        return exact_network(
            self.kinds, self.widths, self.outputs, self.seed, self.dtype,
            scale=10.0**self.scale,
            center=((lower.double() + upper.double()) / 2).mean(0),
            spread=10.0 ** self.radii[0],
        )  # fmt: skip

    @property
    def finite(self) -> bool:
        """Whether no weight has overflown."""
        return all(bool(parameter.isfinite().all()) for parameter in self.network.module().parameters())

    def truths(self) -> list[Truth]:
        return [self.network.truth(low, high) for low, high in zip(*self.ends)]

    def perturbed(self) -> object:
        return Box(*self.ends).perturbed()


def draw_exact(choices: Choices, boxes: int, single: bool | None = None, plain: bool = False) -> ExactTrial:
    """A network with so many boxes.

    Args:
        choices: where they come from.
        boxes: how many.
        single: whether the module is in float32; None for either.
        plain: whether weights are well scaled and the centre is at most 1 away from the origin.
    """
    kinds = tuple(choices.pick(BUILT) for _ in range(choices.whole(1, 3)))
    widths = tuple(choices.whole(1, 5) for _ in kinds)
    if single is None:
        single = choices.pick((False, True))
    scale = 0 if plain else choices.pick((0, 0, -30, -20, -10, -3, 3, 10, 20, 30))
    offset = choices.pick((None, 0)) if plain else choices.pick((None, 0, 2, 4, 6, 8))
    radii = tuple(choices.whole(-30 if plain else -80, 5) / 10 for _ in range(boxes))
    return ExactTrial(kinds, widths, choices.whole(1, 2), choices.whole(0, 2**20), single, scale, offset, radii)


# Bounds


def escape(values: Sequence[Fraction], lower: float, upper: float) -> Fraction:
    """How far numbers lie outside of an interval, 0 if they do not; more than any number where an end is NaN."""
    if math.isnan(lower) or math.isnan(upper):
        return Fraction(10) ** 400
    below = Fraction(0) if lower == -math.inf else Fraction(lower) - min(values)
    above = Fraction(0) if upper == math.inf else max(values) - Fraction(upper)
    return max(below, above, Fraction(0))


def jacobian_escapes(truths: Sequence[Truth], bounds: rj.Bounds) -> list[tuple[Fraction, Fraction]]:
    """For every box how far its Jacobians lie outside of bounds (b, k, 2), and how large their entries are."""
    found = []
    for truth, low, high in zip(truths, bounds.lower.double().tolist(), bounds.upper.double().tolist()):
        worst = size = Fraction(0)
        for k, r in itertools.product(range(len(low)), range(2)):
            entries = [jacobian[k][r] for jacobian in truth.jacobians]
            worst = max(worst, escape(entries, low[k][r], high[k][r]))
            size = max(size, *map(abs, entries))
        found.append((worst, size))
    return found


def output_escapes(truths: Sequence[Truth], lower: Tensor, upper: Tensor) -> list[tuple[Fraction, Fraction]]:
    """For every box how far its outputs lie outside of bounds (b, k), and how large they are."""
    found = []
    for truth, low, high in zip(truths, lower.double().tolist(), upper.double().tolist()):
        ends = [(truth.lower[k], truth.upper[k]) for k in range(len(low))]
        worst = max(escape(pair, low[k], high[k]) for k, pair in enumerate(ends))
        found.append((worst, max(abs(each) for pair in ends for each in pair)))
    return found


def constant_escapes(truths: Sequence[Truth], constants: Tensor) -> list[tuple[Fraction, Fraction]]:
    """For every box how far the constants of its outputs exceed those given, (b, k), and how large they are."""
    found = []
    for truth, row in zip(truths, constants.double().tolist()):
        exact = [truth.constant(k) for k in range(len(row))]
        found.append((max(escape([e], -math.inf, given) for e, given in zip(exact, row)), max(exact)))
    return found


def check_bounds(
    trial: ExactTrial, methods: Sequence[str], rigorous: bool
) -> Iterator[tuple[str, list[tuple[Fraction, Fraction]]]]:
    """Everything that is bounded, with escapes and sizes for every box."""
    options = {"rigorous": True} if rigorous else {}
    truths, x = trial.truths(), trial.perturbed()
    model = on_host(trial.network.module(), trial.ends[0][:1])
    with torch.no_grad():
        for method in methods:
            yield f"jacobian {method}", jacobian_escapes(truths, rj.jacobian_bounds(model, x, method=method, **options))
        yield "outputs", output_escapes(truths, *rj.output_bounds(model, x, method=methods[0], **options))
        constants = rj.local_lipschitz(model, x, method=methods[0], per_output=True, **options)
        yield "constants", constant_escapes(truths, constants)


# Verdicts


@dataclass(frozen=True)
class Question:
    """``f_0 <= threshold``, and with a second threshold ``f_1 <= second`` as well, on the first box of a trial.

    Attributes:
        threshold: of the first output.
        second: of the second output, None for none.
        sat: the exact answer.
        delta: how far the threshold is from the true minimum, and on which side.
    """

    threshold: float
    second: float | None
    sat: bool
    delta: float

    def spec(self, trial: ExactTrial) -> rj.Spec:
        lower, upper = (end[0].double().tolist() for end in trial.ends)
        outputs = trial.outputs
        rows = np.eye(outputs)[: 1 if self.second is None else 2]
        return spec_of(box(lower, upper, polytope(rows, [self.threshold, self.second][: len(rows)])))


def questions(trial: ExactTrial, truth: Truth, deltas: Sequence[float] = DELTAS) -> Iterator[Question]:
    """Thresholds around the exact minimum of the first output, alone and where the second is below its middle."""
    size = float(max(abs(truth.lower[0]), abs(truth.upper[0])))
    for second in (None, *([float((truth.lower[1] + truth.upper[1]) / 2)] if trial.outputs > 1 else [])):
        least = truth.lower[0] if second is None else least_where(truth.cells, 0, 1, second)
        if least is None:
            continue
        for delta, side in itertools.product(deltas, (-1, 1)):
            threshold = float(least) + side * delta * size
            if math.isfinite(threshold):
                yield Question(threshold, second, least <= Fraction(threshold), side * delta)


def wrong(trial: ExactTrial, question: Question, result: Result) -> str | None:
    """What is wrong about a verdict; None if it is right, or none.

    A counterexample counts if the module itself, in its own type, violates the property there.
    """
    if result.verdict is Verdict.UNSAT and question.sat:
        return "unsat, but it is not so"
    if result.verdict is Verdict.SAT and not question.sat:
        assert result.counterexample is not None
        x = result.counterexample.x
        point = torch.tensor(np.asarray(x), dtype=trial.dtype).reshape(1, 2)
        with torch.no_grad():
            y = trial.network.module()(point)[0].numpy()
        if not question.spec(trial).violated(point[0].numpy(), y):
            return "sat, but neither is it so nor does the module say so"
    return None
