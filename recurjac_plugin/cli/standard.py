"""The form of `recurjac verify` that the VNN-LIB standard prescribes: networks by name, an assignment by variable.

Source: VNN-LIB standard 2.1, chapter "Command-line Interface"; https://www.vnnlib.org.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurjac_plugin.errors import InputError

from . import options

if TYPE_CHECKING:
    import numpy as np

    from recurjac_plugin.properties.spec import Declaration, Variable

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


def check_networks(query: Path, declaration: Declaration | None, files: Mapping[str, Path]) -> None:
    """Refuse other files than the query's networks need; VNN-LIB 1.0 gives networks no names: any is right there.

    Raises:
        InputError: files are missing or left over, or the query's element types are not `ELEMENT_TYPES`.
    """
    if declaration is None:
        if len(files) != 1:
            raise InputError(f"`{query}` is about one network, but {len(files)} were given; give `--network` once.")
        return
    wanted = [network.name for network in declaration.networks if network.equal_to is None]
    if set(files) != set(wanted):
        given = ", ".join(f"`{name}`" for name in files)
        several, names = "s" if len(wanted) > 1 else "", ", ".join(f"`{name}`" for name in wanted)
        options_ = " ".join(f"--network {name}=FILE" for name in wanted)
        raise InputError(
            f"`{query}` declares the network{several} {names}, but `--network` gives {given}; give `{options_}` "
            "and no other."
        )
    for variable in declaration.variables:
        if variable.element_type not in ELEMENT_TYPES:
            raise InputError(
                f"`{query}` declares `{variable.name}` as {variable.element_type}, but bounds are computed without "
                "directed rounding, which is sound for the type real only; declare it as real to accept that, or use "
                "`recurjac verify MODEL PROP`."
            )


def networks_of(text: str) -> dict[str, Path] | None:
    """Files by network name from VNN-COMP's way to write several, ``[('f', 'a.onnx'), ('g', 'b.onnx')]``; else None."""
    if not text.startswith("["):
        return None
    try:
        pairs = [(str(name), Path(file)) for name, file in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError):
        options.refuse("MODEL", f"must be a file, or a list like [('f', 'a.onnx'), ('g', 'b.onnx')]; got {text!r}.")
    return dict(pairs)


def answer(result: Any, declaration: Declaration | None) -> str:
    """The verdict, and after ``sat`` the assignment.

    Every variable is given in the order of the query: a line with its name, type and shape, then its values in
    row-major order, one a line. VNN-LIB 1.0 has no such form; there the assignment is VNN-COMP's.
    """
    word = _VERDICTS.get(result.verdict.value, result.verdict.value)
    point = result.counterexample
    return word if point is None else f"{word}\n{assignment(point, declaration)}"


def assignment(point: Any, declaration: Declaration | None) -> str:
    """A counterexample in the query's own variables; in VNN-COMP's form for VNN-LIB 1.0."""
    if declaration is None:
        return str(point)
    lines: list[str] = []
    x, y = 0, 0
    for network in declaration.networks:
        for variable in network.inputs:
            lines += _assigned(variable, point.x[x : x + variable.size])
            x += variable.size
        for variable in network.outputs:
            lines += _assigned(variable, point.y[y : y + variable.size])
            y += variable.size
    return "\n".join(lines)


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
