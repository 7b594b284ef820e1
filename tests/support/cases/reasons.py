"""Why a host cannot build or bound a network; its operators are still tested below the host."""

from __future__ import annotations

ONE_D_03 = "0.3 has no one-dimensional convolution"
UNSQUEEZE = "the host unsqueezes one axis at a time, the exporter two for the slope of a PReLU over images"
THREE_D = "the host has no three-dimensional convolution"
TRANSPOSED = "the host's transposed convolution is two-dimensional, without stride or groups"
CASTS = "0.3 evaluates a cast in another type than the network's"
DROPOUT = "the host cannot build a network with dropout from what this torch writes"
UNFLATTEN = "the host has no rule for what this torch writes for Unflatten"
NEGATIVE = "0.3 takes no index from the end in what this torch writes"
EXPANDS = "0.3 cannot bound the shape arithmetic before Expand"
