"""Tables of the comparisons in Markdown, and what they were made on."""

from __future__ import annotations

import argparse
import csv
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

DATA = Path(__file__).with_name("data")


def published(name: str) -> list[dict[str, str]]:
    """The rows of a table of numbers that others published; lines that begin with # say where."""
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def checkout(description: str, variable: str, needed: str) -> tuple[argparse.ArgumentParser, str | None]:
    """A parser of the command line with `--checkout`, and the default for that folder.

    Args:
        description: of the script.
        variable: the environment variable that names the folder.
        needed: what it is a checkout of.
    """
    parser = argparse.ArgumentParser(description=description)
    folder = os.environ.get(variable)
    parser.add_argument("--checkout", default=folder, help=f"folder of {needed}; by default ${variable}")
    return parser, folder


def present(folder: str | None, inside: str, needed: str) -> Path | None:
    """A folder in a checkout, or one sentence on why there is nothing to compare with."""
    path = Path(folder or ".") / inside
    if folder is None or not path.exists():
        print(f"Skipped: no checkout of {needed} was named (`--checkout FOLDER`).")
        return None
    return path


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, row by row as they come."""
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.4g}' if isinstance(cell, float) else str(cell) for cell in row)} |", flush=True)


def machine() -> str:
    """One line on what numbers were measured on."""
    names = ("recurjac-plugin", "auto_LiRPA", "torch", "numpy", "eclipse-nn")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    threads = torch.get_num_threads()
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {threads} thread(s), Python {platform.python_version()}, "
        + (", ".join(versions))
    )
