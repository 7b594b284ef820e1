"""`recurjac compare`: every method on one property."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch
from commands import LARGE, MID, RELU, SMALL, TANH, WHERE, answer, recurjac
from onnx_files import few_inputs
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin import Verdict
from recurjac_plugin.cli.commands import compare as compare_module
from recurjac_plugin.verification import verdicts


def test_compare_on_a_property_that_some_methods_prove(tmp_path):
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer("compare", RELU, SMALL, "--csv", table, "--plot", picture, "--timeout", 1.5)
    assert found.keys() == WHERE | {
        "command",
        "property",
        "boxes",
        "seed",
        "methods",
        "auto",
        "lipschitz_sampled",
        "contradictions",
    }
    assert found["contradictions"] == []
    columns = ["method", "lower_bound", "seconds", "jacobian_width", "lipschitz", "verdict", "boxes", "verify_seconds"]
    assert [set(row) for row in found["methods"]] == [{*columns, "unsupported"}] * len(found["methods"])
    rows = {row["method"]: row for row in found["methods"]}
    assert {*rj.METHODS, "CROWN", "IBP"} < set(rows)
    for row in rows.values():
        if row["unsupported"] is None:
            assert row["verdict"] == "unsat" or row["lower_bound"] <= 0
            assert row["seconds"] > 0
            assert row["verify_seconds"] > 0
            assert row["boxes"] >= 1
        assert (row["lipschitz"] is None) == (row["jacobian_width"] is None)
        assert (row["lipschitz"] is not None) == any(rule in row["method"] for rule in rj.METHODS)
    assert rows["CROWN"]["verdict"] == rows["RecurJac-Linear"]["verdict"] == "unsat"
    assert rows["IBP"]["verdict"] == "timeout"
    assert 0 < found["lipschitz_sampled"] <= rows["RecurJac-Linear"]["lipschitz"]
    assert rows["RecurJac-Linear"]["lipschitz"] <= rows["RecurJac"]["lipschitz"] <= rows["Fast-Lip"]["lipschitz"]
    with table.open(newline="") as file:
        written = list(csv.reader(file))
    assert written[0] == columns
    assert [row[0] for row in written[1:]] == list(rows)
    assert float(written[1][1]) == rows["RecurJac"]["lower_bound"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_compare_attacks_where_nothing_is_proved():
    found = answer("compare", RELU, LARGE, "--methods", "RecurJac,CROWN", "--attack-seconds", 20)
    assert [row["verdict"] for row in found["methods"]] == ["sat", "sat"]
    shown = recurjac("compare", RELU, MID, "--methods", "ibp", "--attack-seconds", 0.1, "--timeout", 1).stdout
    assert "timeout" in shown


def test_compare_cuts_boxes_of_few_inputs_within_its_budget(tmp_path):
    path, prop = few_inputs(tmp_path, least=-0.6)
    found = answer("compare", path, prop, "--methods", "RecurJac,CROWN,IBP", "--branching", "longest")["methods"]
    assert [row["verdict"] for row in found] == ["unsat"] * 3
    assert all(row["lower_bound"] < 0 for row in found)  # of the uncut box
    assert found[2]["boxes"] > found[1]["boxes"] > 1
    late = answer("compare", path, prop, "--methods", "IBP", "--timeout", 1e-9)["methods"]
    assert (late[0]["verdict"], late[0]["boxes"]) == ("timeout", 0)
    shown = recurjac("compare", path, prop, "--methods", "CROWN").stdout
    assert all(word in " ".join(shown.split()) for word in ("boxes", "unsat", "verdict"))


def contradicted(*arguments):
    """What a command that contradicts itself says: the JSON object, its stderr, and the text without `--json`."""
    spoken = recurjac(*arguments, "--json", code=1)
    return json.loads(spoken.stdout), spoken.stderr, recurjac(*arguments, code=1).stdout


def test_compare_shouts_where_a_proof_stands_beside_a_counterexample(monkeypatch, tmp_path):
    """`y >= -1/2`, so that `unsat` is wrong for the property that y comes below -0.4."""
    path, prop = few_inputs(tmp_path, least=-0.4)
    honest = verdicts.verify

    def verify(network, spec, *, method, **options):
        result = honest(network, spec, method=method, **options)
        return replace(result, verdict=Verdict.UNSAT, counterexample=None) if method == "CROWN" else result

    monkeypatch.setattr(verdicts, "verify", verify)
    found, told, shown = contradicted("compare", path, prop, "--methods", "RecurJac,CROWN")
    assert [row["verdict"] for row in found["methods"]] == ["sat", "unsat"]
    (wrong,) = found["contradictions"]
    assert (wrong["method"], wrong["against"], wrong["box"]) == ("CROWN", "RecurJac", 0)
    assert rj.load_onnx(path)(torch.tensor([wrong["point"]])) <= -0.4
    for text in (told, " ".join(shown.split())):
        assert "CONTRADICTION: `CROWN` says `unsat`, but `RecurJac` has a counterexample in box 1 of 1" in text
        assert "please report" in text
    # Where no other method has a counterexample, a short attack finds one.
    found, told, _ = contradicted("compare", path, prop, "--methods", "CROWN")
    assert [each["against"] for each in found["contradictions"]] == ["the attack"]
    assert "`the attack` has a counterexample" in told


def test_compare_shouts_where_a_value_lies_outside_of_a_bound(monkeypatch, tmp_path):
    path, prop = few_inputs(tmp_path, least=-0.6)
    honest = compare_module._bounds

    def bounds(network, spec, name):
        return [
            (lower + (name == "IBP"), upper - 0.9 * (name == "CROWN")) for lower, upper in honest(network, spec, name)
        ]

    monkeypatch.setattr(compare_module, "_bounds", bounds)
    found, told, _ = contradicted("compare", path, prop, "--methods", "RecurJac,CROWN,IBP")
    truth = {"CROWN": ("most", 0.1), "IBP": ("least", -0.5)}
    assert {each["method"] for each in found["contradictions"]} <= set(truth)
    assert found["contradictions"]
    for each in found["contradictions"]:
        assert each["against"] == "a value of the network"
        assert f"`{each['method']}` says that row 1 of the property is at {truth[each['method']][0]}" in each["message"]
        (x0, x1), sign = each["point"], 1 if each["method"] == "CROWN" else -1
        assert each["value"] == pytest.approx(abs(x0) - abs(x0 + x1 / 2))
        assert sign * (each["value"] - each["bound"]) > 0
        assert each["message"] in told


def test_compare_shouts_where_points_show_a_larger_constant(monkeypatch):
    honest = compare_module._width_and_constant

    def halved(network, spec, name):
        width, constant = honest(network, spec, name)
        return width, constant / 20 if name == "RecurJac" else constant

    monkeypatch.setattr(compare_module, "_width_and_constant", halved)
    found, told, _ = contradicted("compare", RELU, SMALL, "--methods", "RecurJac,Fast-Lip", "--timeout", 1)
    (wrong,) = found["contradictions"]
    assert (wrong["method"], wrong["value"]) == ("RecurJac", found["lipschitz_sampled"])
    assert wrong["bound"] < wrong["value"]
    assert "Lipschitz constant of the rows is at most" in told


def test_compare_goes_on_after_a_method_that_cannot_be_used(monkeypatch, tmp_path):
    bounds = compare_module._bounds

    def refuse_ibp(network, spec, name):
        if name == "IBP":
            raise rj.UnsupportedError("The network", ["a part"], "Nothing to be done.")
        return bounds(network, spec, name)

    monkeypatch.setattr(compare_module, "_bounds", refuse_ibp)
    arguments = ("compare", RELU, SMALL, "--methods", "IBP,CROWN", "--plot", tmp_path / "p.png")
    refused, proved = answer(*arguments)["methods"]
    assert (refused["verdict"], refused["lower_bound"]) == (None, None)
    assert refused["unsupported"] == "The network has 1 unsupported part(s): a part. Nothing to be done."
    assert proved["verdict"] == "unsat"
    assert "IBP: The network has 1 unsupported part(s)" in recurjac(*arguments).stderr
    recurjac("compare", RELU, SMALL, "--methods", "IBP", "--plot", tmp_path / "none.png", "--attack-seconds", 0)


def test_compare_names_what_auto_is():
    found = answer("compare", TANH, DATA / "digits_tanh_small.vnnlib", "--methods", "auto,RecurJac-McCormick,CROWN")
    assert [row["method"] for row in found["methods"]] == ["RecurJac-McCormick", "CROWN"]
    assert found["auto"] == "RecurJac-McCormick"
    relu = answer("compare", RELU, SMALL, "--methods", "ibp+auto", "--timeout", 1)
    assert (relu["auto"], relu["methods"][0]["method"]) == ("RecurJac-Linear", "IBP+RecurJac-Linear")
