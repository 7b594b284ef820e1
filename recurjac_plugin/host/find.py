"""Finding auto_LiRPA without importing it, and keeping the caller's process as it was while it is imported.

auto_LiRPA is a peer dependency: PyPI has only 0.3, everything newer comes from git, and both declare ranges
of torch that exclude releases they run on. So which one is there is seen at run time, from the package that
Python would import.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType

from recurjac_plugin.errors import HostError
from recurjac_plugin.hooks.finder import LoaderInPlace

INSTALL_LINES = (
    "pip install --no-deps auto_LiRPA==0.3",
    "pip install --no-deps git+https://github.com/Verified-Intelligence/auto_LiRPA.git",
)
SUPPORTED = "0.3 (PyPI) and 0.4 to 0.7 (git)"

HOST_FAILURES = (
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What the host raises for operators, shapes and methods it cannot take: it has no exception of its own."""

_OLDEST, _NEWEST = (0, 3), (0, 7)
_VERSION = re.compile(r"""^__version__\s*=\s*["']((\d+)\.(\d+)[^"']*)["']""", re.MULTILINE)


@dataclass(frozen=True)
class HostPackage:
    """The auto_LiRPA that ``import auto_LiRPA`` would give: its version and the folder it lies in."""

    version: str
    release: tuple[int, int]
    folder: Path

    @property
    def is_03(self) -> bool:
        """Whether it is the PyPI release of 2022, whose names differ and which needs fixes."""
        return self.release == _OLDEST

    @property
    def supported(self) -> bool:
        """Whether this package works with it."""
        return _OLDEST <= self.release <= _NEWEST


def find_host() -> HostPackage:
    """Locate auto_LiRPA on ``sys.path`` without importing it.

    The version is read from the source of the package found, not from installation metadata: with a checkout
    ahead of an installed copy on ``sys.path`` the metadata would describe the other one.

    Raises:
        HostError: there is none, or it does not say which version it is.
    """
    try:
        spec = importlib.util.find_spec("auto_LiRPA")
    except ValueError as error:  # a module put into sys.modules by hand, without a spec
        raise HostError(f"`auto_LiRPA` is loaded but not from a file ({error}). {_remedy()}") from error
    # A folder without __init__.py (a checkout's root) is found as a namespace package, without an origin.
    if spec is None or spec.origin is None:
        raise HostError(f"`auto_LiRPA` is not installed: recurjac_plugin needs {SUPPORTED}. {_remedy()}")
    init = Path(spec.origin)
    stated = _VERSION.search(init.read_text(encoding="utf-8"))
    if stated is None:
        raise HostError(
            f"`auto_LiRPA` at {init.parent} does not state its version: recurjac_plugin needs {SUPPORTED}. {_remedy()}"
        )
    return HostPackage(stated[1], (int(stated[2]), int(stated[3])), init.parent)


def require_host() -> HostPackage:
    """`find_host`, refusing versions that this package does not know.

    Raises:
        HostError: there is none, or its version is not supported.
    """
    host = find_host()
    if not host.supported:
        raise HostError(
            f"`auto_LiRPA` {host.version} at {host.folder} is not supported: recurjac_plugin needs "
            f"{SUPPORTED}. {_remedy()}"
        )
    return host


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Undo what the host does to the whole process while it is imported.

    It attaches a handler for stdout to the root logger, on newer versions lowers that logger's level, and
    puts filters for all warnings in front of the user's. Its own loggers stay as it made them. Deprecations
    met while it is loaded (it compiles helpers with TorchScript) concern its authors, and are not passed on.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        # Both are needed: the host puts its own filter in front of this one half way through.
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


class _PreparedLoader(LoaderInPlace):
    """Runs the host's own loader with what the host needs around it.

    Args:
        loader: the host's.
        is_03: whether it is the release that needs fixes.
    """

    ran = False

    def __init__(self, loader: Loader, is_03: bool) -> None:
        super().__init__(loader)
        self.is_03 = is_03

    def run(self, module: ModuleType) -> None:
        """Import the host and leave the process as it was; 0.3 with the names that newer releases dropped."""
        with ExitStack() as stack:
            from recurjac_plugin.modules import exporter

            from . import fixes_03  # both with torch

            stack.enter_context(process_state_kept())
            exporter.load_operator_sets()
            if self.is_03:
                stack.enter_context(fixes_03.names_missing_on_import())
            self.loader.exec_module(module)
        if self.is_03:
            fixes_03.patch_after_import(module)
        _PreparedLoader.ran = True
        load_library()


def prepared(loader: Loader, origin: str | None) -> Loader | LoaderInPlace:
    """What loads the host in place of its own loader, prepared for the release that its file states."""
    if origin is None:
        return loader
    stated = _VERSION.search(Path(origin).read_text(encoding="utf-8"))
    return _PreparedLoader(loader, stated is not None and (int(stated[2]), int(stated[3])) == _OLDEST)


def was_prepared() -> bool:
    """Whether the host was imported as `hooks` have it, and not before."""
    return _PreparedLoader.ran


def load_library() -> None:
    """Import `library`; why it cannot be imported is said when it is needed."""
    with suppress(HostError):
        importlib.import_module("recurjac_plugin.host.library")


def _remedy() -> str:
    return f"Install one with `{INSTALL_LINES[0]}` or `{INSTALL_LINES[1]}`."
