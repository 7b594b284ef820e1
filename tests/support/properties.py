"""Properties by hand: polytopes of outputs, boxes of inputs, and what they make together."""

from __future__ import annotations

import numpy as np

from recurjac_plugin.properties.spec import Box, Polytope, Spec


def polytope(A, b, strict=None):
    """Outputs y with ``A y <= b``; one row may be given as a plain list with a number."""
    A = np.atleast_2d(np.array(A, dtype=np.float64))
    return Polytope(A, np.atleast_1d(np.array(b, dtype=np.float64)), np.array(strict or [False] * len(A)))


def box(lower, upper, *disjuncts, lower_open=False, upper_open=False):
    lower, upper = np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64)
    return Box(lower, upper, disjuncts, np.full(lower.shape, lower_open), np.full(lower.shape, upper_open))


def spec_of(*boxes):
    return Spec(boxes, n_inputs=len(boxes[0].lower), n_outputs=boxes[0].disjuncts[0].A.shape[1])
