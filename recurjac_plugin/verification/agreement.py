r"""Whether what several methods say of one property can all be true.

A method's claims are bounds of the rows of the property on every box, :math:`l \le A f(x) \le u`, a lower bound of the
distance :math:`\min_d \max_{k \in d} (A_k f(x) - b_k)` from a violation, a proof, and a counterexample. They are held
against each other and against values of the network in float64, at the middle, the ends, 24 random corners and 24
random points of every box, and at all counterexamples. What differs by more than rounding is a contradiction: one of
both is wrong, and nothing that follows from them is proved.

Source: own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.errors import counted
from recurjac_plugin.properties.spec import Box, Spec

from .counterexample import Counterexample

_CORNERS = _INSIDE = 24  # random ones of every box
_SHOWN = 6  # coordinates of a point in a sentence
_REQUEST = "one of them is wrong: please report the network and the property"


@dataclass(frozen=True, eq=False)
class Claim:
    """What a method says of a property.

    Attributes:
        method: its name.
        bounds: lower and upper bounds of the rows ``A f``, (k,) each, on every box; empty if there are none.
        distance: certified lower bound of the distance from a violation, over all boxes; -inf if there is none.
        proved: whether it says that there is no violation.
        counterexample: what it says is one.
    """

    method: str
    bounds: Sequence[tuple[Tensor, Tensor]]
    distance: float
    proved: bool
    counterexample: Counterexample | None


@dataclass(frozen=True)
class Contradiction:
    """Two claims, or a claim and a value, that cannot both be true.

    Attributes:
        method: whose bound or proof it is.
        against: the method with the counterexample, or ``"a value of the network"``.
        box: position of the box in the property.
        bound: the bound, None for a proof.
        value: what it should bound, None for a proof.
        point: the input.
        message: all of it in a sentence.
    """

    method: str
    against: str
    box: int
    bound: float | None
    value: float | None
    point: tuple[float, ...]
    message: str


@dataclass(frozen=True, eq=False)
class _Seen:
    """A box, m points x in it (m, n_inputs), and the network's outputs there (m, n_outputs), in float64."""

    number: int
    box: Box
    x: np.ndarray
    outputs: Tensor


def contradictions(
    claims: Sequence[Claim],
    spec: Spec,
    outputs: Callable[[np.ndarray], Tensor],
    like: Tensor,
    difference: float,
) -> list[Contradiction]:
    """All contradictions: of every proof the first counterexample, of every bound the clearest value.

    Args:
        claims: what the methods say.
        spec: the property.
        outputs: the network in float64, (m, n_inputs) to (m, n_outputs).
        like: a tensor of the type in which the bounds were computed: its rounding is no contradiction.
        difference: how far the network that is bounded may be from that one.

    Source:
        As this module's.
    """
    found = list(_proofs(claims, spec))
    for seen in _seen(claims, spec, outputs):
        rows = Rows.of(seen.box, like, difference, torch.finfo(like.dtype).eps)
        exact = Rows.of(seen.box, torch.zeros((), dtype=torch.float64))
        values = exact.values(seen.outputs)
        slack = rows.slack(seen.outputs.to(like), torch.full_like(values, -math.inf).to(like)).double()
        for claim in claims:
            found += _distances(claim, seen, exact.per_disjunct(values, "amax").amin(1), slack.amax(1))
            if claim.bounds:
                found += _rows(claim, seen, values + exact.b, slack)
    return found


def _proofs(claims: Sequence[Claim], spec: Spec) -> Iterator[Contradiction]:
    """Every proof beside the first counterexample of another method."""
    refuting = next((claim for claim in claims if claim.counterexample is not None), None)
    if refuting is None or refuting.counterexample is None:
        return
    x, y = refuting.counterexample.x, refuting.counterexample.y
    number = next(i for i, box in enumerate(spec.boxes) if box.contains(x))
    for claim in claims:
        if claim.proved:
            message = (
                f"`{claim.method}` says `unsat`, but `{refuting.method}` has a counterexample in box {number + 1} of "
                f"{len(spec.boxes)}, x = {_shown(x)} with the output {_shown(y)}; {_REQUEST}."
            )
            yield Contradiction(claim.method, refuting.method, number, None, None, tuple(x.tolist()), message)


def _seen(claims: Sequence[Claim], spec: Spec, outputs: Callable[[np.ndarray], Tensor]) -> Iterator[_Seen]:
    """Points of every box, the counterexamples in it among them."""
    random = np.random.default_rng(0)
    met = [claim.counterexample.x for claim in claims if claim.counterexample is not None]
    for number, box in enumerate(spec.boxes):
        size = len(box.lower)
        corners, inside = random.integers(0, 2, (_CORNERS, size)), random.random((_INSIDE, size))
        across = np.concatenate([np.full((1, size), 0.5), np.zeros((1, size)), np.ones((1, size)), corners, inside])
        x = np.clip(box.lower + (box.upper - box.lower) * across, box.lower, box.upper)
        x = np.concatenate([x, *(point[None] for point in met if box.contains(point))])
        yield _Seen(number, box, x, outputs(x).double().cpu())


def _distances(claim: Claim, seen: _Seen, distance: Tensor, slack: Tensor) -> Iterator[Contradiction]:
    """A certified distance from a violation beside a smaller one, (m,) at the points."""
    worst = int((distance + slack).argmin())
    if claim.distance > float(distance[worst] + slack[worst]):
        what = "a distance from a violation", "least"
        yield _contradiction(claim, seen, worst, what, claim.distance, float(distance[worst]))


def _rows(claim: Claim, seen: _Seen, values: Tensor, slack: Tensor) -> Iterator[Contradiction]:
    """Bounds of rows ``A f`` beside values (m, k) outside of them."""
    lower, upper = (bound.detach().double().cpu() for bound in claim.bounds[seen.number])
    for bound, beyond, side in ((lower, lower - values, "least"), (upper, values - upper, "most")):
        excess = (beyond - slack).nan_to_num(nan=-math.inf)
        at, row = divmod(int(excess.argmax()), excess.shape[1])
        if excess[at, row] > 0:
            what = f"row {row + 1} of the property", side
            yield _contradiction(claim, seen, at, what, float(bound[row]), float(values[at, row]))


def _contradiction(
    claim: Claim, seen: _Seen, at: int, what: tuple[str, str], bound: float, value: float
) -> Contradiction:
    """A bound of `what`, of which it is the least or the most, beside a value."""
    x, against = seen.x[at], "a value of the network"
    message = (
        f"`{claim.method}` says that {what[0]} is at {what[1]} {bound:.9g} on box {seen.number + 1}, but it is "
        f"{value:.9g} at x = {_shown(x)} by {against}; {_REQUEST}."
    )
    return Contradiction(claim.method, against, seen.number, bound, value, tuple(x.tolist()), message)


def _shown(numbers: np.ndarray) -> str:
    """Some numbers of a point."""
    shown = ", ".join(f"{number:.9g}" for number in numbers[:_SHOWN].tolist())
    return f"[{shown}]" if len(numbers) <= _SHOWN else f"[{shown}, ...] ({counted(len(numbers), 'number')})"
