"""Bounds in files of torch: ``torch.load(file, weights_only=True)`` takes only classes that it knows.

Nothing here imports torch: the package does without until it is used.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from recurjac_plugin.host.find import ImportHook

_BOUNDS = "recurjac_plugin.jacobian.bounds"  # tells torch about its class when it is imported


def make_known() -> None:
    """Have torch know the class of bounds: from now on, or as soon as somebody imports torch."""
    if sys.modules.get("torch") is not None:
        importlib.import_module(_BOUNDS)
    else:
        _Finder.install()


class _Finder(ImportHook):
    """Has `_KnowingLoader` load torch."""

    name = "torch"

    def instead_of(self, loader: Loader, origin: str | None) -> Loader:
        """Which needs this finder no more."""
        return _KnowingLoader(loader, self)


class _KnowingLoader(Loader):
    """Runs torch's own loader, and tells torch about bounds.

    Args:
        loader: torch's.
        finder: what put this one in its place, and is needed no more once torch is there.
    """

    def __init__(self, loader: Loader, finder: MetaPathFinder) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """What torch's own loader creates."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Import torch, then bounds."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self.finder]
        importlib.import_module(_BOUNDS)
