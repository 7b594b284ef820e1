"""The optional parts of the package, and what is said where a package that one of them needs is missing.

The core needs torch and numpy. Everything else is imported where it is first used, after `need` was asked for it.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

from .errors import ExtraError


@dataclass(frozen=True)
class Extra:
    """An optional part.

    Attributes:
        purpose: what it is for; begins a sentence that goes on with "needs".
        packages: what it consists of, as ``module -> distribution``.
    """

    purpose: str
    packages: dict[str, str]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_TOML = () if sys.version_info >= (3, 11) else ("tomli",)  # newer Python has it

EXTRAS = {
    "host": Extra("auto_LiRPA", _same("appdirs", "graphviz", "packaging", "setuptools", "tqdm")),
    "onnx": Extra(
        "Reading ONNX or VNN-LIB",
        _same("onnx", "onnx2pytorch", "onnxruntime", "torchvision", "vnnlib"),
    ),
    "exact": Extra("Search over the sides of neurons", _same("scipy")),
    "cli": Extra("The command `recurjac`", _same("typer", "rich", *_TOML)),
    "plots": Extra("Drawing pictures and tables", _same("matplotlib", "pandas", "jinja2")),
    "cluster": Extra("Running on a Dask cluster", _same("distributed")),
}
"""The extras of pyproject.toml that have a purpose of their own."""


def install_line(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'recurjac-plugin[{extra}]'"


def extra_of(module: str) -> str:
    """The extra that a module's package belongs to."""
    return next(name for name, extra in EXTRAS.items() if module in extra.packages)


def need(*modules: str) -> None:
    """Import modules of optional packages, which the caller is about to use.

    Args:
        modules: top-level modules named in `EXTRAS`.

    Raises:
        ExtraError: one is not installed, or does not import.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == module
            state = "is not installed" if missing else f"does not import ({' '.join(str(error).split())})"
            extra = extra_of(module)
            raise ExtraError(
                f"{EXTRAS[extra].purpose} needs `{EXTRAS[extra].packages[module]}`, which {state}: "
                f"{install_line(extra)}."
            ) from error
