"""How messages name the file of a property and the inputs in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recurjac_plugin.errors import FileError


@dataclass(frozen=True)
class PropertyFile:
    """A VNN-LIB file and the input that it declares.

    Attributes:
        path: the file.
        input: name of the input.
        input_shape: shape of the input.
        version_1: whether the file is of VNN-LIB 1.0, which calls inputs ``X_i``.
    """

    path: Path
    input: str
    input_shape: tuple[int, ...]
    version_1: bool

    @property
    def n_inputs(self) -> int:
        """Number of inputs, flattened."""
        return math.prod(self.input_shape)

    def input_name(self, index: int) -> str:
        """What the file calls the input at a flat index: ``X_3``, or ``name[0,3]``."""
        if self.version_1:
            return f"X_{index}"
        return f"{self.input}[{','.join(str(i) for i in np.unravel_index(index, self.input_shape))}]"

    def error(self, what: str, expected: str, line: int | None) -> FileError:
        """The error to raise.

        Args:
            what: what the file says, as a verb with its object.
            expected: what was expected in its place.
            line: where it says so, if that is known.
        """
        where = f"`{self.path}`" if line is None else f"`{self.path}` line {line}"
        return FileError(f"{where} {what}: {expected}; rewrite the property.")
