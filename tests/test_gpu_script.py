"""The script that tests and measures on a CUDA device: what of it can be seen without one."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import gpu
import pytest
import torch
from scripts import run_script
from torch import nn

DOCS = Path(__file__).parent.parent / "docs" / "scale.md"
SMALL = gpu.Problem("tanh 3-6-2, 4 boxes", gpu.mlp(nn.Tanh, 3, 6, 2), (3,), 0.05, 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_it_says_so_and_runs_nothing(tmp_path):
    out = tmp_path / "gpu.md"
    found = run_script(gpu.__file__, "--out", out)
    assert found.returncode == 2
    assert found.stderr.startswith("torch sees no CUDA device here, so nothing was run;")
    assert not out.exists()


def test_every_line_is_measured_in_both_types(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "problems", lambda trial: [SMALL])
    gpu.measure("cpu", trial=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted((each["dtype"], each["line"]) for each in found) == sorted(
        (dtype, line) for dtype in ("float32", "float64") for line in gpu.COLUMNS
    )
    assert len(found) == 2 * len(gpu.COLUMNS)
    assert all(each["seconds"] > 0 for each in found)
    whole = [each for each in found if each["line"] == "all, no name"]
    assert [each["method"] for each in whole] == ["RecurJac-McCormick"] * 2
    assert 0 < gpu.difference(whole[0]["bounds"], whole[1]["bounds"]) < 1e-4
    text = gpu.table(found, "cpu")
    assert len(text) == 4
    assert all(line.count("|") == text[0].count("|") for line in text)
    assert "–" in text[2]
    assert "| float64 | cpu |" in text[3]


def test_the_table_has_what_a_card_would_say():
    def line(device: str, **more):
        return {"problem": "net", "dtype": "float32", "device": device, "line": "all, no name", "seconds": 0.5, **more}

    found = [
        line("cuda", megabytes=12.4, method="RecurJac-Linear", bounds=[[1.0, 2.0], [3.0, 4.0]]),
        {**line("cuda"), "line": "CROWN", "megabytes": 20.0},
        {"problem": "net", "dtype": "float32", "device": "cuda", "line": "Fast-Lip pass", "failed": "OutOfMemoryError"},
        line("cpu", method="RecurJac-Linear", bounds=[[1.0, 2.0], [3.0, 4.004]]),
    ]
    cuda, cpu = gpu.table(found, "cuda")[2:]
    assert (
        cuda == "| net | float32 | cuda | 0.5 | – | – | – | OutOfMemoryError | 0.5 | RecurJac-Linear | 20 | 1.0e-03 |"
    )
    assert cpu == "| net | float32 | cpu | – | – | – | – | – | 0.5 | RecurJac-Linear | – | – |"


def test_what_takes_too_long_is_stopped():
    start = time.monotonic()
    output, in_time = gpu.limited([sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"], 5)
    assert not in_time
    assert output == "begun\n"
    assert time.monotonic() - start < 50
    assert gpu.limited([sys.executable, "-c", "print(1)"], 60) == ("1\n", True)


def test_a_measurement_that_ends_early_is_told(monkeypatch):
    for output, in_time in (('{"a": 1}\n{"a": ', False), ('{"a": 1}\nTraceback (most recent call last):', True)):
        monkeypatch.setattr(gpu, "limited", lambda *_, answer=(output, in_time): answer)
        found, finished, said = gpu.measured("cpu", True, 1.0)
        assert (found, finished, len(said)) == ([{"a": 1}], False, 1)


@pytest.mark.parametrize(
    ("output", "in_time", "good"),
    [
        ("..\n60 passed in 3.0s\n", True, True),
        ("60 skipped, 3 deselected in 3.0s\n", True, True),
        ("FAILED tests/test_devices.py::test_x\n1 failed, 59 passed in 3.0s\n", True, False),
        ("No module named pytest\n", True, False),
        ("..", False, False),
    ],
)
def test_failed_tests_are_told(monkeypatch, output, in_time, good):
    monkeypatch.setattr(gpu, "limited", lambda *_: (output, in_time))
    said, passed = gpu.tested(9.0)
    assert passed == good
    assert ("test_x" in said) == ("test_x" in output)


def test_tables_go_between_the_marks(tmp_path):
    copy = tmp_path / "scale.md"
    copy.write_text(DOCS.read_text(encoding="utf-8"), encoding="utf-8")
    before, _, rest = copy.read_text(encoding="utf-8").partition(gpu.MARKS[0])
    gpu.put_into(copy, "| new |\n")
    gpu.put_into(copy, "| newer |\n")
    assert copy.read_text(encoding="utf-8") == (
        f"{before}{gpu.MARKS[0]}\n| newer |\n{gpu.MARKS[1]}{rest.partition(gpu.MARKS[1])[2]}"
    )
    copy.write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit, match="put both where the tables belong"):
        gpu.put_into(copy, "")


@pytest.mark.slow
def test_a_trial_on_the_processor(tmp_path):
    text, good = gpu.report("cpu", 10.0, trial=True)
    assert good
    assert text.startswith("On the processor")
    assert text.count("| float64 | cpu |") == len(gpu.problems(trial=True))
