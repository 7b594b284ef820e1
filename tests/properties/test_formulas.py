"""Random queries mean what they say: boxes and rows against an evaluator of formulas that shares nothing with them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from queries import Query

from recurjac_plugin import load_vnnlib
from recurjac_plugin.errors import FileError
from recurjac_plugin.verification.composed.equal import equal_inputs, with_equal_inputs

ONE = [(((2,),), ((2,),))]
TENSORS = [(((1, 2), (2,)), ((2,), (1, 1)))]
TWO = [(((1, 2),), ((1, 2),))] * 2


def read(query, tmp_path):
    (tmp_path / "q.vnnlib").write_text(query.text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty boxes are common here
        return load_vnnlib(tmp_path / "q.vnnlib")


def read_or_none(query, tmp_path):
    """What is read; None where a variable minus itself leaves numbers without a variable, which is refused."""
    try:
        return read(query, tmp_path)
    except FileError as error:
        if "compares numbers without a variable" in str(error):
            return None
        raise


def points(query, random, count):
    """Values at multiples of 1/2, so that equalities are met, inside the bounds and beyond."""
    for _ in range(count):
        values = {t.name: random.integers(-5, 6, t.shape) / 2 for t in query.tensors}
        for (name, index), (low, high) in query.bounds.items():
            if random.random() < 0.9:
                values[name][index] = np.clip(values[name][index], low, high)
        yield values


@pytest.mark.parametrize("networks", [ONE, TENSORS, TWO], ids=["one", "tensors", "two"])
@pytest.mark.parametrize("seed", range(40))
def test_violations_are_those_of_the_formula(networks, seed, tmp_path):
    random = np.random.default_rng(seed)
    query = Query(random, networks, equal=True)
    spec = read_or_none(query, tmp_path)
    if spec is None:
        return
    assert sum(box.lower.size for box in spec.boxes[:1]) in (0, spec.n_inputs)
    met = 0
    for values in points(query, random, 300):
        x, y = query.flat(values)
        expected = query.holds(values)
        met += expected
        assert spec.violated(x, y) == expected, (query.text(), values)
        if expected:  # the closed rows, which proofs are about, contain it too
            assert any(
                (box.lower <= x).all()
                and (x <= box.upper).all()
                and any((p.A @ y + (0 if p.B is None else p.B @ x) <= p.b + 1e-9).all() for p in box.disjuncts)
                for box in spec.boxes
            )


@pytest.mark.parametrize("seed", range(20))
def test_equal_inputs_lose_no_violation(seed, tmp_path):
    """With ``x0 == x1`` and more in every disjunct, violations of the shorter property are those of the longer one."""
    random = np.random.default_rng(seed)
    query = Query(random, TWO)
    for j in range(1 + seed % 2):
        query.assertions.append(("cmp", "==", ("var", "X0_0", (0, j)), ("var", "X1_0", (0, j))))
    spec = read_or_none(query, tmp_path)
    if spec is None or not spec.boxes:
        return
    place = equal_inputs(spec)
    assert place is not None and place[0] == place[2] and place.max() + 1 <= 3 - seed % 2
    few = with_equal_inputs(spec, place)
    for values in points(query, random, 200):
        z = query.flat(values)[0][[np.flatnonzero(place == i)[0] for i in range(few.n_inputs)]]
        y = query.flat(values)[1]
        assert few.violated(z, y) == spec.violated(z[place], y)


@pytest.mark.parametrize("networks", [ONE, TENSORS, TWO], ids=["one", "tensors", "two"])
@pytest.mark.parametrize("seed", range(15))
def test_printed_comparisons_are_those_of_the_tree(networks, seed, tmp_path, monkeypatch):
    """Simple comparisons are read from the parser's text: boxes and rows are the same without that."""
    query = Query(np.random.default_rng(seed), networks, equal=True)
    first = read_or_none(query, tmp_path)
    monkeypatch.setattr("recurjac_plugin.properties.comparisons.Comparisons.conjunction", lambda *_: None)
    second = read_or_none(query, tmp_path)
    if first is None or second is None:
        assert first is second
        return
    assert repr(first) == repr(second) and first.remarks == second.remarks
    for one, other in zip(first.boxes, second.boxes, strict=True):
        for name in ("lower", "upper", "lower_open", "upper_open"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        for left, right in zip(one.disjuncts, other.disjuncts, strict=True):
            assert np.array_equal(left.A, right.A) and np.array_equal(left.b, right.b)
            assert np.array_equal(left.strict, right.strict) and (left.B is None) == (right.B is None)
            assert left.B is None or np.array_equal(left.B, right.B)


def test_many_bounds_at_once_are_those_one_by_one(tmp_path, monkeypatch):
    """Conjunctions of more than 16 bounds, several of them of one input, with digits that a double has not."""
    random = np.random.default_rng(0)
    names = "".join(f"(declare-const X_{i} Real)" for i in range(12)) + "(declare-const Y_0 Real)"
    cases = []
    for _ in range(20):
        numbers = [*range(12), *random.integers(0, 12, 6)]
        ends = [(i, random.uniform(-1, 0), random.uniform(0, 1)) for i in numbers]
        rows = [f"(>= X_{i} {low:.20f})(<= X_{i} {high:.20f})(>= {high} X_{i})" for i, low, high in ends]
        cases.append(f"(and {' '.join(rows)} (>= Y_0 {random.uniform(-1, 1):.20f}))")
    (tmp_path / "p.vnnlib").write_text(f"{names}(assert (or {' '.join(cases)}))")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = load_vnnlib(tmp_path / "p.vnnlib")
        monkeypatch.setattr("recurjac_plugin.properties.cases._MANY", 1 << 30)
        second = load_vnnlib(tmp_path / "p.vnnlib")
    assert len(first.boxes) == len(second.boxes) > 5
    for one, other in zip(first.boxes, second.boxes):
        assert np.array_equal(one.lower, other.lower) and np.array_equal(one.upper, other.upper)
