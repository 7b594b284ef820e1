"""A network as plain steps; its linear operators as linear maps.

Public are the names that a rule for `recurjac_plugin.register_operator` needs: the node that it is asked about, what it
raises, and the maps that it may return. `Function` makes a map of any torch function that is affine in each sample;
the others are what it is worth to know more of. See ``examples/custom_operator.py``.
"""

from .linear_maps import (
    Broadcast,
    Convolution,
    Dense,
    Embedding,
    Function,
    LinearMap,
    Negative,
    Scale,
    Transposed,
    View,
    nonnegative,
)
from .node import Node
from .operators import Refusal

__all__ = [
    "Broadcast",
    "Convolution",
    "Dense",
    "Embedding",
    "Function",
    "LinearMap",
    "Negative",
    "Node",
    "Refusal",
    "Scale",
    "Transposed",
    "View",
    "nonnegative",
]
