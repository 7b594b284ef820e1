"""Every example runs as its reader would run it, and checks what it claims."""

from __future__ import annotations

import ast
import os
import re

import pytest
from places import ROOT
from processes import environment
from scripts import run_code, run_script

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
TRAINING = "train_digits.py"
EXPERIMENTS = ["paper_landscape.py", "paper_lipschitz.py", "paper_robustness.py"]
TRAINED = ["train_certified.py", "train_monotone.py", "train_wgan.py"]
ELSEWHERE = [TRAINING, *EXPERIMENTS, *TRAINED]  # have tests of their own


def start(script, *arguments, cwd, **variables):
    return run_script(EXAMPLES / script, *arguments, cwd=cwd, env=environment(**variables))


def run(script, *arguments, cwd):
    shown = start(script, *arguments, cwd=cwd)
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stderr
    return shown.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_example_says_how_to_run_it_and_ends_in_assertions(script):
    tree = ast.parse((EXAMPLES / script).read_text(encoding="utf-8"))
    assert f"python examples/{script}" in (ast.get_docstring(tree) or "")
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


@pytest.mark.parametrize(
    "script",
    # What `paper_networks.py` trains to the end the experiments of the paper train for a moment; of the architectures
    # two are run below.
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("paper_networks.py", "architectures.py") else name
        for name in SCRIPTS
        if name not in ELSEWHERE
    ],
)
def test_example_runs_and_leaves_its_picture_behind(script, tmp_path):
    assert run(script, cwd=tmp_path).strip()
    picture = script.replace(".py", ".png")
    assert os.listdir(tmp_path) == ([] if script == "paper_networks.py" else [picture])
    assert script == "paper_networks.py" or (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_the_name_that_is_wanted(tmp_path):
    assert "wrote here.png" in run("lipschitz_curve.py", "--plot", "here.png", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["here.png"]


def test_architectures_draws_those_that_are_named(tmp_path):
    shown = run("architectures.py", "GNN", "KAN", "--plot", "here.png", cwd=tmp_path)
    assert re.findall(r"^\| (\S+) \|", shown, re.MULTILINE) == ["architecture", "GNN", "KAN"]
    assert os.listdir(tmp_path) == ["here.png"]
    refused = start("architectures.py", "LeNet", cwd=tmp_path)
    assert refused.returncode == 2 and "unknown: LeNet; there are ResNet-20," in refused.stderr


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_experiment_of_the_paper_shows_what_it_claims(script, tmp_path):
    table = ["--out", "table.md"] if script == "paper_robustness.py" else []
    shown = run(script, "--quick", "--plot", "picture.png", *table, cwd=tmp_path)
    assert "wrote picture.png" in shown
    assert sorted(os.listdir(tmp_path)) == sorted(["picture.png", *table[1:]])
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    if table:  # three norms, two targets, and as many columns everywhere
        lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 2 + 3 * 2
        assert {line.count("|") for line in lines} == {12}


@pytest.mark.parametrize("script", TRAINED)
def test_training_shows_what_it_claims(script, tmp_path):
    assert "wrote picture.png" in run(script, "--quick", "--plot", "picture.png", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("paper_lipschitz.py", ["--vnncomp"], "VNNCOMP_BENCHMARKS, the folder"),
        ("paper_robustness.py", ["--out", "table.txt"], "must end in .csv or .md"),
    ],
)
def test_experiment_of_the_paper_refuses_bad_options(script, arguments, message, tmp_path):
    shown = start(script, *arguments, cwd=tmp_path, VNNCOMP_BENCHMARKS="")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert message in shown.stderr and "Traceback" not in shown.stderr


def test_pages_show_pictures_and_scripts_that_are_there():
    shown = set()
    for page in (ROOT / "docs").rglob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        for link in links:
            if "commands.md" not in link and "changelog.md" not in link:  # pages that the site makes
                assert (page.parent / link).is_file(), (page, link)
            shown.add((page.parent / link).resolve())
    assert {EXAMPLES / script for script in SCRIPTS} <= shown | {EXAMPLES / "paper_networks.py"}
    assert {*(ROOT / "docs" / "pictures").iterdir()} <= shown


def test_verify_onnx_takes_other_files(tmp_path):
    data = EXAMPLES / "data"
    shown = run("verify_onnx.py", data / "digits_tanh.onnx", data / "digits_tanh_small.vnnlib", cwd=tmp_path)
    assert "unsat in" in shown


@pytest.mark.slow
def test_training_makes_the_shipped_files_again(tmp_path):
    run(TRAINING, "--out", tmp_path, cwd=tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(EXAMPLES / "data"))


def test_benchmarks_are_found():
    """`make bench` runs them; here they are only collected."""
    code = f"import pytest, sys; sys.exit(pytest.main([{str(ROOT / 'benchmarks')!r}, *sys.argv[1:]]))"
    shown = run_code(code, "--collect-only", "--benchmark-disable", "-q", "-p", "no:cacheprovider", cwd=ROOT)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "test_against_crown" in shown.stdout
