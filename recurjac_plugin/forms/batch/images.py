"""Images of several steps of each sample, whose first axis holds the batch and the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from recurjac_plugin.forms.marks import shape_of, untraced

from .values import Lifted, settled, shadow


def batch_norm(held: Lifted, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """In evaluation: a scale and a shift for every channel."""
    given = dict(zip(("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"), args[1:]))
    given |= kwargs
    if given.get("training") or given.get("running_mean") is None or held.holds([1]):
        return NotImplemented
    ones = (1,) * (len(held.shape) - 2)
    with untraced(), torch.no_grad():
        scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt().reshape(-1, *ones)
        shift = -given["running_mean"].reshape(-1, *ones) * scale
    value = held.value * scale + shift
    if given.get("weight") is not None:
        value = value * given["weight"].reshape(-1, *ones)
    if given.get("bias") is not None:
        value = value + given["bias"].reshape(-1, *ones)
    return settled(shadow(function, args, kwargs), value, held.batch, held.axis, held.inner)


def planes(held: Lifted, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Images of several steps of each sample, ``(B steps, c, h, w)``, as one image of all channels."""
    if held.axis not in (0, None):
        return NotImplemented
    steps, *image = held.rest(held.shape)
    value = held.value.reshape(-1, steps * image[0], *image[1:])
    name = function.__name__
    if name.startswith("conv"):
        given = dict(zip(("weight", "bias", "stride", "padding", "dilation", "groups"), args[1:])) | kwargs
        bias = given.get("bias")
        given["weight"] = torch.cat([given["weight"]] * steps)
        given["bias"] = None if bias is None else torch.cat([bias] * steps)
        given["groups"] = given.get("groups", 1) * steps
        value = function(value, **given)
    else:
        value = function(value, *args[1:], **kwargs)
    new = shadow(function, args, kwargs)
    value = value.reshape(-1, steps, *shape_of(new)[1:])
    return settled(new, value, held.batch, held.axis, held.inner)


IMAGES: dict[str, Callable[[Lifted, Callable[..., Any], Any, Any], Any]] = {
    "batch_norm": batch_norm,
    **dict.fromkeys(
        (
            "conv1d", "conv2d", "max_pool1d", "max_pool2d", "_max_pool1d", "_max_pool2d", "avg_pool1d", "avg_pool2d",
            "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "interpolate",
        ),
        planes,
    ),
}  # fmt: skip
"""Name -> rule."""
