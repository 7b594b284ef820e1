"""Results in files of torch: ``torch.load(file, weights_only=True)`` calls only what it knows, and is told here.

Nothing here imports torch: the package does without until it is used.
"""

from __future__ import annotations

import sys

from .finder import ImportHook, LoaderInPlace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from types import ModuleType


def make_known() -> None:
    """Have torch know `restored`, which makes all results anew: from now on, or as soon as somebody imports torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        _tell(torch)
    else:
        _Finder.install()


def _tell(torch: ModuleType) -> None:
    from recurjac_plugin.kept import restored

    if hasattr(torch.serialization, "add_safe_globals"):  # torch 2.5
        torch.serialization.add_safe_globals([restored])


class _Finder(ImportHook):
    """Has `_KnowingLoader` load torch."""

    name = "torch"

    def instead_of(self, loader: Loader, origin: str | None) -> _KnowingLoader:
        """Which needs this finder no more."""
        return _KnowingLoader(loader, self)


class _KnowingLoader(LoaderInPlace):
    """Runs torch's own loader, and tells torch about results.

    Args:
        loader: torch's.
        finder: what put this one in its place, and is needed no more once torch is there.
    """

    def __init__(self, loader: Loader, finder: ImportHook) -> None:
        super().__init__(loader)
        self.finder = finder

    def run(self, module: ModuleType) -> None:
        """Import torch, then tell it."""
        self.loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self.finder]
        _tell(module)
