r"""RecurJac on the gains of a network, in backward order.

The layers are processed from the output back to the input, the paper's backward order (Zhang, Zhang, Hsieh, AAAI
2019, arXiv:1810.11783, Algorithm 1). With the gains G (`recurjac_plugin.gains.gains`), ``d_l`` the uncertain
derivatives of layer l and ``y_l`` the derivatives of the rows with respect to that layer's outputs, the chain rule is

.. math:: y_m = G_{\text{rows},m} + \sum_{l > m} G_{l,m}^T (d_l y_l),

and for the input in place of m it is the Jacobian. Bounds of ``y_m`` come from one pass forwards over the later layers
(`push_columns`): with coefficients c of the columns at layer l, every product ``c d y`` is replaced by a line of the
rule (`rules`), its slope is pushed on through the gains to the layers behind, its constant is added up. Lower bounds
are ``-upper(-c)``: the pass is written for the upper bound and runs on c and -c together. The last pass has the input
coordinates as its columns.

Where derivatives are known as functions of the pre-activations, there are passes besides the one with the rule's lines,
and of all bounds the tightest is kept: one with planes (`mccormick`), whose slopes in the pre-activations are collected
over all layers and bounded together at the end, or affine forms of all gradients (`affine`) where these would cost too
much; and over few coordinates, from the input on, one with planes over `strips`.

The paper's forward order is this recursion on the transposed gains, see `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.gains.windows import find_windows
from recurjac_plugin.numerics.intervals import Interval, intersection, ordered, require_numbers
from recurjac_plugin.passes.affine import AffinePass
from recurjac_plugin.passes.columns import Within
from recurjac_plugin.passes.mccormick import NetworkRelaxation
from recurjac_plugin.passes.products import Pass
from recurjac_plugin.passes.rules import Rule
from recurjac_plugin.passes.strips import has_strips


@dataclass(frozen=True, eq=False)
class BackwardOrder:
    """Bounds of the gradients at every undetermined neuron, ready for passes from any source.

    Source: RecurJac, arXiv:1810.11783, Algorithm 1 and section 3.3.

    Attributes:
        gains: the exact part.
        gradients: for each layer, the bounds of y, both of shape (b, k, u); they grow on the way back.
        passes: one with the rule's lines, and one with planes if derivatives are known beyond their ranges.
        affine: affine forms in place of planes, if derivatives are known beyond their ranges everywhere.
    """

    gains: Gains
    gradients: dict[str, Interval]
    passes: tuple[Pass, ...]
    affine: AffinePass | None = None

    @property
    def all_passes(self) -> tuple[Pass | AffinePass, ...]:
        """All that bounds gradients, the rule's lines first."""
        return self.passes if self.affine is None else (*self.passes, self.affine)

    def bounds(self, source: str) -> Interval:
        """The tightest bounds of the rows' derivatives with respect to every neuron of one source, each (b, k, u).

        Raises:
            RecurJacError: two passes contradict each other.
        """
        windows = find_windows(self.gains, source, [layer for layer in self.gains.layers if layer in self.gradients])
        first, *others = self.all_passes
        tightest = first.bounds(source, windows)
        for other in others:
            # Sums of large numbers of both signs can overflow there where they do not with lines.
            found = other.bounds(source, windows)
            lower, upper = (torch.where(its.isnan(), mine, its) for mine, its in zip(tightest, found))
            tightest = intersection(tightest, (lower, upper))
        return ordered(tightest)

    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, the tightest of all passes' from the input: (b, k, columns) each.

        Raises:
            InputError: they overflow the number type.
            RecurJacError: two passes contradict each other.
        """
        lower, upper = self.bounds(INPUT)
        require_numbers(lower, upper)
        return lower, upper

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k, as one column pushed once: (b, k).

        The column is ``c_l = weights G_l,input^T``, the exact part ``sum_r weights_r G_rows,r``. Mostly tighter than
        the sum of the entries' bounds, because the entries share the neurons' derivatives.

        Source: RecurJac, arXiv:1810.11783, section 3.4, the improved constant for the l_inf norm.
        """
        start = {
            layer: torch.einsum("bkr,bur->bku", weights, self.gains.blocks[layer, INPUT].expand(len(weights), -1, -1))
            for layer in self.gains.layers
            if (layer, INPUT) in self.gains.blocks
        }
        exact = (weights * self.gains.to_rows[INPUT]).sum(2)[:, :, None, None]
        within = Within.everything(self.gains)
        columns = {layer: column[None, :, :, None, None, :] for layer, column in start.items()}
        uppers = [each.upper(dict(columns), exact[None], within) for each in self.passes]
        upper = reduce(torch.fmin, uppers)[0, :, :, 0, 0]
        return upper if self.affine is None else torch.fmin(upper, self.affine.upper_of_sum(weights))


# Planes need a substitution for every bound of every entry and gradient. If all of them take more multiplications than
# this for one region, which is half a second of a processor, affine forms take their place where these take less than a
# quarter of that, and where there are none sums over t are bounded by intervals.
_MULTIPLICATIONS = 2**34
_FORMS = 4


def backward_order(
    gains: Gains,
    rule: Rule,
    memory_budget: int,
    relaxation: NetworkRelaxation | None = None,
    affine: AffinePass | None = None,
    strips: bool = False,
) -> BackwardOrder:
    """Bound the gradients at all undetermined neurons, from the output back to the first layer.

    For each layer m the bounds of ``y_m = G_rows,m + sum_{l > m} G_lm^T (d_l y_l)`` are the tightest of all passes',
    in which every ``d_l y_l`` is replaced by lines, planes or affine forms, on the bounds of ``y_l`` found before.

    Source: RecurJac, arXiv:1810.11783, Algorithm 1, backward order of section 3.3.

    Args:
        gains: the exact part.
        rule: what lies above a product at an undetermined neuron.
        memory_budget: largest number of bytes for one chunk of columns; the result does not depend on it.
        relaxation: what is known of the derivatives beyond their ranges; None for nothing.
        affine: the same as affine forms, which take the place of planes where these cost too much.
        strips: whether there is a pass with planes over strips besides, over few coordinates.

    Raises:
        InputError: the gradients overflow the number type.
        RecurJacError: two passes contradict each other.
    """
    passes: tuple[Pass, ...] = (Pass(gains, rule, None, memory_budget),)
    if relaxation is not None:
        sums = 2 * gains.rows * (gains.columns + sum(gains.count(layer) for layer in gains.layers))
        enough = _MULTIPLICATIONS if affine is None else max(_MULTIPLICATIONS, _FORMS * affine.work)
        cheap = relaxation.substitutions(sums) <= enough
        if cheap or affine is None:
            affine, planes = None, replace(relaxation, substituted=cheap)
            passes = (*passes, Pass(gains, rule, planes, memory_budget))
            if strips and has_strips(planes):
                passes = (*passes, Pass(gains, rule, planes, memory_budget, strips=True))
    order = BackwardOrder(gains, {}, passes, affine)
    for layer in reversed(gains.layers):
        lower, upper = order.gradients[layer] = order.bounds(layer)
        for each in order.all_passes:
            each.add(layer, lower, upper)
    require_numbers(*(bound for bounds in order.gradients.values() for bound in bounds))
    return order
