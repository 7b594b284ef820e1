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

HOSTS_OWN = """
import math

import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # type: ignore[import-untyped]
from torch import nn

import recurjac_plugin as rj

net = nn.Linear(3, 2)
model = BoundedModule(net, torch.zeros(1, 3))
x = BoundedTensor(torch.zeros(1, 3), PerturbationLpNorm(norm=math.inf, eps=0.1))
"""

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


def test_mypy_takes_the_classes_of_auto_lirpa_and_no_numbers(tmp_path):
    """They have no annotations, and pass; what is no tensor or no module is refused beside them."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    takes = [name for name in FUNCTIONS if "x" in inspect.signature(getattr(rj, name)).parameters]
    assert {"jacobian_bounds", "compare", "lipschitz_curve", "tighten"} <= {*takes}
    assert [name for name in takes if "Any" in str(inspect.signature(getattr(rj, name)).parameters.values())] == []
    more = {"lipschitz_curve": ", radii=[0.1]"}
    right = [f"rj.{name}(model, x{more.get(name, '')})" for name in takes]
    wrong = [f"rj.{name}(net, 0.5{more.get(name, '')})" for name in takes]
    wrong += [f"rj.{name}(0.5, x{more.get(name, '')})" for name in takes]
    script = tmp_path / "script.py"
    script.write_text("\n".join([HOSTS_OWN, *right, *wrong]), encoding="utf-8")
    shown = python("-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache", script)
    first = HOSTS_OWN.count("\n") + len(right) + 2
    found = {int(line) for line in re.findall(r"script\.py:(\d+): error:", shown.stdout)}
    assert found == {*range(first, first + len(wrong))}, shown.stdout + shown.stderr


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
