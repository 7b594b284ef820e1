"""`recurjac doctor`: what is installed, and what is missing."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from recurjac_plugin.cli import options
from recurjac_plugin.cli.streams import open_streams

_PACKAGES = {  # distribution -> what it is needed for
    "torch": "everything",
    "numpy": "everything",
    "onnx": "ONNX networks",
    "onnx2pytorch": "ONNX networks",
    "onnxruntime": "ONNX networks, counterexamples",
    "torchvision": "onnx2pytorch",
    "vnnlib": "VNN-LIB properties",
    "matplotlib": "--plot",
    "typer": "this command",
    "rich": "tables",
}


def doctor_command(json: options.Json = False) -> None:
    """Show the versions found, whether auto_LiRPA is supported, and what to install."""
    with open_streams(json) as streams:
        rows = [_python(), *(_package(name) for name in _PACKAGES), _host()]
        ok, devices = all(row["ok"] for row in rows), _devices()
        if streams.as_json:
            streams.json(
                {"command": "doctor", "version": _own_version(), "ok": ok, "packages": rows, "devices": devices}
            )
            return
        table = [[row["name"], row["version"], _state(row), row["needed_for"]] for row in rows]
        streams.table(f"recurjac {_own_version()}", ("package", "version", "usable", "for"), table)
        streams.line(f"devices: {', '.join(devices)}")
        for row in rows:
            if row["problem"] is not None:
                streams.line(f"{row['name']}: {row['problem']}")


def _state(row: dict[str, Any]) -> str:
    if row["ok"]:
        return "yes"
    return "missing" if row["version"] is None else "no"


def _own_version() -> str:
    from recurjac_plugin.version import __version__

    return __version__


def _row(name: str, version: str | None, needed_for: str, problem: str | None) -> dict[str, Any]:
    return {"name": name, "version": version, "ok": problem is None, "needed_for": needed_for, "problem": problem}


def _python() -> dict[str, Any]:
    return _row("python", platform.python_version(), "everything", None)


def _package(name: str) -> dict[str, Any]:
    needed = _PACKAGES[name]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _row(name, None, needed, f"not installed. Install it with `pip install '{_requirement(name) or name}'`.")
    wanted = _requirement(name)
    if wanted is not None:
        from packaging.requirements import Requirement

        if not Requirement(wanted).specifier.contains(version, prereleases=True):
            return _row(name, version, needed, f"{version} does not fit. Replace it with `pip install '{wanted}'`.")
    return _row(name, version, needed, None)


def _requirement(name: str) -> str | None:
    """What this package's own metadata asks for, if it is installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("recurjac-plugin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((line for line in lines if Requirement(line).name == name), None)


def _host() -> dict[str, Any]:
    """auto_LiRPA, by importing it: an installed one may lack what it needs itself."""
    from recurjac_plugin.errors import HostError
    from recurjac_plugin.host.find import find_host

    version = None
    try:
        version = find_host().version
        from recurjac_plugin.host import library as host  # noqa: F401
    except HostError as error:
        return _row("auto_LiRPA", version, "everything", str(error))
    return _row("auto_LiRPA", version, "everything", None)


def _devices() -> list[str]:
    import torch

    names = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ["cpu", *names]
