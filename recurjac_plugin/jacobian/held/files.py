"""Bounds in files of torch: ``torch.load(file, weights_only=True)`` takes only classes that it knows.

Nothing here imports torch: the package does without until it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_BOUNDS = "recurjac_plugin.jacobian.bounds"  # tells torch about its class when it is imported


def make_known() -> None:
    """Have torch know the class of bounds: from now on, or as soon as somebody imports torch."""
    if sys.modules.get("torch") is not None:
        importlib.import_module(_BOUNDS)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds torch where it is, and has `_KnowingLoader` load it."""

    def __init__(self) -> None:
        self._looking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Torch as the other finders find it; nothing else."""
        if name != "torch" or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _KnowingLoader(spec.loader, self)
        return spec


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
