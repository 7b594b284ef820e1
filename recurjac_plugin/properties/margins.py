"""Specification matrices of classifiers: how far the output of one class lies above those of others."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError

TargetName = Literal["all", "runner-up", "least-likely", "random"]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)
"""The names of choices of other classes; a class can be chosen by its number, too."""


def margin_rows(
    outputs: Tensor, labels: Tensor | None = None, target: TargetName | str | int = "all", seed: int = 0
) -> Tensor:
    r"""The matrix C whose rows are the margins ``f_c - f_j`` of class c over other classes j.

    Args:
        outputs: the network's outputs, shape (b, n_out).
        labels: class c of every sample, shape (b,); None takes the one with the largest output.
        target: which j: ``"all"`` others in increasing order (the untargeted case), ``"runner-up"``, the other class
            with the largest output, ``"least-likely"``, the one with the smallest, ``"random"``, or a class by its
            number.
        seed: of the random choice.

    Returns:
        Shape (b, n_out - 1, n_out) for ``"all"``, else (b, 1, n_out), of the outputs' dtype and device.

    Raises:
        InputError: there are fewer than two classes, a label or the target is no class, or they are the same.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 4.
    """
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or not outputs.is_floating_point() or not len(outputs):
        came = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"`outputs` must be a floating-point tensor of shape (b, n_out), got {came}.")
    if outputs.shape[1] < 2:
        raise InputError("`outputs` has one class: a margin needs at least two.")
    if not bool(outputs.isfinite().all()):
        raise InputError("`outputs` contains NaN or infinite values.")
    classes = _labels(outputs, labels)
    others = _targets(outputs, classes, target, seed)
    unit = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    return unit[classes].unsqueeze(1) - unit[others]


def _labels(outputs: Tensor, labels: Tensor | None) -> Tensor:
    """Class of every sample, int64 (b,)."""
    if labels is None:
        return outputs.argmax(1)
    count = outputs.shape[1]
    if not isinstance(labels, Tensor) or labels.shape != outputs.shape[:1]:
        came = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"`labels` must be a tensor with one class per sample, shape ({len(outputs)},), got {came}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"`labels` must be whole numbers, got {labels.dtype}.")
    wrong = labels[(labels < 0) | (labels >= count)]
    if len(wrong):
        raise InputError(f"`labels` contains {int(wrong[0])}, but the classes are 0 to {count - 1}.")
    return labels.to(outputs.device, torch.int64)


def _targets(outputs: Tensor, classes: Tensor, target: str | int, seed: int) -> Tensor:
    """The other classes of every sample, int64 (b, k)."""
    batch, count = outputs.shape
    every = torch.arange(count, device=outputs.device).expand(batch, -1)
    others = every[every != classes.unsqueeze(1)].reshape(batch, count - 1)
    if target == "all":
        return others
    if target == "random":
        generator = torch.Generator().manual_seed(seed)
        return others.gather(1, torch.randint(count - 1, (batch, 1), generator=generator).to(outputs.device))
    if target in ("runner-up", "least-likely"):
        values = outputs.gather(1, others)
        chosen = values.argmax(1) if target == "runner-up" else values.argmin(1)
        return others.gather(1, chosen.unsqueeze(1))
    if isinstance(target, bool) or not isinstance(target, int):
        raise InputError(f"`target` must be one of {', '.join(map(repr, TARGETS))} or a class, got {target!r}.")
    if not 0 <= target < count:
        raise InputError(f"`target` is {target}, but the classes are 0 to {count - 1}.")
    if bool((classes == target).any()):
        sample = int((classes == target).nonzero()[0])
        raise InputError(f"`target` is {target}, the class of sample {sample} itself; choose another one.")
    return torch.full((batch, 1), target, device=outputs.device)
