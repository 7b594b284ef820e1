"""Problem files, plain or compressed; results, whole or not at all.

Problems may be gzip-compressed, results hold only numbers that JSON has.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import FileError

_GZIP_MAGIC = b"\x1f\x8b"


def locate(path: str | PathLike[str], kind: str) -> Path:
    """The file that `path` means: itself, or its neighbour with ``.gz`` added or dropped.

    VNN-COMP lists ``net.onnx`` in `instances.csv` where the repository holds ``net.onnx.gz``.

    Args:
        path: as given by the user or listed in `instances.csv`.
        kind: what the file should be, for the message, e.g. ``"an ONNX network"``.

    Raises:
        FileError: neither exists.
    """
    try:
        given = Path(path)
    except TypeError as error:
        raise FileError(f"`{path!r}` is not a path: expected the name of {kind}.") from error
    if given.is_dir():
        raise FileError(f"`{given}` is a directory: expected {kind}; check the path.")
    other = given.with_suffix("") if given.suffix == ".gz" else given.with_name(given.name + ".gz")
    for candidate in (given, other):
        if candidate.is_file():
            return candidate
    raise FileError(f"`{given}` does not exist: expected {kind}; check the path.")


def read_bytes(path: str | PathLike[str], kind: str) -> bytes:
    """Contents of a file, decompressed if it is gzip (told by its first bytes, not by its name).

    Args:
        path: the file; see `locate`.
        kind: what the file should be, for the message.

    Raises:
        FileError: the file is missing, unreadable, empty, or its compression is damaged.
    """
    file = locate(path, kind)
    try:
        raw = file.read_bytes()
        content = gzip.decompress(raw) if raw.startswith(_GZIP_MAGIC) else raw
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"`{file}` cannot be read as {kind}: {error}; fetch the file again.") from error
    if not content:
        raise FileError(f"`{file}` is empty: expected {kind}; fetch the file again.")
    return content


def write(path: Path, content: bytes) -> None:
    """Replace a file's content in one step: a reader, or a crash, sees the old file or the new one.

    Args:
        path: the file; its folder must exist.
        content: all of it.

    Raises:
        FileError: the system refuses, e.g. because the disk is full.
    """
    # Beside the target, for a rename works within one file system only.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"`{path}` cannot be written: {error.strerror}.") from error


def finite(value: Any) -> Any:
    """A value that JSON can hold: NaN and infinity, for which JSON has no numbers, become None, and tuples lists.

    Args:
        value: numbers, texts, None, and lists, tuples and dictionaries of such values.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV; None becomes an empty field, numbers read back exactly.

    Raises:
        FileError: the system refuses.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(["" if value is None else value for value in row] for row in rows)
    write(path, text.getvalue().encode())
