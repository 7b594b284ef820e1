"""VNN-COMP instances: those on which the field says `unsat` have a certificate that is accepted, others have none."""

from __future__ import annotations

import csv

import pytest

from recurjac_plugin.checker import check
from recurjac_plugin.checker.files import Problem, content_of
from recurjac_plugin.checker.reading.property import read_property
from recurjac_plugin.errors import CertificateError
from recurjac_plugin.properties.vnnlib import load_vnnlib
from recurjac_plugin.verification.certificate import write_certificate

SETS = ("acasxu", "rl_benchmarks", "tllverifybench")
SOME = {  # category: every so many of its rows
    "acasxu": 20,
    "rl_benchmarks": 25,
    "tllverifybench": 5,
}


def instances(folder, expected, categories):
    with (folder / "expected.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["category"] in categories and row["expected"] in expected:
                yield folder / row["category"] / row["onnx"], folder / row["category"] / row["vnnlib"]


def some(vnncomp, expected):
    for category, step in SOME.items():
        yield from [*instances(vnncomp, expected, {category})][::step]


def certify(network, prop, folder):
    problem = Problem.read(network, prop)
    boxes = write_certificate(problem, folder / "c.json.gz")
    assert check(network, prop, folder / "c.json.gz").boxes == boxes


def test_some_have_a_certificate(vnncomp, tmp_path):
    for network, prop in some(vnncomp, {"unsat"}):
        certify(network, prop, tmp_path)


def test_properties_that_do_not_hold_have_none(vnncomp, tmp_path):
    for network, prop in some(vnncomp, {"sat"}):
        with pytest.raises(CertificateError):
            write_certificate(Problem.read(network, prop), tmp_path / "c.json")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_all_have_a_certificate(vnncomp, tmp_path):
    for network, prop in instances(vnncomp, {"unsat"}, set(SETS)):
        certify(network, prop, tmp_path)


def test_properties_are_those_of_the_prover(vnncomp):
    """Regions, disjuncts and rows, in float64; of every category one file in twenty."""
    categories = {*SETS, "mnistfc", "test", "eran"}
    found = sorted({prop for _, prop in instances(vnncomp, {"sat", "unsat", "unknown"}, categories)})
    assert len(found) > 100
    for path in found[::20]:
        spec, prop = load_vnnlib(path), read_property(content_of(path).decode(), path.name)
        assert len(spec.boxes) == len(prop.regions)
        for box, region in zip(spec.boxes, prop.regions):
            assert box.lower.tolist() == [*map(float, region.lower)]
            assert box.upper.tolist() == [*map(float, region.upper)]
            assert len(box.disjuncts) == len(region.disjuncts)
            for polytope, disjunct in zip(box.disjuncts, region.disjuncts):
                assert polytope.b.tolist() == [float(row.right) for row in disjunct]
                for values, row in zip(polytope.A, disjunct):
                    assert {j: v for j, v in enumerate(values) if v} == {j: float(v) for j, v in row.coefficients}
