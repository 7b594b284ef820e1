"""Chunks whose intermediate results are computed again in the backward pass, so that training stays within memory.

A gradient needs what its forward pass computed. Working in chunks bounds the memory of the forward pass only: autograd
would keep the intermediate results of all chunks. Where these do not fit into the memory budget, each chunk keeps its
inputs alone and runs a second time when its gradient is wanted (Chen et al., arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

Part = TypeVar("Part")
Result = TypeVar("Result")


def each_chunk(function: Callable[[Part], Result], parts: Sequence[Part], kept: int, budget: int) -> list[Result]:
    """``[function(part) for part in parts]``, with bounded memory for the backward pass.

    Args:
        function: must give the same again when it is called again.
        parts: the chunks.
        kept: bytes that autograd would keep for all of them.
        budget: bytes that it may keep.
    """
    if not torch.is_grad_enabled() or kept <= budget:
        return [function(part) for part in parts]
    return [checkpoint(function, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
