"""What editors, type checkers and terminals say to users; `every_public_name.py` is a script that has all names."""

from __future__ import annotations

import inspect
import itertools
import re
import shutil
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import pytest
from places import DATA
from processes import environment, python

import recurjac_plugin as rj
from recurjac_plugin.jacobian.methods import AUTO, GLOBAL_METHODS, HOST_METHODS, METHODS, ORDERS, parse

SCRIPT = DATA.parents[1] / "tests" / "user" / "every_public_name.py"
ARGUMENTS = (DATA / "digits_relu.onnx", DATA / "digits_relu_small.vnnlib")

FUNCTIONS = [name for name in rj.__all__ if inspect.isroutine(getattr(rj, name))]


def literals(union: Any) -> list[str]:
    """The names that editors complete, of a `Literal` and str."""
    named, other = get_args(union)
    assert other is str
    return [*get_args(named)]


def test_the_script_has_every_public_name():
    used = set(re.findall(r"\brj\.(\w+)", SCRIPT.read_text(encoding="utf-8")))
    assert set(rj.__all__) - used == set()


def test_the_script_runs_without_a_warning():
    shown = python("-W", "error", SCRIPT, *ARGUMENTS)
    assert shown.returncode == 0, shown.stderr
    assert "Warning" not in shown.stderr  # the host has other things to say there
    assert shown.stdout.startswith("Bounds(2 regions x 2 rows x 3 inputs, ")


def test_the_script_is_typed_strictly_and_mypy_sees_what_is_wrong(tmp_path):
    """What the script asserts about types is looked at, and the arguments are. One run: most of it is torch."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    wrong = tmp_path / "wrong.py"
    lines = ["constant: str = rj.local_lipschitz(model, x)", "rj.jacobian_bounds(model, x, shift='1')", "bounds.wdith"]
    begin = SCRIPT.read_text(encoding="utf-8").partition("# Lipschitz constants")[0]
    wrong.write_text("\n".join([begin, *lines]), encoding="utf-8")
    shown = python("-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache", SCRIPT, wrong)
    errors = [line for line in shown.stdout.splitlines() if "error:" in line]
    assert [int(re.search(r"wrong\.py:(\d+): error:", line)[1]) for line in errors] == [
        begin.count("\n") + 2 + i for i in range(len(lines))
    ], shown.stdout + shown.stderr
    assert "checked 2 source files" in shown.stdout


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
def test_pyright_agrees(tmp_path):
    command = ["pyright", "--pythonpath", sys.executable, str(SCRIPT)]
    shown = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout


def test_names_that_editors_complete_are_those_of_the_table():
    own = (*METHODS, AUTO)
    of_jacobians = {*own, *(f"{host}+{name}" for host, name in itertools.product(HOST_METHODS, own))}
    of_outputs = {*of_jacobians, *(f"{name}+CROWN" for name in of_jacobians), *HOST_METHODS}
    for union, expected in (
        (rj.MethodName, of_jacobians),
        (rj.OutputMethodName, of_outputs),
        (rj.GlobalMethodName, {*GLOBAL_METHODS}),
        (rj.Order, {*ORDERS}),
    ):
        assert sorted(literals(union)) == sorted(expected)
    assert all(parse(name).bounds_jacobian for name in literals(rj.MethodName))
    assert all(parse(name) for name in literals(rj.OutputMethodName))
    assert literals(rj.MethodName)[: len(own)] == [AUTO, *METHODS]  # what is offered first


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_takes_and_returns(name):
    function = inspect.unwrap(getattr(rj, name))
    hints = get_type_hints(function, localns={each: getattr(rj, each) for each in rj.__all__})
    assert {*inspect.signature(function).parameters} <= hints.keys()
    assert "return" in hints
    assert hints["return"] is not Any
    assert hints.get("order", rj.Order) == rj.Order
    if "method" in hints:
        assert hints["method"] in [alias | None for alias in (rj.MethodName, rj.OutputMethodName, rj.GlobalMethodName)]
