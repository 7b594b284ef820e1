"""VNN-COMP's lists of instances, and the answers expected of them."""

from __future__ import annotations

import csv
import fnmatch
import io
import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recurjac_plugin.errors import FileError, InputError, counted
from recurjac_plugin.files import locate, read_bytes

EXPECTED_COLUMNS = ("category", "onnx", "vnnlib", "expected")
ANSWERS = ("sat", "unsat")
"""Verdicts that can be right or wrong."""

Key = tuple[str, str, str]
"""Category, network and property, as `key` writes them: an instance in a table of answers."""


@dataclass(frozen=True)
class Instance:
    """One line of an instances.csv.

    Attributes:
        number: position in the run, from 0.
        category: name of the folder of the list.
        onnx: the network as the list writes it.
        vnnlib: the property as the list writes it.
        timeout: seconds; 0 where `problem` says that those listed cannot be used.
        folder: absolute path that both are relative to.
        problem: why the instance cannot be run, if it cannot.
    """

    number: int
    category: str
    onnx: str
    vnnlib: str
    timeout: float
    folder: str
    problem: str | None = None

    @property
    def key(self) -> Key:
        """See `key`."""
        return key(self.category, self.onnx, self.vnnlib)

    @property
    def identity(self) -> list[Any]:
        """What must not change between a run and its continuation."""
        return [self.number, self.category, self.onnx, self.vnnlib, self.timeout]


def key(category: str, onnx: str, vnnlib: str) -> Key:
    """Names of an instance, the same however its paths are written: ``./nets/a.onnx.gz`` is ``nets/a.onnx``."""
    plain = (posixpath.normpath(path.strip().replace("\\", "/")).removesuffix(".gz") for path in (onnx, vnnlib))
    return (category.strip(), *plain)  # type: ignore[return-value]  # two paths


def read_instances(
    files: Sequence[Path],
    *,
    timeout: float | None = None,
    max_timeout: float | None = None,
    only: Sequence[str] = (),
) -> list[Instance]:
    """The instances of one or more lists, in order.

    A line that cannot be run becomes an instance with a `problem`. Line ends may be LF, CR LF or CR; blank lines do not
    count; files may be stored as ``.gz`` and listed without it.

    Args:
        files: the lists; the category of each is the name of its folder.
        timeout: seconds for every instance, instead of those listed.
        max_timeout: most seconds of any instance.
        only: shell patterns of ``category/onnx/vnnlib``; instances that match one of them are taken; without any, all.

    Raises:
        FileError: a list is missing, is no text, or has no lines.
        InputError: a list is given twice, or no instance matches.
    """
    instances: list[Instance] = []
    seen: set[Path] = set()
    for file in files:
        path = file.resolve()
        if path in seen:
            raise InputError(f"`{file}` is given twice: its instances would count twice; give every list once.")
        seen.add(path)
        for line, row in _rows(file, "a list of instances"):
            instances.append(_instance(len(instances), path, line, row, timeout, max_timeout))
    chosen = [instance for instance in instances if not only or any(_matches(instance, pattern) for pattern in only)]
    if not chosen:
        raise InputError(
            f"None of {counted(len(instances), 'instance')} matches {', '.join(f'`{text}`' for text in only)}: "
            "patterns are compared with category/onnx/vnnlib, e.g. `acasxu/*_1_1_*`."
        )
    return chosen


def read_expected(file: Path) -> dict[Key, str]:
    """Expected answers by instance; "unknown" and other words that no verdict contradicts are left out.

    Raises:
        FileError: the file is missing, is no table with the columns `EXPECTED_COLUMNS`, or contradicts itself.
    """
    answers: dict[Key, str] = {}
    for line, row in read_table(file, EXPECTED_COLUMNS, "a table of expected answers"):
        answer = row["expected"].strip().lower()
        if answer not in ANSWERS:
            continue
        instance = key(row["category"], row["onnx"], row["vnnlib"])
        if answers.setdefault(instance, answer) != answer:
            raise FileError(f"`{file}` line {line} expects {answer} where an earlier line expects {answers[instance]}.")
    return answers


def read_table(file: Path, columns: Iterable[str], kind: str) -> list[tuple[int, Mapping[str, str]]]:
    """The lines of a CSV file below its header, each with its number and its fields by column.

    Args:
        file: plain or ``.gz``.
        columns: that the header must have, in any order and case.
        kind: what the file should be, for messages, e.g. "a table of answers".

    Raises:
        FileError: the file is missing, is no text, or lacks a column.
    """
    (_, header), *rows = _rows(file, kind)
    names = [name.strip().lower() for name in header]
    missing = [name for name in columns if name not in names]
    if missing:
        raise FileError(f"`{file}` has no column {', '.join(missing)}: expected {kind} with {','.join(columns)}.")
    for line, row in rows:
        if len(row) != len(names):
            raise FileError(f"`{file}` line {line} has {len(row)} fields, expected {len(names)} as in the header.")
    return [(line, dict(zip(names, row, strict=True))) for line, row in rows]


def _rows(file: Path, kind: str) -> list[tuple[int, list[str]]]:
    """The lines of a CSV file that are not blank, with their numbers."""
    try:
        text = read_bytes(file, kind).decode("utf-8-sig")
        rows = list(enumerate(csv.reader(io.StringIO(text, newline=None), strict=True), start=1))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"`{file}` is not {kind}: {error}; give a CSV file.") from error
    rows = [(line, row) for line, row in rows if any(field.strip() for field in row)]
    if not rows:
        raise FileError(f"`{file}` has no lines: expected {kind}.")
    return rows


def _instance(
    number: int, path: Path, line: int, row: list[str], timeout: float | None, max_timeout: float | None
) -> Instance:
    """What a line of a list says; its `problem` where it cannot be run."""
    category, folder = path.parent.name, str(path.parent)
    fields = [field.strip() for field in row]
    onnx, vnnlib, listed = [*fields, "", "", ""][:3]
    if len(fields) != 3 or not (onnx and vnnlib):
        problem = f"`{path}` line {line} is {','.join(fields)!r}: expected onnx,vnnlib,timeout."
        return Instance(number, category, onnx, vnnlib, 0.0, folder, problem)
    seconds = _seconds(listed) if timeout is None else timeout
    if seconds is None:
        problem = f"`{path}` line {line} has the timeout `{listed}`: expected a number of seconds above 0."
        return Instance(number, category, onnx, vnnlib, 0.0, folder, problem)
    seconds = seconds if max_timeout is None else min(seconds, max_timeout)
    return Instance(number, category, onnx, vnnlib, seconds, folder, _missing(path, line, onnx, vnnlib))


def _seconds(text: str) -> float | None:
    """A number of seconds above 0, None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _missing(path: Path, line: int, onnx: str, vnnlib: str) -> str | None:
    """Which of the two files does not exist, in words; None where both do."""
    for name, kind in ((onnx, "an ONNX network"), (vnnlib, "a VNN-LIB property")):
        try:
            locate(path.parent / name, kind)
        except FileError as error:
            return f"`{path}` line {line}: {error}"
    return None


def _matches(instance: Instance, pattern: str) -> bool:
    return fnmatch.fnmatchcase("/".join(instance.key), pattern)
