"""Where to measure: on the processor and, where there is one, on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

on_every_device = pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])


def finished(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The function, which returns when the device is done: CUDA devices are only asked to begin."""
    if device == "cpu":
        return function

    def run(*args: Any) -> Any:
        found = function(*args)
        torch.cuda.synchronize()
        return found

    return run


def group(name: str, device: str) -> str:
    """The name of a table in which everything ran on one device."""
    return name if device == "cpu" else f"{name}, {torch.cuda.get_device_name()}"
