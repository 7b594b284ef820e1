"""What is installed of what the package needs, and of its extras."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from typing import Any

from recurjac_plugin.extras import EXTRAS, install_line
from recurjac_plugin.networks.converter import import_onnx2pytorch

# A package for another torch, numpy or system fails in any of these ways.
_WHILE_IMPORTED = (ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError)
CORE = ("torch", "numpy", "filelock")


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes:
        name: of the distribution.
        version: that is installed; None where there is none.
        needed_for: what for.
        extra: the extra that it belongs to; None for what is always needed.
        problem: why it cannot be used, and what to do; None where it can.
    """

    name: str
    version: str | None
    needed_for: str
    extra: str | None = None
    problem: str | None = None

    @property
    def state(self) -> str:
        """``yes``, ``missing``, or ``no`` for a version that does not fit or import."""
        if self.problem is None:
            return "yes"
        return "missing" if self.version is None else "no"

    @property
    def spoils(self) -> bool:
        """Whether anything is broken: what is always needed is not usable, or an optional package does not fit."""
        return self.state == "no" or (self.state == "missing" and self.extra is None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ok": self.problem is None}


def packages() -> list[Package]:
    """Everything, what is always needed first."""
    found = [Package("python", platform.python_version(), "everything")]
    found += [_package(name, name, "everything", None) for name in CORE]
    found.append(_host())
    for extra, about in EXTRAS.items():
        found += [_package(module, name, about.purpose, extra) for module, name in about.packages.items()]
    return found


def extras(found: list[Package]) -> list[dict[str, Any]]:
    """The extras: name, purpose, whether all of it is usable, the packages that are not, and the line that installs."""
    rows = []
    for name, about in EXTRAS.items():
        lacking = [each.name for each in found if each.extra == name and each.problem is not None]
        row = {"name": name, "needed_for": about.purpose, "ok": not lacking, "lacking": lacking}
        rows.append({**row, "install": install_line(name)})
    return rows


def devices() -> list[str]:
    """Where torch can compute; nothing without torch."""
    try:
        import torch
    except ImportError:
        return []
    names = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ["cpu", *names]


def _package(module: str, name: str, needed_for: str, extra: str | None) -> Package:
    """A package, by importing it: an installed one may lack what it needs itself."""
    wanted, fits = _requirement(name)
    install = f"`pip install '{wanted}'`" if extra is None else f"`{install_line(extra)}`"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Package(name, None, needed_for, extra, f"not installed; install it with {install}.")
    if not fits(version):
        problem = f"{version} does not fit; replace it with `pip install '{wanted}'`."
        return Package(name, version, needed_for, extra, problem)
    try:
        _import(module)
    except _WHILE_IMPORTED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        problem = f"does not import ({reason}); install it anew with {install}."
        return Package(name, version, needed_for, extra, problem)
    return Package(name, version, needed_for, extra)


def _import(module: str) -> None:
    """Import a module as the package does."""
    if module == "onnx2pytorch":
        import_onnx2pytorch()
    elif module != "torchvision":  # of which nothing is used but for a few operators on images
        importlib.import_module(module)


def _requirement(name: str) -> tuple[str, Any]:
    """What this package's own metadata asks for, if it is installed, and what says whether a version fits."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires("recurjac-plugin") or []
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return name, lambda version: True
    found = next((each for each in map(Requirement, lines) if each.name == name), None)
    if found is None:
        return name, lambda version: True
    return f"{name}{found.specifier}", lambda version: found.specifier.contains(version, prereleases=True)


def _host() -> Package:
    """auto_LiRPA, by importing it, which this package helps with."""
    from recurjac_plugin.errors import HostError
    from recurjac_plugin.host.find import find_host

    version = None
    try:
        version = find_host().version
        from recurjac_plugin.host import library as host  # noqa: F401
    except HostError as error:
        return Package("auto_LiRPA", version, "everything", problem=str(error))
    except ImportError as error:  # without torch
        return Package("auto_LiRPA", version, "everything", problem=f"does not import: {error}.")
    return Package("auto_LiRPA", version, "everything")
