"""The checker stands alone: no torch, no host, nothing of the prover's; and it runs as a program of its own."""

from __future__ import annotations

import ast

import pytest
from architecture import MODULES, imports_of
from certified import every_step
from processes import python

CHECKER = [name for name in MODULES if name.split(".")[0] == "checker"]
ALLOWED = {
    *(
        "__future__",
        "abc",
        "collections",
        "contextlib",
        "dataclasses",
        "decimal",
        "fractions",
        "functools",
        "gzip",
        "hashlib",
    ),
    *("itertools", "json", "math", "os", "pathlib", "re", "sys", "typing", "zlib"),
    *("google", "numpy", "onnx", "recurjac_plugin"),
}


def test_it_imports_only_itself_and_the_errors():
    assert len(CHECKER) > 10
    for name in CHECKER:
        assert {other for other in imports_of(name) if other.split(".")[0] != "checker"} <= {"errors", "extras"}, name


def test_it_imports_only_numpy_and_onnx_besides():
    for name in CHECKER:
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED, name
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).split(".")[0] in ALLOWED, name


def test_it_loads_neither_torch_nor_a_host():
    code = "import sys, recurjac_plugin.checker; print(*sorted({each.split('.')[0] for each in sys.modules}))"
    shown = python("-c", code)
    assert shown.returncode == 0, shown.stderr
    loaded = set(shown.stdout.split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "auto_LiRPA", "onnxruntime", "onnx2pytorch", "vnnlib", "typer"}


def test_it_runs_where_nothing_else_is_installed(tmp_path):
    problem = every_step(tmp_path)
    hide = "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'auto_LiRPA', 'vnnlib', 'typer', 'rich']));"
    code = hide + "runpy.run_module('recurjac_plugin.checker', run_name='__main__', alter_sys=True)"
    shown = python("-c", code, problem.network, problem.prop, problem.certificate)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("accepted: ")


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda files: files, 0, "accepted: "),
        (lambda files: [*files[:2], files[1]], 1, "rejected: it is no certificate"),
        (lambda files: [files[1], *files[1:]], 2, "error: "),
        (lambda files: [*files[:2], "nothing"], 2, "error: `nothing` does not exist"),
        (lambda files: files[:1], 2, "usage: "),
    ],
)
def test_exit_codes(tmp_path, change, code, says):
    problem = every_step(tmp_path)
    files = change([problem.network, problem.prop, problem.certificate])
    shown = python("-m", "recurjac_plugin.checker", *files)
    assert shown.returncode == code, shown.stderr
    assert (shown.stdout + shown.stderr).startswith(says)
    assert (shown.stderr == "") is (code < 2)
