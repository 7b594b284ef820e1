"""The converter, onnx2pytorch, imported without torchvision.

onnx2pytorch imports torchvision for five operators on images (DeformConv, ImageDecoder, MaxRoiPool, NonMaxSuppression,
RoiAlign), and torchvision imports torch's compiler: together they take as long as torch itself. No network that the
host can bound has these operators. Their functions are therefore looked up in torchvision only when they are called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from recurjac_plugin.extras import need

_MODULES = ("torchvision", "torchvision.io", "torchvision.ops")


def import_onnx2pytorch() -> ModuleType:
    """Import onnx2pytorch without torchvision, unless the process has that loaded already.

    Raises:
        ExtraError: it is not installed.
    """
    with _torchvision_deferred():
        need("onnx2pytorch")
        return sys.modules["onnx2pytorch"]


class _Name:
    """A name of a module that is not imported yet: importing waits for a call, or for one of the name's attributes."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _value(self) -> Any:
        try:
            return getattr(importlib.import_module(self._module), self._name)
        # A torchvision for another torch (PyPI's beside a CPU build) fails with a RuntimeError.
        except (ImportError, RuntimeError) as error:
            raise NotImplementedError(f"needs `{self._module}`, which does not import: {error}") from error

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._value()(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value(), name)


class _StandIn(ModuleType):
    """A module whose every public name is a `_Name`."""

    def __getattr__(self, name: str) -> _Name:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(self.__name__, name)


@contextmanager
def _torchvision_deferred() -> Iterator[None]:
    """Let imports of torchvision find stand-ins, and take these away again."""
    if "torchvision" in sys.modules:
        yield
        return
    stand_ins = {name: _StandIn(name) for name in _MODULES}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in _MODULES:
            if sys.modules.get(name) is stand_ins[name]:
                del sys.modules[name]
