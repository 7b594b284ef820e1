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
