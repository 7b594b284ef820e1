"""Torch's exporter, through which the host reads networks: the same way whatever else the process does with it.

``torch.onnx.export(..., opset_version=9)`` leaves its operator set behind as a global setting, and all sets loaded. In
some of them operators are written in a way that the host overlooks.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Reads = TypeVar("Reads", bound=Callable[..., Any])


# The TorchScript exporter's settings; torch 2.9 moved them.
_SETTINGS = ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals")


# Before the first a clamp has its bounds elsewhere; behind the last GELU has an approximation of its own.
_FIRST, _LAST = 12, 19
# Loaded by an export, on torch 2.9 and newer; in a process without one the host reads by set 12 whatever is set.
_NEWER = "torch.onnx._internal.torchscript_exporter.symbolic_opset13"


@functools.cache
def settings() -> Any:
    """The exporter's settings, which all of the process shares."""
    for name in _SETTINGS:
        try:
            return importlib.import_module(name).GLOBALS
        except ModuleNotFoundError:
            continue
    raise ImportError(f"torch {torch.__version__} has none of {', '.join(_SETTINGS)}.")


def load_operator_sets() -> None:
    """Load operator set 12, through which the host reads networks.

    Newer torch loads the sets only when something like torchvision asks for them; what the host can read must not
    depend on that.
    """
    importlib.import_module("torch.onnx.symbolic_opset11")
    importlib.import_module("torch.onnx.symbolic_opset12")


def by_known_sets(read: Reads) -> Reads:
    """A function of the host's that reads networks, by an operator set that it can read."""

    @functools.wraps(read)
    def reading(*args: Any, **kwargs: Any) -> Any:
        shared = settings()
        before = shared.export_onnx_opset_version
        shared.export_onnx_opset_version = _FIRST if _NEWER in sys.modules else min(max(before, _FIRST), _LAST)
        try:
            return read(*args, **kwargs)
        finally:
            shared.export_onnx_opset_version = before

    return reading  # type: ignore[return-value]
