"""VNN-LIB 1.0 text rewritten as VNN-LIB 2.0, which is what the official parser reads.

Five rewrites: comments dropped; the declarations of `X_i` and `Y_i` counted and replaced by one network
declaration; numbers written with a decimal point and without exponent; ``X_i`` as ``X[i]``; ``=`` as ``==``.
Lines keep their numbers, so that the parser's messages fit the file.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from pathlib import Path

from recurjac_plugin.errors import FileError

_COMMENT = re.compile(r";[^\n]*")
_DECLARATION = re.compile(r"\(\s*declare-(?:const|fun)\s+([^\s()]+)\s+(?:\(\s*\)\s*)?([^\s()]+)\s*\)")
_TOKEN = re.compile(r"[^\s()]+")
_BETWEEN = re.compile(r"([\s()]+)")
_VARIABLE = re.compile(r"([XY])_(\d+)")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_INDEXED = re.compile(r"\b([XY])\[(\d+)\]")


def is_version_1(text: str) -> bool:
    """Whether the text declares variables one by one, which only VNN-LIB 1.0 does."""
    return bool(_DECLARATION.search(_COMMENT.sub("", text)))


def as_version_2(text: str, path: Path) -> str:
    """The same property in VNN-LIB 2.0, on the same lines.

    Args:
        text: contents of a VNN-LIB 1.0 file.
        path: for messages.

    Raises:
        FileError: a declaration other than ``X_i`` and ``Y_i`` of type Real numbered from 0, a reference to a
            variable that is not declared, or a number that does not fit a double.
    """
    text = _COMMENT.sub("", text)
    declared: dict[str, set[int]] = {"X": set(), "Y": set()}

    def line(match: re.Match[str]) -> int:
        return text.count("\n", 0, match.start()) + 1

    for match in _DECLARATION.finditer(text):
        variable = _VARIABLE.fullmatch(match[1])
        if variable is None or match[2] != "Real":
            raise FileError(
                f"`{path}` line {line(match)} declares `{match[1]}` of type {match[2]}: expected `X_i` or "
                "`Y_i` of type Real; VNN-LIB 1.0 has no others."
            )
        if int(variable[2]) in declared[variable[1]]:
            raise FileError(f"`{path}` line {line(match)} declares `{match[1]}` again: expected one declaration each.")
        declared[variable[1]].add(int(variable[2]))
    for letter, numbers in declared.items():
        missing = next(i for i in range(len(numbers) + 1) if i not in numbers)
        if not numbers or missing < len(numbers):
            raise FileError(f"`{path}` does not declare `{letter}_{missing}`: expected `{letter}_0` to the last one.")
    # Blanks of the same length and the same line ends keep every position.
    text = _DECLARATION.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    tokens = _BETWEEN.split(text)
    rewritten = _Rewritten(text, path, declared)
    tokens[::2] = map(rewritten.__getitem__, tokens[::2])
    body = "".join(tokens)
    sizes = {letter: len(numbers) for letter, numbers in declared.items()}
    return (
        "(vnnlib-version <2.0>) (declare-network f "
        f"(declare-input X real [{sizes['X']}]) (declare-output Y real [{sizes['Y']}])) {body}"
    )


class _Rewritten(dict[str, str]):
    """Tokens in VNN-LIB 2.0, each rewritten when it is first met; refuses variables that are not declared.

    Args:
        text: that they are from, to name lines.
        path: for messages.
        declared: numbers of inputs X and outputs Y.
    """

    def __init__(self, text: str, path: Path, declared: dict[str, set[int]]) -> None:
        super().__init__()
        self._text, self._path, self._declared = text, path, declared

    def __missing__(self, token: str) -> str:
        self[token] = self._rewrite(token)
        return self[token]

    def _rewrite(self, token: str) -> str:
        if variable := _VARIABLE.fullmatch(token):
            if int(variable[2]) not in self._declared[variable[1]]:
                raise FileError(f"{self._where(token)} uses `{token}`, which it does not declare; declare it.")
            return f"{variable[1]}[{int(variable[2])}]"
        if _NUMBER.fullmatch(token):
            value = float(token)
            if math.isinf(value) or (value == 0.0 and Decimal(token) != 0):
                raise FileError(f"{self._where(token)} has {token}, which is not in the range of a double.")
            decimal = format(Decimal(token), "f")
            return decimal if "." in decimal else f"{decimal}.0"
        return "==" if token == "=" else token

    def _where(self, token: str) -> str:
        """File and line of a token's first place."""
        place = next(match.start() for match in _TOKEN.finditer(self._text) if match[0] == token)
        return f"`{self._path}` line {self._text.count(chr(10), 0, place) + 1}"


def original_names(message: str) -> str:
    """Variables in a parser's message as VNN-LIB 1.0 writes them."""
    return _INDEXED.sub(r"\1_\2", message)
