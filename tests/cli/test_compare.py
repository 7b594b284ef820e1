"""`recurjac compare`: every method on one property."""

from __future__ import annotations

import csv

from commands import LARGE, MID, RELU, SMALL, WHERE, answer, recurjac
from onnx_files import few_inputs

import recurjac_plugin as rj
from recurjac_plugin.cli.commands import compare as compare_module


def test_compare_on_a_property_that_some_methods_prove(tmp_path):
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer("compare", RELU, SMALL, "--csv", table, "--plot", picture)
    assert found.keys() == WHERE | {"command", "property", "boxes", "seed", "methods", "lipschitz_sampled"}
    columns = ["method", "lower_bound", "seconds", "jacobian_width", "lipschitz", "verdict", "boxes", "verify_seconds"]
    assert [set(row) for row in found["methods"]] == [{*columns, "unsupported"}] * len(found["methods"])
    rows = {row["method"]: row for row in found["methods"]}
    assert {*rj.METHODS, "CROWN", "IBP"} < set(rows)
    for row in rows.values():
        if row["unsupported"] is None:
            assert row["verdict"] == ("unsat" if row["lower_bound"] > 0 else "unknown")
            assert row["seconds"] > 0
            assert row["verify_seconds"] > 0
            assert row["boxes"] == 1  # boxes of images are not cut
        assert (row["lipschitz"] is None) == (row["jacobian_width"] is None)
        assert (row["lipschitz"] is not None) == any(rule in row["method"] for rule in rj.METHODS)
    assert rows["CROWN"]["verdict"] == rows["RecurJac-Linear"]["verdict"] == "unsat"
    assert rows["IBP"]["verdict"] == "unknown"
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
    shown = recurjac("compare", RELU, MID, "--methods", "crown", "--attack-seconds", 0.1).stdout
    assert "unknown" in shown


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


def test_compare_goes_on_after_a_method_that_cannot_be_used(monkeypatch, tmp_path):
    margins = compare_module._margins

    def refuse_ibp(network, spec, name):
        if name == "IBP":
            raise rj.UnsupportedError("The network", ["a part"], "Nothing to be done.")
        return margins(network, spec, name)

    monkeypatch.setattr(compare_module, "_margins", refuse_ibp)
    arguments = ("compare", RELU, SMALL, "--methods", "IBP,CROWN", "--plot", tmp_path / "p.png")
    refused, proved = answer(*arguments)["methods"]
    assert (refused["verdict"], refused["lower_bound"]) == (None, None)
    assert refused["unsupported"] == "The network has 1 unsupported part(s): a part. Nothing to be done."
    assert proved["verdict"] == "unsat"
    assert "IBP: The network has 1 unsupported part(s)" in recurjac(*arguments).stderr
    recurjac("compare", RELU, SMALL, "--methods", "IBP", "--plot", tmp_path / "none.png", "--attack-seconds", 0)
