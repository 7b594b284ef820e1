"""Models of half types, bfloat16 and float16, as the same networks in float32.

Every number of a half type is one of float32, so the weights stay what they are. What is bounded is the network that
they define, computed in float32; not what the half type makes of it, which rounds every value to 8 or 11 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)
"""The half types."""


def half_type(model: Any) -> torch.dtype | None:
    """The half type that some parameter of a model has; None if there is none, or it is no model."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((each.dtype for each in parameters if each.dtype in HALF), None)


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """All tensors of half types that a model holds as float32, in place: whatever shares them sees the same numbers."""
    held: dict[int, tuple[Tensor, Tensor, bool]] = {}
    for module in model.modules():
        for value in (*module.parameters(False), *module.buffers(False), *vars(module).values()):
            if isinstance(value, Tensor) and value.dtype in HALF and value.is_leaf:
                held[id(value)] = (value, value.data, value.requires_grad)
    try:
        for value, data, learns in held.values():
            if learns and not value.is_inference():  # of these a flag could not be put back
                value.requires_grad_(False)
            value.data = data.float()
        yield
    finally:
        for value, data, _ in held.values():
            value.data = data
        for value, _, learns in held.values():
            if value.requires_grad != learns:
                value.requires_grad_(learns)
