"""The script for public benchmark sets: what it draws, what it runs, and that a wrong verdict is shouted."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_files import model, node, save
from processes import environment

FOLDER = Path(__file__).parent.parent / "benchmarks" / "sets"
PROPERTY = """(declare-const X_0 Real) (declare-const Y_0 Real)
(assert (>= X_0 0.0)) (assert (<= X_0 1.0)) (assert (>= Y_0 {}))
"""


@pytest.fixture
def sets(monkeypatch):
    """The modules of the script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import instances
    import published

    yield instances, published
    for name in ("instances", "published"):
        sys.modules.pop(name)


@pytest.fixture
def checkout(tmp_path):
    """``y = relu(x)`` on [0, 1], which is never 2, and a network whose file is cut off."""
    folder = tmp_path / "some2024_benchmarks" / "ramps_2024"
    for name in ("onnx", "vnnlib"):
        (folder / name).mkdir(parents=True)
    save(folder / "onnx" / "ramp_1.onnx", model([node("Relu", "x", "y")], (1, 1), (1, 1)))
    save(folder / "onnx" / "ramp_2.onnx", model([node("Relu", "x", "y")], (1, 1), (1, 1)))
    (folder / "onnx" / "torn.onnx").write_bytes(b"\x08\x07\xff")
    (folder / "vnnlib" / "two.vnnlib").write_text(PROPERTY.format(2.0))
    (folder / "vnnlib" / "half.vnnlib").write_text(PROPERTY.format(0.5))
    (folder / "instances.csv").write_text(
        "onnx/ramp_1.onnx,vnnlib/two.vnnlib,10\r\nonnx/ramp_2.onnx,vnnlib/half.vnnlib,10\r\n"
        "onnx/torn.onnx,vnnlib/two.vnnlib,10\r\nonnx/missing.onnx,vnnlib/two.vnnlib,10\r\n"
    )
    return tmp_path / "some2024_benchmarks"


@pytest.fixture
def results(tmp_path):
    """A tool that is wrong about both ramps."""
    folder = tmp_path / "some2024_results" / "tool"
    folder.mkdir(parents=True)
    rows = [("ramp_1", "two", "sat"), ("ramp_2", "half", "sat"), ("torn", "two", "timeout")]
    with (folder / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            ("ramps", f"a/onnx/{onnx}.onnx", f"a/vnnlib/{name}.vnnlib", 0.1, answer, 1.0) for onnx, name, answer in rows
        )
    return tmp_path / "some2024_results"


def run(*arguments):
    command = [sys.executable, str(FOLDER / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def lines(out):
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_run_table_resumption_and_contradictions(checkout, results, tmp_path):
    out = tmp_path / "out.csv"
    options = (checkout, "--results", results, "--out", out, "--table", tmp_path / "table.md", "--seconds", 20)
    found = run(*options, "--per-category", 3, "--memory", 4)
    assert found.returncode == 1, found.stderr
    assert "WRONG: ramps_2024 onnx/ramp_1.onnx vnnlib/two.vnnlib: unsat here, but tool 2024 sat." in found.stderr
    assert found.stderr.count("WRONG") == 1
    rows = lines(out)
    by_step = {(row["onnx"], row["step"]): row["result"] for row in rows}
    assert by_step["onnx/torn.onnx", "read"] == "refused" and by_step["onnx/torn.onnx", "verdict"] == "error"
    assert by_step["onnx/ramp_2.onnx", "verdict"] == "sat" and by_step["onnx/ramp_1.onnx", "verdict"] == "unsat"
    ramps = [row for row in rows if "ramp" in row["onnx"] and row["step"] != "verdict"]
    assert [row["result"] for row in ramps] == ["yes"] * 3  # both ramps are one kind of network
    table = (tmp_path / "table.md").read_text()
    assert "| ramps_2024 | some2024_benchmarks | 1 of 2 | 1 of 2 | 1 of 2 | 3 | 1 | 1 | 0 | 1 | 2 | 1 |" in table

    again = run(*options, "--per-category", 3)
    assert len(lines(out)) == len(rows) and "WRONG" in again.stderr


def test_what_ends_badly_is_a_word(checkout, tmp_path):
    """Too little memory for anything."""
    found = run(checkout, "--out", tmp_path / "out.csv", "--only", "ramp_1", "--memory", 0.001, "--steps", "crown")
    (row,) = lines(tmp_path / "out.csv")
    assert found.returncode == 0 and row["result"] in ("memory", "crash", "refused", "error")


def test_draw(sets, checkout):
    instances, _ = sets
    everything = instances.read_sets([checkout], {})
    assert [each.category for each in everything] == ["ramps_2024"] * 4
    drawn = instances.draw(everything, 1, seed=0)
    assert len(drawn) == 2  # one of each kind; what is missing is none
    assert drawn == instances.draw(everything, 1, seed=0)
    assert {each.onnx for each in instances.draw(everything, 9, seed=1)} == {
        "onnx/ramp_1.onnx", "onnx/ramp_2.onnx", "onnx/torn.onnx",
    }  # fmt: skip


def test_published_answers(sets, checkout, results):
    instances, published = sets
    known = published.Published([results])
    everything = instances.read_sets([checkout], {})
    assert [known.answers(each) for each in everything] == [{"tool 2024": "sat"}, {"tool 2024": "sat"}, {}, {}]
    assert known.best(everything) == 2 and known.best(everything[2:]) is None
    assert published.agreed({"a": "sat", "b": "unsat"}) == "" and published.agreed({"a": "sat", "b": "sat"}) == "sat"


def test_a_set_without_a_list_takes_what_was_answered(sets, checkout, results):
    instances, published = sets
    folder = checkout / "ramps_2024"
    (folder / "instances.csv").unlink()
    found = instances.read_sets([folder], published.Published([results]).listed())
    assert [each.pair for each in found] == [("ramp_1.onnx", "two.vnnlib"), ("ramp_2.onnx", "half.vnnlib")]
    assert np.all([instances.locate(each, each.onnx).is_file() for each in found])
