"""`recurjac doctor`, and what the other commands say where there is no host."""

from __future__ import annotations

import json

import pytest
import torch
from commands import RELU, SMALL, answer, process, recurjac

from recurjac_plugin import host


def test_doctor():
    found = answer("doctor")
    assert found.keys() == {"command", "version", "ok", "packages", "devices"}
    packages = {row["name"]: row for row in found["packages"]}
    assert packages["auto_LiRPA"] == {
        "name": "auto_LiRPA",
        "version": host.VERSION,
        "ok": True,
        "needed_for": "everything",
        "problem": None,
    }
    assert packages["torch"]["version"] == torch.__version__
    assert found["devices"][0] == "cpu"
    shown = recurjac("doctor").stdout
    assert "auto_LiRPA" in shown
    assert "devices: cpu" in shown


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_doctor_works_without_a_host(arguments):
    hide = "import sys; sys.modules['auto_LiRPA'] = None; from recurjac_plugin.cli import main; main()"
    shown = process(*arguments, code=hide)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "pip install --no-deps auto_LiRPA==0.3" in " ".join(shown.stdout.split())
    if arguments[1:]:
        assert json.loads(shown.stdout)["ok"] is False


def test_other_commands_without_a_host_say_what_to_install():
    hide = "import sys; sys.modules['auto_LiRPA'] = None; from recurjac_plugin.cli import main; main()"
    shown = process("verify", RELU, SMALL, code=hide)
    assert (shown.returncode, shown.stdout) == (2, "")
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: `auto_LiRPA` is not installed")
    assert "pip install --no-deps auto_LiRPA==0.3" in line
