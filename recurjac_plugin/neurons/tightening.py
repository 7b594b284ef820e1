r"""Intervals of pre-activations on parts of a region, tightened by CROWN on the gains.

Where a neuron is kept on a side, or inputs lie in a smaller box, the neurons behind move less. Layer by layer, with
the lines that the intervals before allow, ``z_l <= z_l(x_0) + s (x - x_0) + c`` on a part, and the smaller interval
counts. Where nothing is left of one, nothing lies in the part.

Source: Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866; on gains, for parts, own.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.gains.crown import linear_upper_bound
from recurjac_plugin.numerics.rounding import gamma

from .parts import Parts, largest_on
from .reduced import Reduced


@torch.no_grad()
def tightened(reduced: Reduced, parts: Parts) -> Parts:
    """The same parts with smaller intervals of z, never larger ones. Source: own."""
    lower, upper = dict(parts.lower), dict(parts.upper)
    gains = replace(reduced.on(lower, upper), batch=len(parts))
    relaxations: dict[str, Relaxation] = {}
    for layer in gains.layers:
        neurons = reduced.neurons[layer]
        unit = torch.eye(gains.count(layer), dtype=gains.reference.dtype, device=gains.reference.device)
        both = torch.cat((unit, -unit)).unsqueeze(0).expand(len(parts), -1, -1)
        slope, constant = linear_upper_bound(gains, relaxations, both.shape[1], on_preactivations={layer: both})
        change = constant + largest_on(reduced, parts, slope)
        above, below = (change + gamma(8) * change.abs()).chunk(2, 1)
        room = neurons.error + gamma(8) * neurons.center.abs()
        lower[layer] = torch.fmax(lower[layer], neurons.center - below - room)
        upper[layer] = torch.fmin(upper[layer], neurons.center + above + room)
        relaxations[layer] = neurons.lines(lower[layer], torch.maximum(lower[layer], upper[layer]))
    return replace(parts, lower=lower, upper=upper)
