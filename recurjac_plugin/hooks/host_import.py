"""auto_LiRPA, prepared when somebody imports it."""

from __future__ import annotations

import sys

from .finder import ImportHook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from typing import Any


def prepare_import() -> None:
    """Have `host.library` loaded as soon as somebody imports auto_LiRPA, or now if that has happened.

    Until then nothing heavy is imported. From then on models are compared with their modules (`host.same_function`).
    """
    if sys.modules.get("auto_LiRPA") is not None:
        _host().load_library()
    else:
        _Finder.install()


class _Finder(ImportHook):
    """Has the host loaded as `host.find` says."""

    name = "auto_LiRPA"

    def instead_of(self, loader: Loader, origin: str | None) -> Any:
        """Prepared for the release that the file states."""
        return _host().prepared(loader, origin)


def _host() -> Any:
    import importlib

    return importlib.import_module("recurjac_plugin.host.find")
