r"""How far the network that is bounded may be from the one that is judged, inside a box of a property.

.. math:: d = \max_{x \in P} \|f(x) - g(x)\|_\infty,

with f the network as the host evaluates it for the bounds, g what judges counterexamples, and P six points of the box:
the middle, both ends, a random corner and two random points. That is an estimate from below; it enters the slack of a
proof (`goals.Rows.slack`). Where g gives NaN there is nothing to compare with.

Source: own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recurjac_plugin.networks.session import largest_difference
from recurjac_plugin.properties.spec import Box
from recurjac_plugin.verification.counterexample import Session, into_box


def difference_inside(box: Box, bounded: Callable[[np.ndarray], np.ndarray], session: Session) -> float:
    """The largest difference of outputs at the points P of a box; the same ones every time.

    Args:
        box: inputs.
        bounded: f, from float64 inputs (n, n_inputs) to (n, n_outputs).
        session: g.

    Returns:
        d, infinite where only one of both is a finite number.

    Source:
        As this module's.
    """
    points = np.stack([into_box(box, point, session.dtype) for point in _points(box)])
    return largest_difference(bounded(points), session(points.astype(session.dtype)))


def _points(box: Box) -> np.ndarray:  # shape: (6, n_inputs)
    """The middle, both ends, a random corner and two random points."""
    random = np.random.default_rng(0)
    size = box.lower.shape
    zeros, ones = np.zeros(size), np.ones(size)
    across = np.stack([ones / 2, zeros, ones, random.integers(0, 2, size), random.random(size), random.random(size)])
    return box.lower + (box.upper - box.lower) * across
