"""Commands, run in this process or as users run them."""

from __future__ import annotations

import inspect
import json

import pytest
from places import DATA
from processes import python
from typer.testing import CliRunner

from recurjac_plugin.cli.app import app

RELU, TANH, CNN = (str(DATA / f"digits_{name}.onnx") for name in ("relu", "tanh", "cnn"))
SMALL, MID, LARGE = (str(DATA / f"digits_relu_{size}.vnnlib") for size in ("small", "mid", "large"))
WHERE = {"version", "auto_lirpa", "model", "device", "dtype"}
"""What the JSON object of every command on a network says of where it was computed."""

# Older click mixes the streams unless told otherwise, newer click cannot be told.
SEPARATE = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner.__init__).parameters else {}


def recurjac(*arguments, code=0):
    """Run a command in this process, which must end with that exit code (None: any); returns its result."""
    result = CliRunner(**SEPARATE).invoke(app, [str(argument) for argument in arguments], prog_name="recurjac")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert code in (None, result.exit_code), result.stderr
    return result


def answer(*arguments):
    """The JSON object of a command, which is all it prints on stdout."""
    (line,) = recurjac(*arguments, "--json").stdout.splitlines()
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def process(*arguments, cwd=None, code="from recurjac_plugin.cli import main; main()"):
    """Run a command as its users do."""
    return python("-c", code, *arguments, cwd=cwd)
