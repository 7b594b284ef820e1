"""A finder that has another loader load one module."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # without `typing`, which takes longer to load than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class ImportHook:
    """Finds one module where it is, and has another loader load it.

    Attributes:
        name: of the module.
    """

    name: str

    def __init__(self) -> None:
        self._looking = False

    @classmethod
    def install(cls) -> None:
        """Put it before the other finders, once."""
        if not any(isinstance(finder, cls) for finder in sys.meta_path):
            sys.meta_path.insert(0, cls())

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module as the other finders find it; nothing else."""
        if name != self.name or self._looking:
            return None
        import importlib.util

        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = self.instead_of(spec.loader, spec.origin)
        return spec

    def instead_of(self, loader: Loader, origin: str | None) -> Any:
        """What loads the module in place of its own loader; origin: the file that it is in, if it is in one."""
        raise NotImplementedError


class LoaderInPlace:
    """A loader in place of a module's own, which is put back as soon as the module is imported.

    Args:
        loader: the module's own.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """What the own loader creates."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Import the module, as `run` does it."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader  # nobody needs this one any more
        self.run(module)

    def run(self, module: ModuleType) -> None:
        """Have the own loader run the module, with what is needed around it."""
        raise NotImplementedError
