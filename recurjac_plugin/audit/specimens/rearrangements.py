"""Specimens of operators that choose, repeat, join and reorder elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .arithmetic import constant, fixed
from .specimen import Formula, Specimen

_SEQUENCE = (3, 4)


def _moved(kind: str, attributes: str, function: Callable[[Tensor], Tensor], *shape: int) -> Specimen:
    return Specimen(kind, attributes, lambda: Formula(lambda s, x: function(x)), shape or (4,))


def _joined(attributes: str, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> Specimen:
    size = (shape or (4,))[-1]
    mixed = -torch.eye(size).flip(0)
    return Specimen(
        "BoundConcat", attributes, lambda: Formula(lambda s, x: function(x, s.a(x)), a=fixed(mixed)), shape or (4,)
    )


def _with_constant(attributes: str, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> Specimen:
    return Specimen("BoundConcat", attributes, lambda: Formula(lambda s, x: function(x, s.k), k=constant(*shape)))


def _gathered(attributes: str, index: list[int], axis: int = 1, *shape: int) -> Specimen:
    chosen = torch.tensor(index)

    def function(s: Any, x: Tensor) -> Tensor:
        return torch.index_select(x, axis, s.index)

    return Specimen("BoundGather", attributes, lambda: Formula(function, index=chosen), shape or (4,))


def _ones_like(x: Tensor, k: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x) + 0.5, x], 1)


_SHAPES = (
    _moved("BoundReshape", "", lambda x: x.reshape(-1, 2, 2)),
    _moved("BoundReshape", "view", lambda x: x.view(x.shape[0], 4, 3), *_SEQUENCE),
    Specimen("BoundATenUnflatten", "", lambda: nn.Unflatten(1, (2, 2))),
    Specimen("BoundFlatten", "", nn.Flatten, _SEQUENCE),
    Specimen("BoundFlatten", "start_dim=2", lambda: nn.Flatten(2), (2, 3, 3)),
    _moved("BoundUnsqueeze", "axis=1", lambda x: x.unsqueeze(1)),
    _moved("BoundUnsqueeze", "axis=-1", lambda x: x.unsqueeze(-1)),
    _moved("BoundSqueeze", "axis=1", lambda x: x.squeeze(1), 1, 4),
    _moved("BoundSqueeze", "axis=-1", lambda x: x.squeeze(-1), 4, 1),
    _moved("BoundExpand", "", lambda x: x.unsqueeze(1).expand(-1, 3, -1)),
    _moved("BoundExpand", "to its own shape", lambda x: x.expand(x.shape[0], 4)),
    _moved("BoundTranspose", "(0, 2, 1)", lambda x: x.transpose(1, 2), *_SEQUENCE),
    _moved("BoundTranspose", "(0, 2, 3, 1)", lambda x: x.permute(0, 2, 3, 1), 2, 3, 3),
    _moved("BoundTranspose", "(0, 3, 1, 2)", lambda x: x.permute(0, 3, 1, 2), 3, 3, 2),
    Specimen("BoundIdentity", "", nn.Identity),
    Specimen("BoundDropout", "", lambda: nn.Dropout(0.5), training=True),
    _moved("BoundCast", "to float64 and back", lambda x: x.double().to(x.dtype)),
)

_JOINED = (
    _joined("axis=1", lambda x, y: torch.cat([x, y], 1)),
    _joined("axis=1, three", lambda x, y: torch.cat([y, x, y], 1)),
    _joined("axis=1, the input twice", lambda x, y: torch.cat([x, x], 1)),
    _joined("axis=1, sequences", lambda x, y: torch.cat([x, y], 1), *_SEQUENCE),
    _joined("axis=-1, sequences", lambda x, y: torch.cat([x, y], -1), *_SEQUENCE),
    _with_constant("constant first", _ones_like, 1),
    _with_constant("constant last", lambda x, k: torch.cat([x, torch.zeros_like(x) + 0.5], 1), 1),
    _moved("BoundConcatFromSequence", "stack, axis=1", lambda x: torch.stack([x, -x], 1)),
    _moved("BoundConcatFromSequence", "stack, axis=2", lambda x: torch.stack([x, -x], 2)),
)

_CHOSEN = (
    _moved("BoundSlice", "1:3", lambda x: x[:, 1:3]),
    _moved("BoundSlice", "1:-1", lambda x: x[:, 1:-1]),
    _moved("BoundSlice", "::2", lambda x: x[:, ::2]),
    _moved("BoundSlice", "images", lambda x: x[:, :, 1:, :2], 2, 3, 3),
    _moved("BoundSlice", "sequences, 0:2", lambda x: x[:, :, 0:2], *_SEQUENCE),
    _moved("BoundSplit", "2", lambda x: torch.split(x, 2, 1)[0] - 2 * torch.split(x, 2, 1)[1]),
    _moved("BoundSplit", "(3, 1)", lambda x: torch.cat([*torch.split(x, [3, 1], 1)][::-1], 1)),
    _moved("BoundSplit", "axis=2", lambda x: torch.split(x, 2, 2)[1], *_SEQUENCE),
    _gathered("indices", [3, 0, 2]),
    _gathered("an index twice", [3, 0, 0, 2]),
    _gathered("axis=2", [1, 3], 2, *_SEQUENCE),
    _gathered("axis=2, an index twice", [1, 1, 3], 2, *_SEQUENCE),
    _moved("BoundGather", "one index", lambda x: x[:, 1], *_SEQUENCE),
    _moved("BoundGather", "one index, last axis", lambda x: x[:, :, 2], *_SEQUENCE),
)

REARRANGEMENTS: tuple[Specimen, ...] = _SHAPES + _JOINED + _CHOSEN
"""Operators that only move numbers."""
