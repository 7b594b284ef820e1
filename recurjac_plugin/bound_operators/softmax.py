r"""Softmax along an axis, as the exponential of a log-softmax: lines that narrow with the logarithms of probabilities.

With ``y_i = x_i - log sum_j exp x_j``, which lies in ``[log p_l, log p_u]`` exactly, ``s_i = exp y_i`` lies between two
lines in ``y_i`` whose slopes are not negative, and around the middle :math:`x_0` of the inputs' bounds

.. math:: x_i - \log \Sigma(x_0) - \frac{\kappa^T (x - x_0)}{\Sigma(x_0)}
    \;\le\; y_i \;\le\; x_i - \log \sum_j e^{x_{0,j}} - s(x_0)^T (x - x_0), \qquad
    \Sigma(x) = \sum_j \kappa_j x_j + \beta_j ,

where ``kappa_j x_j + beta_j`` is a line above ``exp x_j``: the logarithm of a sum of exponentials is convex, and that
of an affine function is concave.

Source: Wei, Kwon, Wang, Sun, Zhang: Convex Bounds on the Softmax Function with Applications to Robustness Verification,
AISTATS 2023, arXiv:2303.01713, for the composition; tangents and rounding are this package's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.activations.pieces import Pieces
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.graph.products import logits_of_others
from recurjac_plugin.numerics.intervals import Intervals
from recurjac_plugin.numerics.rounding import ELEMENTWISE, eps

from .coefficients import dense
from .linear import bias
from .part import Part

_EXPONENTIAL = ACTIVATIONS["BoundExp"]


class RelaxedSoftmax:
    """A softmax with lines around it, on bounds of its input.

    Args:
        part: the operator.
        inputs: bounds of its input by name, (b, *shape) each.
    """

    def __init__(self, part: Part, inputs: Intervals) -> None:
        self.part = part
        self._axis = axis = part.node.attributes["axis"] % len(part.node.output_shape)
        ((self._name, (lower, upper)),) = inputs.items()
        shift = upper.amax(axis, keepdim=True).detach()  # exponentials of at most 0 do not overflow
        low, high = lower - shift, upper - shift
        self._center = center = torch.minimum(torch.maximum(low / 2 + high / 2, low), torch.maximum(low, high))
        above = Pieces.over(_EXPONENTIAL, low, high, {})
        kappa = above.slope()
        total = (kappa * center + above.intercept(kappa)).sum(axis, keepdim=True)
        self._fall, self._share = kappa / total, center.softmax(axis)
        size = torch.maximum(low.abs(), high.abs()).amax(axis, keepdim=True) + low.shape[axis]
        error = (ELEMENTWISE * eps(size) * size).detach()
        self._below = total.log() + error
        self._above = center.logsumexp(axis, keepdim=True) - error
        least, most = (
            functional.logsigmoid(own - logits_of_others(far, axis)) for own, far in ((low, high), (high, low))
        )
        least, most = least - error, torch.minimum(most + error, torch.zeros_like(most))
        self._lines: Relaxation = Pieces.over(_EXPONENTIAL, torch.minimum(least, most), most, {}).lines()
        self._shift = shift

    def lower(self, coefficients: Any) -> tuple[dict[str, Tensor], Any]:
        """Coefficients of the input by name, and the constant, of a linear function below ``A s``.

        Args:
            coefficients: A, in one of the host's forms.
        """
        A = dense(coefficients, tuple(self.part.node.output_shape[1:]), self._center)
        assert A is not None
        lines, axis = self._lines, self._axis + 1
        positive, negative = A.clamp(min=0), A.clamp(max=0)
        rising, falling = positive * lines.lower_slope, negative * lines.upper_slope
        all_rising, all_falling = (t.sum(axis, keepdim=True) for t in (rising, falling))
        rows = rising + falling - all_rising * self._fall - all_falling * self._share
        constant = bias(positive, lines.lower_constant) + bias(negative, lines.upper_constant)
        constant = constant - bias(all_rising, self._below) - bias(all_falling, self._above)
        constant = constant + bias(all_rising * self._fall + all_falling * self._share, self._center)
        # So far x was its distance from the shift.
        shift = self._shift.expand(self._center.shape)
        room = ELEMENTWISE * eps(A) * bias(rows.abs(), shift.abs()).detach()
        return {self._name: rows}, constant - bias(rows, shift) - room
