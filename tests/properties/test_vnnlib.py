"""VNN-LIB files of both versions: hand-computed specifications, and one clear sentence for everything refused."""

from __future__ import annotations

import csv
import gzip
import time
import warnings
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
        (DECLARED_1 + UNIT_1 + "(assert (<= 0 1))", "line 6 compares numbers without a variable"),
        (DECLARED_1 + UNIT_1 + "(assert (<= (* Y_0 Y_1) 1))", "line 6 has a comparison that is not linear"),
        (
            DECLARED_1 + "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= Y_0 0))",
            "gives `X_1` no lower bound",
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
        (DECLARED_2.replace("2.0", "3.0") + UNIT_2, "Incompatible VNNLib version"),
        (
            DECLARED_2.replace("X float32", "X int8") + "(assert (<= Y[0,0] 1.0))",
            "`X` of type I8: expected real",
        ),
        (
            DECLARED_2.replace("(declare-output", '(declare-hidden h float32 [2] "r") (declare-output')
            + "(assert (<= Y[0,0] 1.0))",
            "declares 1 hidden nodes (h): expected none",
        ),
    ],
)
def test_refusals_name_what_and_where(tmp_path, text, message):
    with pytest.raises(FileError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert str(tmp_path / "p.vnnlib") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            DECLARED_1 + UNIT_1 + "(assert (<= X_1 -2))",
            "line 6 leaves `X_1` no value (lower bound -1.0 of line 5, upper bound -2.0 of line 6)",
        ),
        (DECLARED_2 + UNIT_2 + "(assert (< X[0,1] -1.0))", "line 6 leaves `X[0,1]` no value"),
        (DECLARED_1 + UNIT_1 + "(assert (and (<= X_0 -1) (<= Y_0 0)))", "line 6 leaves `X_0` no value"),
        (DECLARED_1 + UNIT_1 + "(assert (or (<= X_0 -1) (>= X_1 2)))\n(assert (<= Y_0 0))", "allows no input"),
    ],
)
def test_no_input_gives_no_box_and_a_warning(tmp_path, text, message):
    with pytest.warns(UserWarning, match="is left|no input") as caught:
        spec = load(tmp_path, text)
    assert spec.boxes == () and not spec.violated([0, 0], [0, 0])
    assert [str(each.message) for each in caught] == list(spec.remarks)
    assert any(message in remark for remark in spec.remarks)


def test_a_case_without_inputs_is_left_out_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="line 6 leaves `X_0` no value .* a case without inputs is left out"):
        spec = v1(tmp_path, "(assert (or (<= X_0 0.5) (<= X_0 -2)))\n(assert (<= Y_0 0))")
    (each,) = spec.boxes
    assert (each.lower.tolist(), each.upper.tolist()) == ([0, -1], [0.5, 1])
    # Disjunctions that exclude each other here and there are no mistake.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        halves = "(assert (or (<= X_0 0.25) (>= X_0 0.75)))"
        assert len(v1(tmp_path, halves + halves + "(assert (<= Y_0 0))").boxes) == 2


def test_a_case_without_a_condition_on_outputs_is_violated_by_its_inputs(tmp_path):
    with pytest.warns(UserWarning, match="any input that it allows violates"):
        spec = v1(tmp_path, "(assert (or (and (<= X_0 0.5) (<= X_1 0)) (<= Y_0 0)))")
    assert spec.violated([0.5, 0], [9, 9]) and not spec.violated([0.6, 0], [9, 9]) and spec.violated([0.6, 0], [0, 9])
    with pytest.warns(UserWarning, match="any input that it allows violates"):
        spec = v1(tmp_path, "(assert (<= X_0 X_1))")
    assert spec.violated([0.5, 0.5], [9, 9]) and not spec.violated([0.5, 0.25], [9, 9])


@pytest.mark.parametrize("load", [v1, v2])
def test_rows_on_several_inputs_and_on_inputs_and_outputs(tmp_path, load):
    x, y = ("X_{}", "Y_{}") if load is v1 else ("X[0,{}]", "Y[0,{}]")
    x0, x1, y0 = x.format(0), x.format(1), y.format(0)
    spec = load(tmp_path, f"(assert (<= {x0} (* 2.0 {x1})))(assert (> {y0} (+ {x1} (- 0.5 {x0}))))")
    ((each,),) = (box.disjuncts for box in spec.boxes)
    assert spec.mixed
    assert each.A.tolist() == [[0, 0], [-1, 0]]
    assert each.B.tolist() == [[1, -2], [-1, 1]]
    assert (each.b.tolist(), each.strict.tolist()) == ([0, -0.5], [False, True])
    joined = spec.joined()
    assert (joined.n_outputs, joined.boxes[0].disjuncts[0].A.tolist()) == (4, [[0, 0, 1, -2], [-1, 0, -1, 1]])
    for point, output, expected in (
        ([0.5, 0.25], [0.5, 0], True),
        ([0.5, 0.25], [0.25, 0], False),  # strict
        ([0.5, 0.24], [9, 0], False),
        ([1.5, 0.9], [9, 0], False),  # outside of the box
    ):
        assert spec.violated(point, output) is expected
        # What a network makes of its input is not looked at: the input itself is.
        assert joined.violated(point, [*output, 0.0, 100.0]) is expected


def test_rows_on_inputs_are_compared_without_rounding(tmp_path):
    spec = v1(tmp_path, "(assert (>= (+ X_0 X_1) 1))(assert (<= Y_0 0))")
    assert spec.violated([0.5, 0.5], [0, 0])
    assert not spec.violated([1.0, -1e-30], [0, 0])  # in float64 the sum is 1


def test_bounds_of_one_input_are_no_rows(tmp_path):
    spec = v1(tmp_path, "(assert (<= (+ X_0 (* 0.0 X_1)) (- 1 X_0)))(assert (<= Y_0 0))")
    assert not spec.mixed
    assert spec.boxes[0].upper.tolist() == [0.5, 1.0]


def test_bytes_of_many_editors(tmp_path):
    text = DECLARED_1 + UNIT_1 + "; Größe ≤ 1\n(assert (<= Y_0 0))\n"
    for name, encoding in enumerate(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")):
        mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
        path = tmp_path / f"{name}.vnnlib"
        path.write_bytes((mark + text).replace("\n", "\r\n").encode(encoding))
        assert len(load_vnnlib(path).boxes) == 1
    for number, each in enumerate((text.replace("≤", "<="), DECLARED_2 + UNIT_2 + "; é\n(assert (<= Y[0,0] 0.0))")):
        path = tmp_path / f"latin_{number}.vnnlib"
        path.write_bytes(each.encode("latin-1"))
        assert len(load_vnnlib(path).boxes) == 1
    path.write_text(text.replace("(<= Y_0 0)", "(≤ Y_0 0)"), encoding="utf-8")
    with pytest.raises(FileError, match="line 7 has the character '≤' outside of a comment"):
        load_vnnlib(path)


def test_more_cases_than_anybody_lists(tmp_path):
    cases = " ".join(f"(and (<= X_0 {(i + 1) / 20000}) (>= X_0 {i / 20000}) (<= Y_0 {i}))" for i in range(20_000))
    spec = v1(tmp_path, f"(assert (or {cases}))")
    assert len(spec.boxes) == 20_000
    assert spec.violated([0.75, 0], [15_000, 0]) and not spec.violated([0.75, 0], [15_001, 0])
    nearest = spec.nearest(np.array([2.0, 0]), 2)
    assert [each.upper[0] for each in nearest] == [19_999 / 20_000, 1.0]


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
