r"""Nodes through which CROWN does not lead: there it ends, and begins anew.

A node without linear bounds still has an interval ``[l, u]`` over the bounds of its inputs, which are CROWN's. For what
lies behind, it is an input with that interval,

.. math:: A z \ge A^+ l + A^- u ,

and for what lies before nothing changes. Such nodes are operators whose class has intervals and no backward rule, uses
of an operator that its rule does not cover, and nodes on which the host has failed (`stop`).

Source: own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.bound_operators.coefficients import dense
from recurjac_plugin.host.library import Bound
from recurjac_plugin.numerics.intervals import Interval

from .local import from_inputs

_STOPPED = "recurjac_stopped"  # attribute of a node
_FAILED = "recurjac_failed"  # attribute of an exception

RULE = Bound.bound_backward
"""What the host has where a class has no rule of its own."""


def required(node: Any) -> list[int]:
    """Positions of the inputs whose bounds the interval needs."""
    return [position for position, source in enumerate(node.inputs) if source.perturbed]


def ends_at(node: Any, has_rule: bool) -> bool:
    """Whether CROWN ends at a node."""
    return bool(node.perturbed) and bool(node.inputs) and (not has_rule or vars(node).get(_STOPPED, False))


def stop(node: Any) -> bool:
    """Let CROWN end at a node from now on; whether it has not before."""
    before = bool(vars(node).get(_STOPPED, False))
    vars(node)[_STOPPED] = True
    return not before


def blame(error: BaseException, node: Any) -> None:
    """Note the node on which a computation of the host failed, the innermost one."""
    if not hasattr(error, _FAILED):
        setattr(error, _FAILED, node)


def blamed(error: BaseException) -> Any:
    """The node on which a computation failed; None where it is not known."""
    return getattr(error, _FAILED, None)


def bound_backward(node: Any, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
    """CROWN that ends at a node: no coefficients of its inputs, and the constants of both sides."""
    low, high = from_inputs(node)
    shape = tuple(node.output_shape[1:])
    lower, upper = (
        0 if A is None else _below(A, ends)
        for A, ends in ((dense(last_lA, shape, low), (low, high)), (dense(last_uA, shape, low), (high, low)))
    )
    return [(None, None) for _ in node.inputs], lower, upper


def _below(A: Tensor, ends: Interval) -> Tensor:
    """``A^+ first + A^- second``, (rows, b); an infinite end counts only where its coefficient is not 0."""
    first, second = (end.expand(A.shape[1:]) for end in ends)
    total = torch.where(A > 0, A * first, 0.0) + torch.where(A < 0, A * second, 0.0)
    return total.reshape(*A.shape[:2], -1).sum(2)
