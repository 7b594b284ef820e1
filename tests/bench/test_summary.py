"""Which verdicts count as wrong, and how instances are counted."""

from __future__ import annotations

import pytest

from recurjac_plugin.bench.summary import RESULTS, is_wrong, judged, summary_rows


@pytest.mark.parametrize(
    ("result", "late", "expected", "wrong"),
    [
        ("unsat", None, "sat", True),
        ("sat", None, "unsat", True),
        ("unsat", None, "unsat", False),
        ("timeout", "unsat", "sat", True),  # it came too late, and is wrong all the same
        ("timeout", "sat", "sat", False),
        ("timeout", None, "sat", False),
        ("unknown", None, "unsat", False),
        ("error", None, "sat", False),
        ("unsat", None, None, False),
        ("unsat", None, "unknown", False),
    ],
)
def test_a_verdict_is_wrong_if_it_is_the_opposite_however_late(result, late, expected, wrong):
    record = {"result": result, "late": late, "category": "c", "onnx": "n.onnx", "vnnlib": "p.vnnlib"}
    assert is_wrong(record, expected) is wrong
    assert is_wrong({"result": result} | ({"late": late} if late else {}), expected) is wrong


def test_without_answers_nothing_is_wrong_and_old_judgements_stay():
    assert judged({"result": "unsat"}, None) == {"result": "unsat", "expected": None, "wrong": False}
    assert judged({"result": "unsat", "expected": "sat", "wrong": True}, None)["wrong"] is True


def test_counts_by_category():
    records = [
        {"category": "a", "result": "unsat", "wrong": False, "run_seconds": 1.0},
        {"category": "b", "result": "timeout", "wrong": True, "run_seconds": 2.0},
    ]
    rows = summary_rows(records, [(0, "a"), (1, "b"), (2, "b")])
    assert [(row["category"], row["instances"], row["wrong"], row["seconds"]) for row in rows] == [
        ("a", 1, 0, 1.0), ("b", 2, 1, 2.0), ("all", 3, 1, 3.0)
    ]  # fmt: skip
    assert rows[1]["timeout"] == 1 and {*RESULTS} <= rows[0].keys()
