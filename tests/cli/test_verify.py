"""`recurjac verify`: verdicts, counterexamples, results files, and how boxes are cut."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from commands import LARGE, MID, RELU, SMALL, WHERE, answer, recurjac
from onnx_files import few_inputs
from places import DATA

from recurjac_plugin import host, load_vnnlib
from recurjac_plugin.networks.onnx import onnx_session


@pytest.mark.parametrize(
    ("prop", "options", "verdict"),
    [(SMALL, (), "unsat"), (MID, (), "unsat"), (MID, ("--no-split",), "unknown")],
)
def test_first_line_is_the_verdict(prop, options, verdict):
    result = recurjac("verify", RELU, prop, "--attack-seconds", 0.2, *options)
    assert result.stdout == f"{verdict}\n"
    assert "lower bound" in result.stderr


def test_timeout_is_a_verdict():
    assert recurjac("verify", RELU, SMALL, "--timeout", 1e-9).stdout == "timeout\n"


def test_a_box_without_inputs_holds_with_a_warning(tmp_path):
    text = Path(SMALL).read_text()
    file = tmp_path / "empty_box.vnnlib"
    file.write_text(re.sub(r"\(<= X_5 \S+\)\)", "(<= X_5 -1000.0))", text))
    result = recurjac("verify", RELU, file)
    assert result.stdout == "unsat\n"
    assert "warning: " in result.stderr and "leaves `X_5` no value" in result.stderr


def test_counterexample_in_vnncomp_form_replays_on_onnxruntime(tmp_path):
    file = tmp_path / "results.txt"
    result = recurjac("verify", RELU, LARGE, "--attack-seconds", 20, "--results-file", file)
    assert file.read_text() == result.stdout
    verdict, assignment = file.read_text().split("\n", 1)
    assert verdict == "sat"
    assert assignment.count("(") == assignment.count(")")
    assert re.fullmatch(r"\((\([XY]_\d+ \S+\)\s*)+\)", assignment.strip())
    values = {name: float(value) for name, value in re.findall(r"\(([XY]_\d+) ([^)\s]+)\)", assignment)}
    assert list(values) == [f"X_{i}" for i in range(64)] + [f"Y_{i}" for i in range(10)]
    x, y = (np.array([v for name, v in values.items() if name[0] == side]) for side in "XY")
    assert load_vnnlib(LARGE).violated(x, y)
    assert np.array_equal(onnx_session(RELU)(x[None])[0].astype(np.float64), y)


def test_results_file_of_a_proof_is_one_line(tmp_path):
    recurjac("verify", RELU, SMALL, "--results-file", tmp_path / "r.txt")
    assert (tmp_path / "r.txt").read_text() == "unsat\n"


def test_verify_json():
    found = answer("verify", RELU, LARGE, "--attack-seconds", 20, "--seed", 1, "--method", "recurjac-linear+crown")
    assert found.keys() == WHERE | {
        *("command", "property", "method", "branching", "seed"),
        *("verdict", "counterexample", "lower_bound", "boxes", "seconds", "reason"),
    }
    assert (found["verdict"], found["method"], found["seed"], found["boxes"]) == ("sat", "RecurJac-Linear+CROWN", 1, 1)
    assert found["branching"] == "jacobian"
    assert (len(found["counterexample"]["x"]), len(found["counterexample"]["y"])) == (64, 10)
    assert (found["device"], found["dtype"], found["auto_lirpa"]) == ("cpu", "float32", host.VERSION)
    late = answer("verify", RELU, SMALL, "--timeout", 1e-9)
    assert (late["verdict"], late["lower_bound"], late["counterexample"]) == ("timeout", None, None)


@pytest.mark.parametrize("name", ["relu", "tanh", "cnn"])
def test_float64_agrees_with_float32(name):
    files = DATA / f"digits_{name}.onnx", DATA / f"digits_{name}_small.vnnlib"
    single, double = (answer("verify", *files, "--dtype", dtype) for dtype in ("float32", "float64"))
    assert (single["dtype"], double["dtype"]) == ("float32", "float64")
    assert single["verdict"] == double["verdict"] == "unsat"
    # Bounds are computed in float64 either way, from the same weights.
    assert single["lower_bound"] == pytest.approx(double["lower_bound"], rel=1e-12)


@pytest.mark.parametrize("branching", ["jacobian", "crown", "longest"])
def test_verify_cuts_boxes(tmp_path, branching):
    path, prop = few_inputs(tmp_path, least=-0.6)
    found = answer("verify", path, prop, "--branching", branching, "--method", "CROWN")
    assert (found["verdict"], found["branching"]) == ("unsat", branching)
    assert found["boxes"] > 1
    whole = answer("verify", path, prop, "--no-split", "--method", "CROWN", "--attack-seconds", 0.1)
    assert (whole["verdict"], whole["boxes"]) == ("unknown", 1)
    path, prop = few_inputs(tmp_path, least=-0.4)
    assert recurjac("verify", path, prop).stdout.startswith("sat\n((X_0 ")
