"""VNN-LIB files of both versions: hand-computed specifications, and one clear sentence for everything refused."""

from __future__ import annotations

import csv
import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from recurjac_plugin.errors import FileError, InputError
from recurjac_plugin.properties.vnnlib import load_vnnlib

DECLARED_1 = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
UNIT_1 = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1))\n"
DECLARED_2 = (
    "(vnnlib-version <2.0>)\n(declare-network f\n(declare-input X float32 [1,2])\n(declare-output Y float32 [1,2]))\n"
)
UNIT_2 = "(assert (>= X[0,0] 0.0)) (assert (<= X[0,0] 1.0)) (assert (>= X[0,1] -1.0)) (assert (<= X[0,1] 1.0))\n"


def load(tmp_path: Path, text: str):
    path = tmp_path / "p.vnnlib"
    path.write_text(text)
    return load_vnnlib(path)


def v1(tmp_path: Path, assertions: str):
    return load(tmp_path, DECLARED_1 + UNIT_1 + assertions)


def v2(tmp_path: Path, assertions: str):
    return load(tmp_path, DECLARED_2 + UNIT_2 + assertions)


def rows(polytope):
    return [
        (*a.tolist(), b, s) for a, b, s in zip(polytope.A, polytope.b.tolist(), polytope.strict.tolist(), strict=True)
    ]


def test_version_1_with_comments_exponents_and_linear_terms(tmp_path):
    spec = v1(tmp_path, "; >= is not here\n(assert (<= (+ (* 2 Y_0) -3e-1) (- Y_1 1))) ; 2 Y0 - Y1 <= -0.7\n")
    (box,) = spec.boxes
    assert (spec.version, spec.n_inputs, spec.n_outputs, spec.input_shape) == ("1.0", 2, 2, None)
    assert box.lower.tolist() == [0.0, -1.0]
    assert box.upper.tolist() == [1.0, 1.0]
    assert rows(box.disjuncts[0]) == [(2.0, -1.0, -1.0 + 0.3, False)]


def test_version_2_declares_a_shape(tmp_path):
    spec = v2(tmp_path, "(assert (> Y[0,0] (* 2.0 Y[0,1])))")
    assert (spec.version, spec.n_inputs, spec.n_outputs, spec.input_shape) == ("2.0", 2, 2, (1, 2))
    assert rows(spec.boxes[0].disjuncts[0]) == [(-1.0, 2.0, 0.0, True)]
    assert "input_shape=[1, 2]" in repr(spec)


def test_same_property_in_both_versions(tmp_path):
    old = v1(tmp_path, "(assert (or (and (<= Y_0 0.5) (>= Y_1 1)) (= Y_0 Y_1)))")
    new = v2(tmp_path, "(assert (or (and (<= Y[0,0] 0.5) (>= Y[0,1] 1.0)) (== Y[0,0] Y[0,1])))")
    for a, b in zip(old.boxes, new.boxes, strict=True):
        assert (a.lower == b.lower).all() and (a.upper == b.upper).all()
        assert [rows(p) for p in a.disjuncts] == [rows(p) for p in b.disjuncts]


def test_equality_is_two_rows_and_inequality_two_cases(tmp_path):
    (box,) = v2(tmp_path, "(assert (== Y[0,0] 1.5))").boxes
    assert rows(box.disjuncts[0]) == [(1.0, 0.0, 1.5, False), (-1.0, 0.0, -1.5, False)]
    (box,) = v2(tmp_path, "(assert (!= Y[0,0] 1.5))").boxes
    assert [rows(p) for p in box.disjuncts] == [[(1.0, 0.0, 1.5, True)], [(-1.0, 0.0, -1.5, True)]]
    spec = v2(tmp_path, "(assert (!= Y[0,0] 1.5))")
    assert spec.violated([0, 0], [1.5 + 1e-15, 0]) and not spec.violated([0, 0], [1.5, 0])


def test_inputs_unlike_a_number_give_two_open_boxes(tmp_path):
    spec = v2(tmp_path, "(assert (!= X[0,0] 0.25)) (assert (<= Y[0,0] 0.0))")
    left, right = spec.boxes
    assert (left.lower[0], left.upper[0], left.upper_open[0]) == (0.0, 0.25, True)
    assert (right.lower[0], right.upper[0], right.lower_open[0]) == (0.25, 1.0, True)
    assert spec.violated([0.5, 0], [0, 0]) and not spec.violated([0.25, 0], [0, 0])
    # Outside the box the number makes no difference: the half that has no point is left out.
    assert len(v2(tmp_path, "(assert (!= X[0,0] 7.0)) (assert (<= Y[0,0] 0.0))").boxes) == 1


OPEN_ENDS = {"lower": ("(> {} 0.0)", "(>= {} 0.0)", 0.0), "upper": ("(< {} 1.0)", "(<= {} 1.0)", 1.0)}


@pytest.mark.parametrize("load", [v1, v2])
@pytest.mark.parametrize("end", OPEN_ENDS)
def test_boxes_that_differ_in_an_open_end_are_two(tmp_path, load, end):
    """With the end itself only Y_1 is asked about, which a box that is merged with the other one forgets."""
    x, y = ("X_0", "Y_{}") if load is v1 else ("X[0,0]", "Y[0,{}]")
    opened, closed, value = OPEN_ENDS[end]
    cases = [f"(and {each.format(x)} (<= {y.format(i)} 0.0))" for i, each in enumerate((opened, closed))]
    for order in (cases, cases[::-1]):
        spec = load(tmp_path, f"(assert (or {' '.join(order)}))")
        assert len(spec.boxes) == 2
        assert spec.violated([0.5, 0], [-1, 1]) and spec.violated([0.5, 0], [1, -1])
        assert spec.violated([value, 0], [1, -1]) and not spec.violated([value, 0], [-1, 1])


def test_disjunction_over_inputs_times_one_over_outputs(tmp_path):
    spec = v1(
        tmp_path,
        "(assert (or (<= X_0 0.25) (and (>= X_0 0.5) (<= (* -2 X_1) 1))))\n(assert (or (<= Y_0 Y_1) (>= Y_0 5)))",
    )
    assert [(b.lower.tolist(), b.upper.tolist()) for b in spec.boxes] == [
        ([0.0, -1.0], [0.25, 1.0]),
        ([0.5, -0.5], [1.0, 1.0]),
    ]
    assert all([rows(p) for p in b.disjuncts] == [[(1, -1, 0, False)], [(-1, 0, -5, False)]] for b in spec.boxes)
    assert spec.violated([0.25, 0], [6, 0])
    assert not spec.violated([0.3, 0], [6, 0])  # between the boxes
    assert not spec.violated([0.5, -0.6], [6, 0])
    assert not spec.violated([0.0, 0], [4, 3])


def test_inputs_and_outputs_in_one_disjunction(tmp_path):
    spec = v1(tmp_path, "(assert (or (and (<= X_0 0.5) (<= Y_0 0)) (and (>= X_0 0.5) (<= Y_1 0))))")
    assert spec.violated([0.2, 0], [0, 1]) and not spec.violated([0.2, 0], [1, 0])
    assert spec.violated([0.7, 0], [1, 0]) and not spec.violated([0.7, 0], [0, 1])


def test_violated_compares_exactly(tmp_path):
    spec = v1(tmp_path, "(assert (<= Y_0 0.1))")
    above = np.float32(0.1)  # larger than the double 0.1
    assert not spec.violated([0, 0], [above, 0]) and spec.violated([0, 0], [np.nextafter(above, np.float32(0)), 0])
    assert not spec.violated([np.nextafter(1.0, 2.0), 0], [0, 0])
    assert not spec.violated([np.nan, 0], [0, 0]) and not spec.violated([0, 0], [np.nan, 0])
    with pytest.raises(InputError, match="3 and 2 values: expected 2 and 2"):
        spec.violated([0, 0, 0], [0, 0])


def test_compressed_under_either_name(tmp_path):
    (tmp_path / "p.vnnlib.gz").write_bytes(gzip.compress((DECLARED_1 + UNIT_1 + "(assert (<= Y_0 0))").encode()))
    assert load_vnnlib(tmp_path / "p.vnnlib").n_inputs == load_vnnlib(tmp_path / "p.vnnlib.gz").n_inputs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("nothing of the kind", "syntax error at line 1"),
        (DECLARED_1 + UNIT_1 + "(assert (<= Y_0 0)", "syntax error at line 6"),
        (DECLARED_1 + UNIT_1 + "(assert (<= Y_0 nan))", "line 6: Undeclared variable `nan`"),
        (
            DECLARED_1 + UNIT_1 + "(assert (<= Y_0 1e999))",
            "line 6 has 1e999, which is not in the range of a double",
        ),
        (DECLARED_1 + UNIT_1 + "(assert (<= Y_2 0))", "line 6 uses `Y_2`, which it does not declare"),
        (DECLARED_1 + "(declare-const Z Real)", "line 5 declares `Z` of type Real: expected `X_i` or `Y_i`"),
        (DECLARED_1 + "(declare-const X_2 Int)", "line 5 declares `X_2` of type Int"),
        (DECLARED_1 + "(declare-const X_1 Real)", "line 5 declares `X_1` again"),
        (DECLARED_1 + "(declare-const X_3 Real)", "does not declare `X_2`"),
        ("(declare-const X_0 Real)", "does not declare `Y_0`"),
        (DECLARED_1 + UNIT_1 + "(assert (<= X_0 Y_0))", "line 6 mixes inputs and outputs"),
        (DECLARED_1 + UNIT_1 + "(assert (<= X_0 X_1))", "line 6 compares `X_0`, `X_1` with one another"),
        (DECLARED_1 + UNIT_1 + "(assert (<= 0 1))", "line 6 compares numbers without a variable"),
        (DECLARED_1 + UNIT_1 + "(assert (<= (* Y_0 Y_1) 1))", "line 6 has a comparison that is not linear"),
        (DECLARED_1 + UNIT_1, "allows inputs whatever their outputs are"),
        (
            DECLARED_1 + "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= Y_0 0))",
            "gives `X_1` no lower bound",
        ),
        (
            DECLARED_1 + UNIT_1 + "(assert (or (<= X_0 0.5) (<= X_0 -2)))\n(assert (<= Y_0 0))",
            "line 6 leaves `X_0` no",
        ),
        (
            DECLARED_1 + UNIT_1 + "(assert (<= X_1 -2))",
            "line 6 leaves `X_1` no value: lower bound -1.0 of line 5, upper bound -2.0 of line 6",
        ),
        (
            DECLARED_1 + UNIT_1 + "(assert (and" + "(or (<= Y_0 0) (<= Y_1 0))" * 20 + "))",
            "line 6 has an assertion of",
        ),
        (DECLARED_1 + UNIT_1 + "(assert (or (<= Y_0 0) (<= Y_1 0)))" * 20, "too many combinations"),
        (DECLARED_2 + UNIT_2 + "(assert (<= X[0,5] 1.0))", "line 6: Index out of bounds"),
        (
            DECLARED_2 + UNIT_2 + "(assert (<= Y[0,0] 1))",
            "line 6: Type mismatch in arithmetic expression `1`",
        ),
        (DECLARED_2 + UNIT_2 + "(assert (<= Y[0,0] 1" + "0" * 400 + ".0))", "a number is out of range"),
        (DECLARED_2 + "(assert (<= X[0,0] 1.0))(assert (<= Y[0,0] 1.0))", "gives `X[0,0]` no lower bound"),
        (DECLARED_2 + UNIT_2 + "(assert (< X[0,1] -1.0))", "line 6 leaves `X[0,1]` no value"),
        (DECLARED_2.replace("2.0", "3.0") + UNIT_2, "Incompatible VNNLib version"),
        (
            DECLARED_2.replace("X float32", "X int8") + "(assert (<= Y[0,0] 1.0))",
            "`X` of type I8: expected real",
        ),
        (
            DECLARED_2 + "(declare-network g (equal-to f) (declare-input A float32 [1,2]) (declare-output B float32 "
            "[1,2]))\n(assert (<= Y[0,0] 1.0))",
            "declares 2 networks (f, g): expected one",
        ),
        (
            DECLARED_2.replace("(declare-output", "(declare-input Z real [1]) (declare-output")
            + "(assert (<= Y[0,0] 1.0))",
            "declares 2 inputs (X, Z): expected 1",
        ),
        (
            DECLARED_2.replace("(declare-output", '(declare-hidden h float32 [2] "r") (declare-output')
            + "(assert (<= Y[0,0] 1.0))",
            "declares 1 hidden nodes (h): expected 0",
        ),
    ],
)
def test_refusals_name_what_and_where(tmp_path, text, message):
    with pytest.raises(FileError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert str(tmp_path / "p.vnnlib") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        load_vnnlib(tmp_path / "absent.vnnlib")
    with pytest.raises(FileError, match="is a directory"):
        load_vnnlib(tmp_path)
    whole = gzip.compress((DECLARED_1 + UNIT_1).encode())
    (tmp_path / "cut.vnnlib.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="cannot be read"):
        load_vnnlib(tmp_path / "cut.vnnlib.gz")
    (tmp_path / "binary.vnnlib").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="not text"):
        load_vnnlib(tmp_path / "binary.vnnlib")


def test_acasxu_properties(vnncomp):
    folder = vnncomp / "acasxu"
    left, right = load_vnnlib(folder / "prop_6.vnnlib").boxes
    assert (left.lower[1], left.upper[1]) == (0.11140846, 0.499999896)
    assert (right.lower[1], right.upper[1]) == (-0.499999896, -0.11140846)
    assert len(left.disjuncts) == len(right.disjuncts) == 4
    (seven,) = load_vnnlib(folder / "prop_7.vnnlib").boxes
    assert [p.A.shape for p in seven.disjuncts] == [(3, 5), (3, 5)]
    assert seven.disjuncts[1].contains(np.array([1, 1, 1, 1, 0])) and not seven.disjuncts[0].contains([1, 1, 0, 1, 0])


def _listed(root: Path) -> list[tuple[str, str]]:
    with (root / "expected.csv").open(newline="") as file:
        return sorted({(row["category"], row["vnnlib"]) for row in csv.DictReader(file)})


def test_one_property_of_every_category_loads_fast(vnncomp):
    for category, name in dict(_listed(vnncomp)).items():
        load_vnnlib(vnncomp / category / name)
        start = time.process_time()
        spec = load_vnnlib(vnncomp / category / name)
        assert time.process_time() - start < 1.0
        assert all((box.lower <= box.upper).all() and box.disjuncts for box in spec.boxes)


@pytest.mark.slow
def test_every_listed_property_loads(vnncomp):
    listed = _listed(vnncomp)
    assert len(listed) > 300
    for category, name in listed:
        spec = load_vnnlib(vnncomp / category / name)
        assert spec.n_inputs > 0 and all(box.disjuncts for box in spec.boxes)
