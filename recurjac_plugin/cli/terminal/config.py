"""Values of options from a file: `recurjac.toml`, or the table `[tool.recurjac]` of `pyproject.toml`.

Names are those of the options, without dashes in front. What stands at the top is for every command that has the
option, what stands in a command's table for that command alone. The command line comes before the file, a command's
table before the top.
"""

from __future__ import annotations

import difflib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from recurjac_plugin.errors import FileError
from recurjac_plugin.extras import need

OWN, SHARED = Path("recurjac.toml"), Path("pyproject.toml")

_TYPES: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (bool, (bool,), "true or false"),
    (int, (int,), "a whole number"),
    (float, (int, float), "a number"),
    (object, (str, int, float), "a text"),
)
"""Types of options, of the values that they take from a file, and what these are called; the first that fits counts."""

_CONFIG = "config"  # the option that names the file cannot stand in it


@dataclass(frozen=True)
class _Option:
    """An option of a command.

    Attributes:
        parameter: its name in Python.
        hint: its type in Python.
        commas: whether it takes a list with commas.
    """

    parameter: str
    hint: Any
    commas: bool

    @property
    def kinds(self) -> tuple[type, ...]:
        """The types that its hint is made of."""
        parts = typing.get_args(self.hint) if isinstance(self.hint, types.UnionType) else (self.hint,)
        return (*(typing.get_origin(part) or part for part in parts), object)


def defaults(context: typer.Context, file: Path | None) -> dict[str, Any]:
    """What the file says about the options of the command that runs, by the names of its parameters.

    Args:
        context: of the command.
        file: named on the command line; None for what lies in the working directory.

    Raises:
        FileError: the file is missing, is no TOML, names what is unknown, or has a value of a wrong type.
    """
    where, values = _read(file)
    if not values:
        return {}
    commands = _commands(context)
    known = {name: _options(command) for name, command in commands.items()}
    everywhere = {name for each in known.values() for name in each}
    for name, value in values.items():
        if isinstance(value, dict):
            _check_name(where, "command", name, known)
            for option in value:
                _check_name(where, f"option of `{name}`", option, known[name])
        else:
            _check_name(where, "option", name, everywhere | known.keys())
            if name not in everywhere and _dashed(name) not in everywhere:
                raise FileError(f"`{where}`: `{name}` is a command; write its options below a line `[{name}]`.")
    of_command = context.command.name or ""
    own, found = known.get(of_command, {}), {}
    top = {name: value for name, value in values.items() if not isinstance(value, dict) and _dashed(name) in own}
    for name, value in (top | values.get(of_command, {})).items():
        option = own[_dashed(name)]
        found[option.parameter] = _converted(where, name, value, option)
    return found


def _read(file: Path | None) -> tuple[str, dict[str, Any]]:
    """What the file is called in messages, and what it holds; nothing where there is none."""
    if file is not None:
        content = _content(file, required=True)
        shared = file.name == SHARED.name
    else:
        content, shared, file = _content(OWN), False, OWN
        if content is None:
            content, shared, file = _content(SHARED), True, SHARED
    if content is None or (shared and b"recurjac" not in content):
        return str(file), {}
    values = _parsed(file, content)
    if shared:
        tools = values.get("tool")
        values = tools.get("recurjac", {}) if isinstance(tools, dict) else {}
        if not isinstance(values, dict):
            raise FileError(f"`{file}`: `tool.recurjac` must be a table; write the options below `[tool.recurjac]`.")
    return str(file), values


def _content(file: Path, required: bool = False) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        if not required:
            return None
        raise FileError(f"`{file}` does not exist: expected a file of options; check `--config`.") from None
    except OSError as error:
        raise FileError(f"`{file}` cannot be read as a file of options: {error.strerror}.") from error


def _parsed(file: Path, content: bytes) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        need("tomli")
        import tomli as tomllib
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(f"`{file}` is not TOML: {error}; write `name = value` lines.") from error


def _commands(context: typer.Context) -> dict[str, Any]:
    group = context.find_root().command
    return dict(getattr(group, "commands", {context.command.name: context.command}))


def _options(command: Any) -> dict[str, _Option]:
    """The options of a command by their names without dashes in front."""
    hints = typing.get_type_hints(command.callback)
    return {
        option.removeprefix("--"): _Option(parameter.name, hints[parameter.name], "," in (parameter.metavar or ""))
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name in hints and parameter.name != _CONFIG
        for option in parameter.opts
        if option.startswith("--")
    }


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _check_name(where: str, what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is unknown, with the nearest one."""
    names = sorted(known)
    if _dashed(name) in names:
        return
    near = difflib.get_close_matches(_dashed(name), names, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(names)}."
    raise FileError(f"`{where}` has `{name}`, which is no {what}; {hint}")


def _converted(where: str, name: str, value: Any, option: _Option) -> Any:
    """A value as it would stand on the command line."""
    kinds, wanted = next((kinds, wanted) for kind, kinds, wanted in _TYPES if kind in option.kinds)
    several = list in option.kinds
    lists = several or option.commas
    parts = value if isinstance(value, list) and lists else [value]
    if not all(isinstance(part, kinds) and (isinstance(part, bool) <= (bool in kinds)) for part in parts):
        raise FileError(f"`{where}`: `{name}` is {_written(value)}, expected {'a list, or ' if lists else ''}{wanted}.")
    if kinds == (bool,):
        return value
    texts = [str(part) for part in parts]
    return texts if several else ",".join(texts)


def _written(value: Any) -> str:
    """A value as the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, Mapping) else repr(value)
