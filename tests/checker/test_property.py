"""VNN-LIB files as the checker reads them: exact decimals, the regions of `load_vnnlib`, one sentence for the rest."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest
from certified import bounded, declared
from places import DATA

from recurjac_plugin import load_vnnlib
from recurjac_plugin.checker.reading.property import read_property
from recurjac_plugin.errors import FileError

UNIT = "(assert (and (>= X_0 0) (<= X_0 1) (>= X_1 -1) (<= X_1 1)))\n"
DECLARED_2 = (
    "(vnnlib-version <2.0>)\n(declare-network f\n(declare-input in float32 [1,2])\n(declare-output out real [2,2]))\n"
    "(assert (>= in[0,0] 0.0)) (assert (<= in[0,0] 1.0)) (assert (>= in[0,1] -1.0)) (assert (<= in[0,1] 1.0))\n"
)


def rows(disjunct):
    return [(dict(row.coefficients), row.right, row.strict) for row in disjunct]


def test_numbers_are_the_decimals_that_are_written():
    text = declared(1, 1) + "(assert (>= X_0 -0.1)) (assert (<= X_0 1e-3)) ; (assert (<= X_0 -5))\n"
    prop = read_property(text + "(assert (<= (+ (* 0.3 Y_0) 0.7) (- 2.5E-1 Y_0)))", "p")
    (region,) = prop.regions
    assert (region.lower, region.upper) == ((Fraction(-1, 10),), (Fraction(1, 1000),))
    assert rows(region.disjuncts[0]) == [({0: Fraction(13, 10)}, Fraction(1, 4) - Fraction(7, 10), False)]


def test_cases_of_disjunctions():
    outputs = "(assert (or (and (<= Y_0 1) (> Y_1 Y_0)) (>= Y_1 3)))"
    (region,) = read_property(declared(2, 2) + UNIT + outputs, "p").regions
    assert [rows(each) for each in region.disjuncts] == [
        [({0: 1}, 1, False), ({0: 1, 1: -1}, 0, True)],
        [({1: -1}, -3, False)],
    ]


def test_regions_are_the_combinations_that_have_inputs():
    """As in ACAS Xu's property 6: a disjunction of inputs with one of outputs; combinations without inputs are none."""
    inputs = f"(assert (or (and {bounded([('0', '1'), ('0', '1')])}) (and {bounded([('2', '3'), ('0', '1')])})))"
    other = "(assert (or (<= X_0 1.5) (>= X_0 1.5)))"
    prop = read_property(declared(2, 2) + inputs + other + "(assert (or (<= Y_0 0) (<= Y_1 0)))", "p")
    assert [(each.lower[0], each.upper[0], len(each.disjuncts)) for each in prop.regions] == [(0, 1, 2), (2, 3, 2)]


def test_equations_and_inequalities():
    (region,) = read_property(declared(2, 2) + UNIT + "(assert (= Y_0 1)) (assert (!= Y_1 2))", "p").regions
    assert [rows(each) for each in region.disjuncts] == [
        [({0: 1}, 1, False), ({0: -1}, -1, False), ({1: 1}, 2, True)],
        [({0: 1}, 1, False), ({0: -1}, -1, False), ({1: -1}, -2, True)],
    ]


def test_version_2():
    (region,) = read_property(DECLARED_2 + "(assert (<= out[1,0] (* -2.0 out[0,1])))", "p").regions
    assert (region.lower, region.upper) == ((0, -1), (1, 1))
    assert rows(region.disjuncts[0]) == [({1: 2, 2: 1}, 0, False)]


def test_strict_bounds_are_taken_as_closed():
    text = declared(1, 1) + "(assert (> X_0 0)) (assert (< X_0 1)) (assert (<= Y_0 0))"
    (region,) = read_property(text, "p").regions
    assert (region.lower, region.upper) == ((0,), (1,))


@pytest.mark.parametrize("path", sorted(DATA.glob("*.vnnlib")), ids=lambda path: path.stem)
def test_same_regions_as_the_prover(path):
    spec, prop = load_vnnlib(path), read_property(path.read_text(), path.name)
    assert (spec.n_inputs, spec.n_outputs, len(spec.boxes)) == (prop.n_inputs, prop.n_outputs, len(prop.regions))
    for box, region in zip(spec.boxes, prop.regions):
        assert box.lower.tolist() == [*map(float, region.lower)]
        assert box.upper.tolist() == [*map(float, region.upper)]
        for polytope, disjunct in zip(box.disjuncts, region.disjuncts, strict=True):
            A = np.zeros_like(polytope.A)
            for k, row in enumerate(disjunct):
                for j, value in row.coefficients:
                    A[k, j] = float(value)
            assert (polytope.A == A).all()
            assert polytope.b.tolist() == [float(row.right) for row in disjunct]
            assert polytope.strict.tolist() == [row.strict for row in disjunct]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (UNIT + "(assert (<= Y_0 0)", "not closed"),
        (UNIT + "(assert (<= Y_0 0)))", "not opened"),
        (UNIT + "(assert (<= Y_7 0))", "`Y_7` is not declared"),
        (UNIT + "(assert (<= Z 0))", "`Z` is not declared"),
        (UNIT + "(assert (<= Y_0 0) (<= Y_1 0))", "more than one formula"),
        (UNIT + "(assert (<= Y_0 0 1))", "expected a comparison"),
        (UNIT + "(assert (=> (<= Y_0 0) (<= Y_1 0)))", "expected a comparison"),
        (UNIT + "(assert (<= (* Y_0 Y_1) 0))", "not linear"),
        (UNIT + "(assert (<= Y_0 X_0))", "mixes inputs and outputs"),
        (UNIT + "(assert (<= (+ X_0 X_1) 0))", "several inputs"),
        (UNIT + "(assert (<= Y_0 1e999))", "out of range"),
        (UNIT + "(assert (<= Y_0 nan))", "not declared"),
        (UNIT + "(assert (<= Y_0 0]))", "no meaning"),
        (UNIT + "(check-sat)", "no command"),
        (UNIT + "(assert)", "more than one formula"),
        ("(assert (>= X_0 0)) (assert (<= Y_0 0))", "no lower or no upper bound"),
        ("(assert (>= X_0 2))" + UNIT + "(assert (<= Y_0 0))", "allows no input"),
        ("(declare-const X_0 Real)" + UNIT, "declared twice"),
        ("(declare-const X_9 Real)" + UNIT, "without gaps"),
        ("(declare-const W Real)" + UNIT, "expected a declaration"),
    ],
)
def test_malformed_properties(text, says):
    with pytest.raises(FileError, match=says):
        read_property(declared(2, 2) + text, "p")


def test_formulas_that_are_nested_too_deeply():
    text = declared(2, 2) + UNIT + "(assert " + "(and " * 1000 + "(<= Y_0 0)" + ")" * 1001
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(500)
    try:
        with pytest.raises(FileError, match="recursion"):
            read_property(text, "p")
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("in[0,0] 0.0", "in[0,2] 0.0", "does not fit"),
        ("in[0,0] 0.0", "in[0] 0.0", "does not fit"),
        ("in float32 [1,2]", "in int8 [1,2]", "real numbers"),
        ("(declare-output out real [2,2])", "", "expected one input and one output"),
        ("(declare-output", "(declare-hidden", "expected one input and one output"),
        ("(vnnlib-version <2.0>)", "(declare-const X_0 Real)", "one network, or single variables"),
    ],
)
def test_malformed_declarations(old, new, says):
    text = DECLARED_2 + "(assert (<= out[0,0] 0.0))"
    assert text.count(old) == 1
    with pytest.raises(FileError, match=says):
        read_property(text.replace(old, new), "p")
