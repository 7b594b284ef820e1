"""How messages name the file of a property and the inputs in it, and where its variables are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recurjac_plugin.errors import FileError


@dataclass(frozen=True)
class PropertyFile:
    """A VNN-LIB file and the tensors that it declares.

    Attributes:
        path: the file.
        inputs: of all networks, name and shape.
        outputs: of all networks, likewise.
        version_1: whether the file is of VNN-LIB 1.0, which calls inputs ``X_i``.
    """

    path: Path
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    version_1: bool

    @property
    def n_inputs(self) -> int:
        """Number of inputs, flattened."""
        return sum(math.prod(shape) for _, shape in self.inputs)

    @property
    def n_outputs(self) -> int:
        """Number of outputs, flattened."""
        return sum(math.prod(shape) for _, shape in self.outputs)

    @cached_property
    def starts(self) -> dict[str, int]:
        """The flat index of the first element of every tensor."""
        found: dict[str, int] = {}
        for tensors in (self.inputs, self.outputs):
            index = 0
            for name, shape in tensors:
                found[name] = index
                index += math.prod(shape)
        return found

    def input_name(self, index: int) -> str:
        """What the file calls the input at a flat index: ``X_3``, or ``name[0,3]``."""
        if self.version_1:
            return f"X_{index}"
        name, shape = next(each for each in reversed(self.inputs) if self.starts[each[0]] <= index)
        return f"{name}[{','.join(str(i) for i in np.unravel_index(index - self.starts[name], shape))}]"

    def error(self, what: str, expected: str, line: int | None) -> FileError:
        """The error to raise.

        Args:
            what: what the file says, as a verb with its object.
            expected: what was expected in its place.
            line: where it says so, if that is known.
        """
        where = f"`{self.path}`" if line is None else f"`{self.path}` line {line}"
        return FileError(f"{where} {what}: {expected}; rewrite the property.")
