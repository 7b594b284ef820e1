"""The form of `recurjac verify` that the VNN-LIB standard prescribes: networks by name, an assignment by variable.

Source: VNN-LIB standard 2.1, chapter "Command-line Interface"; https://www.vnnlib.org.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurjac_plugin.errors import InputError

from . import options

if TYPE_CHECKING:
    import numpy as np

    from recurjac_plugin.properties.spec import Declaration, Spec, Variable

    from .problem import Network

NAME = "RecurJac"
ELEMENT_TYPES = ("real",)
"""Element types of queries that are analysed: bounds are computed without directed rounding, which suits real alone."""

_VERDICTS = {"timeout": "timed-out"}  # where the standard's word differs from VNN-COMP's


def parse_networks(given: Sequence[str]) -> dict[str, Path]:
    """Files by network name, from values such as ``f=net.onnx``."""
    files: dict[str, Path] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            options.refuse("--network", f"must be NAME=FILE, got {text!r}.")
        if name in files:
            options.refuse("--network", f"names `{name}` twice; give one file for each network.")
        files[name] = Path(file)
    return files


def file_of(query: Path, declaration: Declaration | None, files: dict[str, Path]) -> Path:
    """The file of the query's only network; VNN-LIB 1.0 gives networks no names, so that any name is right there.

    Raises:
        InputError: files are missing or left over, or the query's element types are not `ELEMENT_TYPES`.
    """
    if declaration is None:
        if len(files) != 1:
            raise InputError(f"`{query}` is about one network, but {len(files)} were given; give `--network` once.")
        return next(iter(files.values()))
    wanted = declaration.network
    if set(files) != {wanted}:
        given = ", ".join(f"`{name}`" for name in files)
        raise InputError(
            f"`{query}` declares the network `{wanted}`, but `--network` gives {given}; give `--network {wanted}=FILE` "
            "and no other."
        )
    for variable in (declaration.input, declaration.output):
        if variable.element_type not in ELEMENT_TYPES:
            raise InputError(
                f"`{query}` declares `{variable.name}` as {variable.element_type}, but bounds are computed without "
                "directed rounding, which is sound for the type real only; declare it as real to accept that, or use "
                "`recurjac verify MODEL PROP`."
            )
    return files[wanted]


def check_shape(query: Path, spec: Spec, network: Network) -> None:
    """Refuse a query whose input has another shape than the network's; a batch dimension of 1 may be left out.

    Raises:
        InputError: the shapes differ.
    """
    shape = network.module.input_shape
    if spec.declaration is not None and spec.declaration.input.shape not in (shape, (1, *shape)):
        declared = spec.declaration.input
        raise InputError(
            f"`{query}` declares `{declared.name}` as {shape_text(declared.shape)}, but the network takes "
            f"{shape_text((1, *shape))}; give the network that belongs to it."
        )


def answer(result: Any, declaration: Declaration | None) -> str:
    """The verdict, and after ``sat`` the assignment.

    Every variable is given in the order of the query: a line with its name, type and shape, then its values in
    row-major order, one a line. VNN-LIB 1.0 has no such form; there the assignment is VNN-COMP's.
    """
    word = _VERDICTS.get(result.verdict.value, result.verdict.value)
    point = result.counterexample
    if point is None:
        return word
    if declaration is None:
        return f"{word}\n{point}"
    return "\n".join([word, *_assigned(declaration.input, point.x), *_assigned(declaration.output, point.y)])


def shape_text(shape: Sequence[int]) -> str:
    """A shape as VNN-LIB writes it."""
    return f"[{','.join(map(str, shape))}]"


def _assigned(variable: Variable, values: np.ndarray) -> list[str]:
    """The lines of one variable."""
    return [f"{variable.name} {variable.element_type} {shape_text(variable.shape)}", *map(_number, values)]


def _number(value: float) -> str:
    """The shortest decimal number that reads back as this one; VNN-LIB has no exponents."""
    import numpy as np

    return np.format_float_positional(np.float64(value), trim="0")
