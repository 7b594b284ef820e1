"""What all commands have in common: help, streams, exit codes, files that are written whole."""

from __future__ import annotations

import errno
import json
import os

import pytest
from commands import LARGE, RELU, SMALL, process, recurjac

import recurjac_plugin as rj
from recurjac_plugin.cli.files import write


def test_version_and_help():
    assert recurjac("--version").stdout == f"{rj.__version__}\n"
    commands = ("jacobian", "lipschitz", "monotone", "verify", "compare", "doctor")
    overview = recurjac().stdout
    assert overview == recurjac("--help").stdout
    assert all(command in overview for command in commands)
    for command in commands:
        shown = recurjac(command, "--help").stdout
        common = ["--json"] if command == "doctor" else ["--json", "--device", "--dtype", "--seed"]
        assert all(option in shown for option in common)


def test_every_method_name_of_the_defaults_is_known():
    for command in ("lipschitz", "compare"):
        shown = "".join(line.strip() for line in recurjac(command, "--help").stdout.splitlines())
        assert all(name in shown for name in rj.METHODS)


def test_process_keeps_results_and_remarks_apart(tmp_path):
    shown = process("verify", RELU, SMALL, "--results-file", "r.txt", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "unsat\n")
    assert "Warning" not in shown.stderr
    assert (tmp_path / "r.txt").read_text() == "unsat\n"
    assert os.listdir(tmp_path) == ["r.txt"]


def test_process_prints_nothing_but_json():
    shown = process("compare", RELU, LARGE, "--methods", "CROWN,alpha-CROWN", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["command"] == "compare"


def test_module_is_run_as_the_script_is():
    shown = process("--version", code="import runpy; runpy.run_module('recurjac_plugin.cli', run_name='__main__')")
    assert (shown.returncode, shown.stdout) == (0, f"{rj.__version__}\n")


def test_our_own_errors_are_not_dressed_up_as_the_users():
    broken = (
        "import recurjac_plugin.networks.onnx as m, recurjac_plugin.cli as cli\n"
        "def load_onnx(path): raise ZeroDivisionError('ours')\n"
        "m.load_onnx = load_onnx\ncli.main()"
    )
    shown = process("verify", RELU, SMALL, code=broken)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.splitlines()[-1] == "ZeroDivisionError: ours"


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "f.txt"
    write(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(rj.FileError, match="cannot be written: No space left"):
            write(path, b"new")
    assert path.read_bytes() == b"old"
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
@pytest.mark.parametrize("arguments", [("verify", RELU, SMALL), ("verify", RELU, SMALL, "--json"), ("doctor",)])
def test_results_that_cannot_be_written_are_one_sentence(arguments):
    code = "import sys; sys.stdout = open('/dev/full', 'w'); from recurjac_plugin.cli import main; main()"
    done = process(*arguments, code=code)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "error: The results cannot be written to stdout: No space left on device."
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_is_no_error():
    code = "import sys; sys.stdout = None; from recurjac_plugin.cli import main; main()"
    done = process("verify", RELU, SMALL, "--quiet", code=code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
