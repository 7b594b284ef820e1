"""The measurements of docs/scale.md run, and show what they claim."""

from __future__ import annotations

import os
import re

import pytest
from places import ROOT
from scripts import run_script


def run(script, *arguments, cwd):
    shown = run_script(ROOT / "benchmarks" / script, *arguments, cwd=cwd)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.slow
def test_time_and_memory_are_measured(tmp_path):
    assert "wrote picture.png" in run("scale.py", "--quick", "--plot", "picture.png", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize(
    "kind", ["CROWN-IBP", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("zonotopes", "CROWN"))]
)
def test_narrow_resnet_is_bounded(kind, tmp_path):
    shown = run("scale_resnet.py", "--bounds", kind, "--width", "1", "--eps", "1e-5", "--most", "100", cwd=tmp_path)
    constants = re.findall(r"^  (\S+): local constant ([\d.e+]+),", shown, re.MULTILINE)
    useful = ["RecurJac", "RecurJac-Linear", "Fast-Lip"]
    assert [method for method, _ in constants] == (useful[2:] if kind == "CROWN-IBP" else useful)


@pytest.mark.slow
def test_resnet_18_is_bounded_within_16_gigabytes(tmp_path):
    shown = run("scale_resnet.py", cwd=tmp_path)
    found = re.search(r"RecurJac-Linear: local constant ([\d.]+)", shown)
    sampled = re.search(r"sampled ([\d.]+)", shown)
    assert "11,173,962 weights" in shown and found and sampled
    assert float(found[1]) < 1.1 * float(sampled[1])
    assert float(re.search(r"peak of the process (\d+) MB", shown)[1]) < 16_000


@pytest.mark.slow
def test_intervals_are_of_no_use_on_resnet_18(tmp_path):
    shown = run("scale_resnet.py", "--bounds", "IBP", "--double", "--eps", "1e-12", cwd=tmp_path)
    assert int(re.search(r"IBP: (\d+) undetermined", shown)[1]) > 100_000
    assert float(re.search(r"Fast-Lip: local constant (\S+),", shown)[1]) > 1e20
