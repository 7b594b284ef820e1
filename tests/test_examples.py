"""Every example runs as its reader would run it, and checks what it claims."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest
from conftest import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
TRAINING = "train_digits.py"


def run(script, *arguments, cwd):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    shown = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stderr
    return shown.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_example_says_how_to_run_it_and_ends_in_assertions(script):
    tree = ast.parse((EXAMPLES / script).read_text(encoding="utf-8"))
    assert f"python examples/{script}" in (ast.get_docstring(tree) or "")
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in (TRAINING, "lipschitz_curve.py")])
def test_example_runs_and_leaves_nothing_behind(script, tmp_path):
    assert run(script, cwd=tmp_path).strip()
    assert os.listdir(tmp_path) == []


def test_lipschitz_curve_draws_its_picture(tmp_path):
    assert "wrote here.png" in run("lipschitz_curve.py", "here.png", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["here.png"]
    assert (tmp_path / "here.png").read_bytes().startswith(b"\x89PNG")


def test_verify_onnx_takes_other_files(tmp_path):
    data = EXAMPLES / "data"
    shown = run("verify_onnx.py", data / "digits_tanh.onnx", data / "digits_tanh_small.vnnlib", cwd=tmp_path)
    assert "unsat in" in shown


@pytest.mark.slow
def test_training_makes_the_shipped_files_again(tmp_path):
    run(TRAINING, "--out", tmp_path, cwd=tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(EXAMPLES / "data"))
