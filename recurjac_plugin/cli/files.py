"""Files that commands write, whole or not at all: is there room for them, and tables as CSV."""

from __future__ import annotations

import os
from pathlib import Path

from recurjac_plugin.errors import FileError
from recurjac_plugin.files import write, write_csv

__all__ = ["check_writable", "make_folder", "write", "write_csv"]


def check_writable(*paths: Path | None) -> None:
    """Refuse, before a long computation, a file that its result could not be written to.

    Args:
        paths: the files; None for one that was not asked for.

    Raises:
        FileError: a folder does not exist or cannot be written to, or the path is a folder.
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise FileError(f"`{path}` is a directory: expected the name of a file to write.")
        if not path.absolute().parent.is_dir():
            raise FileError(f"`{path}` cannot be written: its directory does not exist; create it first.")
        if not os.access(path.absolute().parent, os.W_OK):
            raise FileError(f"`{path}` cannot be written: its directory is read-only; choose another.")


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, where they do not exist.

    Raises:
        FileError: the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"`{path}` cannot be made: {error.strerror}; give another place.") from error
