"""`recurjac verify --certificate` and `recurjac check`."""

from __future__ import annotations

import numpy as np
import pytest
from certified import every_step
from commands import answer, recurjac
from onnx_files import few_inputs, model, node, save

import recurjac_plugin as rj
from recurjac_plugin.checker.jacobian import load_claims


def test_a_verdict_is_written_down_and_accepted(tmp_path):
    network, prop = few_inputs(tmp_path, -0.6)
    result = recurjac("verify", network, prop, "--certificate", tmp_path / "c.json")
    assert result.stdout == "unsat\n"
    assert "certificate of" in result.stderr
    result = recurjac("check", network, prop, tmp_path / "c.json")
    assert result.stdout == "accepted\n"
    assert "boxes in 1 region," in result.stderr


def test_json(tmp_path):
    network, prop = few_inputs(tmp_path, -0.6)
    found = answer("verify", network, prop, "--certificate", tmp_path / "c.json.gz")
    assert found["verdict"] == "unsat"
    accepted = answer("check", network, prop, tmp_path / "c.json.gz")
    assert (accepted["accepted"], accepted["reason"], accepted["boxes"]) == (True, None, found["certified_boxes"])
    assert "certified_boxes" not in answer("verify", network, prop)


def test_other_verdicts_have_no_certificate(tmp_path):
    network, prop = few_inputs(tmp_path, -0.4)
    found = answer("verify", network, prop, "--certificate", tmp_path / "c.json")
    assert (found["verdict"], found["certified_boxes"]) == ("sat", None)
    assert not (tmp_path / "c.json").exists()


def test_rejected_is_exit_code_1(tmp_path):
    network, prop = few_inputs(tmp_path, -0.6)
    recurjac("verify", network, prop, "--certificate", tmp_path / "c.json")
    _, other = few_inputs(tmp_path, -0.55)
    result = recurjac("check", network, other, tmp_path / "c.json", code=1)
    assert result.stdout.startswith("rejected: it is about another property")
    result = recurjac("check", network, other, tmp_path / "c.json", "--json", code=1)
    assert '"accepted": false' in result.stdout


def test_bad_input_is_exit_code_2(tmp_path):
    network, prop = few_inputs(tmp_path, -0.6)
    result = recurjac("check", network, prop, tmp_path / "nothing.json", code=2)
    assert result.stderr.startswith("error: ")
    assert "does not exist" in result.stderr
    result = recurjac("verify", network, prop, "--certificate", tmp_path / "no" / "c.json", code=2)
    assert "cannot be written" in result.stderr


def test_a_network_that_the_checker_does_not_take_is_refused_at_once(tmp_path):
    nodes = [node("Tanh", "x", "t"), node("MatMul", "t W", "y")]
    path = save(tmp_path / "t.onnx", model(nodes, ["b", 2], ["b", 1], {"W": np.ones((2, 1))}))
    _, prop = few_inputs(tmp_path, -3.0)
    result = recurjac("verify", path, prop, "--certificate", tmp_path / "c.json", code=2)
    assert result.stdout == ""
    assert "Tanh" in result.stderr


def test_from_python(tmp_path):
    problem = every_step(tmp_path)
    spec, net = rj.load_vnnlib(problem.prop), rj.load_onnx(problem.network)
    assert rj.verify(net, spec, certificate=tmp_path / "again.json").verdict is rj.Verdict.UNSAT
    assert (tmp_path / "again.json").read_bytes() == problem.certificate.read_bytes()


def test_certificates_are_about_files(tmp_path):
    problem = every_step(tmp_path)
    spec, net = rj.load_vnnlib(problem.prop), rj.load_onnx(problem.network)
    with pytest.raises(rj.InputError, match="about files"):
        rj.verify(net.network, spec, certificate=tmp_path / "c.json")


def test_a_certificate_that_cannot_be_written_leaves_the_verdict(tmp_path, monkeypatch):
    from recurjac_plugin.checker import Rejected
    from recurjac_plugin.verification import certificate

    def reject(problem, content):
        raise Rejected("the box of node 0 is left open")

    monkeypatch.setattr(certificate, "check_content", reject)
    network, prop = few_inputs(tmp_path, -0.6)
    result = recurjac("verify", network, prop, "--certificate", tmp_path / "c.json", code=2)
    assert result.stdout == "unsat\n"
    assert result.stderr.splitlines()[-1] == (
        "error: no certificate could be written: the checker found that the box of node 0 is left open."
    )
    found = recurjac("verify", network, prop, "--certificate", tmp_path / "c.json", "--json", code=2)
    assert '"verdict": "unsat"' in found.stdout
    assert '"certified_boxes": null' in found.stdout
    with pytest.raises(rj.CertificateError, match="no certificate could be written"):
        rj.verify(rj.load_onnx(network), rj.load_vnnlib(prop), certificate=tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_bounds_of_a_jacobian_are_written_down_and_accepted(tmp_path):
    network, prop = few_inputs(tmp_path, -0.6)
    for i, region in enumerate((("--vnnlib", prop), ("--input", tmp_path / "x.npy", "--eps", 0.1))):
        np.save(tmp_path / "x.npy", np.array([[0.3, 0.1], [0.0, 0.0]], dtype=np.float32))
        file = tmp_path / f"{i}.json"
        found = answer("jacobian", network, *region, "--certificate", file)
        assert found["certificate"]["file"] == str(file)
        assert found["certificate"]["widened"] < 1e-6
        accepted = answer("check", network, file)
        assert (accepted["accepted"], accepted["boxes"]) == (True, found["certificate"]["boxes"])
        stated = [load_claims(file.read_bytes()).trees[row["input"]].bounds for row in found["rows"]]
        for row, (lower, upper) in zip(found["rows"], stated):
            assert lower.min() == pytest.approx(row["lower"], abs=1e-6)
            assert upper.max() == pytest.approx(row["upper"], abs=1e-6)
    assert "certificate of" in recurjac("jacobian", network, "--vnnlib", prop, "--certificate", file).stderr


def test_certificates_of_bounds_are_about_boxes(tmp_path):
    network, _ = few_inputs(tmp_path, -0.6)
    np.save(tmp_path / "x.npy", np.zeros((1, 2), dtype=np.float32))
    options = ("--input", tmp_path / "x.npy", "--eps", 0.1, "--norm", 2)
    result = recurjac("jacobian", network, *options, "--certificate", tmp_path / "c.json", code=2)
    assert "is about boxes" in result.stderr
    assert recurjac("check", network, code=2).stderr.startswith("error: ")
