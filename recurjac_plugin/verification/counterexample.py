"""Counterexamples that stand: valid inputs, outputs from onnxruntime, the property checked exactly.

An input x and the output y there violate a property if ``l <= x <= u`` and ``A y <= b`` for one of its boxes and one of
that box's disjuncts, in float64 and with tolerance 0.

VNN-COMP replays a counterexample on onnxruntime with tolerance 0 for the outputs, and a wrong one costs more
than any right answer brings. So nothing is a `Counterexample` before it went through `check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recurjac_plugin.kept import Kept
from recurjac_plugin.properties.spec import Box, Spec

_BOXES = 16  # that a candidate is moved into at most


class Session(Protocol):
    """What evaluates a network here, e.g. `onnx_session(path)`; `dtype` is the type of its inputs."""

    dtype: np.dtype

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs [b, n_outputs] of inputs [b, n_inputs]."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Counterexample(Kept):
    """An input that violates a property, with its output.

    Attributes:
        x: float64 [n_inputs], flattened, exactly within its box. It is a number of the network's own type
            wherever the box has one; in other coordinates the network takes it rounded, as it takes any
            input.
        y: [n_outputs], as onnxruntime computes it from `x`.
    """

    x: np.ndarray
    y: np.ndarray

    def __repr__(self) -> str:
        outputs = ", ".join(f"{float(value):.4g}" for value in self.y[:6]) + (", ..." if len(self.y) > 6 else "")
        return f"Counterexample({len(self.x)} inputs, outputs [{outputs}])"

    def __str__(self) -> str:
        """The assignment in VNN-COMP form, ``((X_0 v) ... (Y_0 v) ...)``; every number reads back exactly."""
        named = [(f"X_{i}", v) for i, v in enumerate(self.x)] + [(f"Y_{i}", v) for i, v in enumerate(self.y)]
        return "(" + "\n ".join(f"({name} {float(value)!r})" for name, value in named) + ")"


def check(spec: Spec, session: Session, x: np.ndarray) -> Counterexample | None:
    """Make a counterexample of a candidate, or find that it is none.

    The candidate is moved into each box of the property in turn, or into the nearest of many, and the outputs there are
    computed anew.

    Args:
        spec: the property.
        session: the network on onnxruntime.
        x: candidate, [n_inputs] (or any shape of that size).

    Returns:
        The counterexample, or None if the candidate violates the property in no box.
    """
    for box in spec.nearest(np.asarray(x, dtype=np.float64).reshape(-1), _BOXES):
        inside = into_box(box, x, session.dtype)
        y = session(inside[None].astype(session.dtype))[0]
        if spec.violated(inside, y):
            return Counterexample(inside, y)
    return None


def into_box(box: Box, x: np.ndarray, dtype: np.dtype) -> np.ndarray:  # x: [n_inputs] -> float64 [n_inputs]
    """The point of the box nearest to `x`, coordinate by coordinate, among numbers of type `dtype`.

    A coordinate without such a number between its bounds (an input fixed to 0.1, say) gets the middle of its
    interval.
    """
    lower, upper = representable_bounds(box, dtype)
    with np.errstate(over="ignore"):
        nearest = np.clip(np.asarray(x).reshape(-1).astype(dtype), lower, upper).astype(np.float64)
    # Adding zero turns -0.0, which reads oddly, into 0.0.
    return np.where(lower <= upper, nearest, box.lower + (box.upper - box.lower) / 2) + 0.0


def representable_bounds(box: Box, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:  # -> [n_inputs], [n_inputs]
    """Smallest and largest number of type `dtype` within the bounds; lower > upper where there is none."""
    with np.errstate(over="ignore"):
        lower, upper = box.lower.astype(dtype), box.upper.astype(dtype)
    # Compared as float64, which holds both kinds of number exactly.
    low, high = lower.astype(np.float64), upper.astype(np.float64)
    outside = np.where(box.lower_open, low <= box.lower, low < box.lower)
    lower = np.where(outside, np.nextafter(lower, np.asarray(np.inf, dtype)), lower)
    outside = np.where(box.upper_open, high >= box.upper, high > box.upper)
    upper = np.where(outside, np.nextafter(upper, np.asarray(-np.inf, dtype)), upper)
    return lower, upper
