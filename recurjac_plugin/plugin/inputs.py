"""The inputs of a model: those of its last call, for calls that leave `x` out, and perturbations that are none.

The host keeps the inputs in its graph; ours puts the graph back as it was, so that what it was called with is noted
here, as long as nobody has given the host other ones since. Its `PerturbationLpNorm` fails with a bare error at a norm
that is no number, such as "inf", and takes any number for one; these are refused when they are made.
"""

from __future__ import annotations

import functools
import inspect
import math
import weakref
from typing import Any

import numpy as np

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.library import PerturbationLpNorm

_noted: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()
"""Model -> what the host's graph held when ours was called last, and what ours was called with."""


_before: list[Any] = []  # the host's constructor, while ours stands in its place


def add_to_host() -> None:
    """Have norms looked at when perturbations are made. Doing it again changes nothing."""
    if _before:
        return
    original = PerturbationLpNorm.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        norm = signature.bind(self, *args, **kwargs).arguments.get("norm", math.inf)
        if isinstance(norm, str) or not norm >= 1:
            raise InputError(
                f"`norm` must be a number of at least 1, or `float('inf')` for boxes, got {norm!r}; give the p of an "
                "l_p ball."
            )
        with np.errstate(divide="ignore"):  # by 1 - 1/p, for p = 1
            original(self, *args, **kwargs)

    _before.append(original)
    PerturbationLpNorm.__init__ = init


def remove_from_host() -> None:
    """Undo `add_to_host`."""
    if _before:
        PerturbationLpNorm.__init__ = _before.pop()


def note(model: Any, x: Any) -> None:
    """Note what a model was bounded on by ours."""
    _noted[model] = _held(model), x


def of_last_call(model: Any) -> Any:
    """The inputs of the last call, of the host or of ours.

    Raises:
        InputError: there are none with a perturbation.
    """
    held = _held(model)
    if model in _noted:
        before, x = _noted[model]
        if len(before) == len(held) and all(a is b for a, b in zip(before, held)):
            return x
    if not any(getattr(value, "ptb", None) is not None for value in held):
        raise InputError("`x` was left out, but the model has no perturbed input of an earlier call; give it.")
    return held


def _held(model: Any) -> tuple[Any, ...]:
    """The values in the host's input nodes, in the order of the arguments."""
    nodes = zip(model.input_name, model.input_index)
    order = sorted((index, name) for name, index in nodes if index is not None)
    return tuple(getattr(model[name], "value", None) for _, name in order)
