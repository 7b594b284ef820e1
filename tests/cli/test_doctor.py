"""`recurjac doctor`, and what the other commands say where there is no host."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import torch
from commands import RELU, SMALL, answer, process, recurjac

from recurjac_plugin import host


def test_doctor():
    found = answer("doctor")
    assert found.keys() == {"command", "version", "ok", "packages", "extras", "devices"}
    assert found["ok"] is True
    packages = {row["name"]: row for row in found["packages"]}
    assert packages["auto_LiRPA"] == {
        "name": "auto_LiRPA",
        "version": host.VERSION,
        "ok": True,
        "needed_for": "everything",
        "extra": None,
        "problem": None,
    }
    assert torch.__version__.startswith(packages["torch"]["version"])  # metadata may leave out the +cu121
    assert found["devices"][0] == "cpu"
    shown = recurjac("doctor").stdout
    assert "auto_LiRPA" in shown
    assert "devices: cpu" in shown


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_doctor_works_without_a_host(arguments):
    hide = "import sys; sys.modules['auto_LiRPA'] = None; from recurjac_plugin.cli import main; main()"
    shown = process(*arguments, code=hide)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "pip install --no-deps auto_LiRPA==0.3" in " ".join(shown.stdout.split())
    if arguments[1:]:
        assert json.loads(shown.stdout)["ok"] is False


def test_doctor_takes_a_missing_extra_for_no_fault_and_an_old_version_for_one(monkeypatch):
    versions = importlib.metadata.version

    def version(name):
        if name == "vnnlib":
            raise importlib.metadata.PackageNotFoundError(name)
        return versions(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = answer("doctor")
    assert found["ok"] is True
    lacking = {row["name"]: row["lacking"] for row in found["extras"]}
    assert lacking["onnx"] == ["vnnlib"]
    assert "onnx: lacks `vnnlib`: pip install 'recurjac-plugin[onnx]'" in recurjac("doctor").stdout
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ['vnnlib>=1; extra == "onnx"', "numpy>=1000"])
    shown = recurjac("doctor", code=1).stdout
    assert "does not fit; replace it with `pip install 'numpy>=1000'`" in shown
    assert json.loads(recurjac("doctor", "--json", code=1).stdout)["ok"] is False


def test_doctor_takes_what_does_not_import_for_a_fault():
    broken = "import sys; sys.modules['vnnlib'] = None; from recurjac_plugin.cli import main; main()"
    shown = process("doctor", "--json", code=broken)
    assert (shown.returncode, shown.stderr) == (1, "")
    (row,) = [row for row in json.loads(shown.stdout)["packages"] if row["name"] == "vnnlib"]
    assert row["version"] == importlib.metadata.version("vnnlib")
    assert row["problem"].startswith("does not import (import of vnnlib halted; ")
    assert row["problem"].endswith("); install it anew with `pip install 'recurjac-plugin[onnx]'`.")


def test_other_commands_without_a_host_say_what_to_install():
    hide = "import sys; sys.modules['auto_LiRPA'] = None; from recurjac_plugin.cli import main; main()"
    shown = process("verify", RELU, SMALL, code=hide)
    assert (shown.returncode, shown.stdout) == (2, "")
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: `auto_LiRPA` is not installed")
    assert "pip install --no-deps auto_LiRPA==0.3" in line


def test_audit_of_an_operator_that_holds():
    found = answer("doctor", "--audit", "--quick", "--only", "abs")
    assert found.keys() == {"command", "version", "auto_lirpa", "operators", "ok", "wrong", "counts", "rows"}
    assert (found["ok"], found["wrong"], found["operators"]) == (True, 0, "plugin")
    assert [row["place"] for row in found["rows"]] == ["input", "inner", "output", "residual"]
    for row in found["rows"]:
        assert row["operator"] == "Abs"
        assert {method["verdict"] for method in row["methods"].values()} == {"holds"}
    assert found["counts"]["CROWN"] == {"holds": 4, "refused": 0, "guarded": 0, "violated": 0, "misread": 0}
    shown = recurjac("doctor", "--audit", "--quick", "--only", "abs").stdout
    assert "with the plugin's operators" in shown
    assert "All bounds hold." in shown


def test_audit_of_the_host_as_it_is_ends_with_1_where_bounds_do_not_hold():
    arguments = ("doctor", "--audit", "host", "--quick", "--only", "LeakyRelu(slope=-0.25)")
    result = recurjac(*arguments, code=1)
    assert f"auto_LiRPA {host.VERSION}, as it is" in result.stdout
    assert "LeakyRelu: slope=-0.25" in result.stdout
    assert "wrong: 4 of 4 rows" in result.stdout
    table = recurjac(*arguments, "--markdown", code=1).stdout
    assert "| operator | attributes | IBP | CROWN | CROWN-IBP | alpha-CROWN |" in table
    assert "| LeakyRelu | slope=-0.25 | " in table
    assert "violated by " in table or "misread by " in table  # 0.7 evaluates it to other numbers
    assert json.loads(recurjac(*arguments, "--json", code=1).stdout)["wrong"] == 4


def test_audit_puts_the_host_back():
    before = dict(host.bound_op_map)
    recurjac("doctor", "--audit", "--quick", "--only", "abs")
    assert host.bound_op_map == before
    assert not hasattr(host.BoundedModule.compute_bounds, "__wrapped__")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["host"], "belong to `--audit`"),
        (["--quick"], "belong to `--audit`"),
        (["--audit", "--json", "--markdown"], "choose one of"),
        (["--audit", "--only", "unheard of"], "No operator has `unheard of` in its name"),
        (["--audit", "nobody"], "nobody"),
    ],
)
def test_audits_that_make_no_sense(arguments, message):
    assert message in recurjac("doctor", *arguments, code=2).stderr
