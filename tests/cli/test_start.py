"""What the program loads before it computes, and when the garbage collector waits."""

from __future__ import annotations

import gc

import pytest
from commands import RELU, SMALL, process
from processes import python

from recurjac_plugin.cli import collector
from recurjac_plugin.cli.app import app

HEAVY = {"torch", "numpy", "auto_LiRPA", "onnx", "onnxruntime", "onnx2pytorch", "matplotlib", "scipy", "sklearn"}
SHOWN = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *sorted({HEAVY!r} & set(sys.modules))))
from recurjac_plugin.cli import main
main()
"""
COMMANDS = [command.name for command in app.registered_commands]


def test_every_command_is_looked_at():
    assert len(COMMANDS) == 12


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--name"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_shown_without_any_library_that_computes(arguments):
    shown = process(*arguments, code=SHOWN)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1] == "loaded:"


def test_the_import_of_the_package_loads_none_of_them():
    shown = python("-c", f"import sys, recurjac_plugin; print(*({HEAVY!r} & set(sys.modules)))")
    assert (shown.returncode, shown.stdout.split()) == (0, [])


def test_the_collector_works_again_while_a_command_computes():
    """It is off while libraries are loaded, which are left alone afterwards, and on in `verify` itself."""
    watched = """
import gc, sys
import recurjac_plugin.networks.converter as converter, recurjac_plugin.verification.verdicts as verdicts
from recurjac_plugin.cli import main
imported, verify = converter.importlib.import_module, verdicts.verify
def loading(name, package=None):
    print(name, gc.isenabled(), file=sys.stderr)
    return imported(name, package)
def computing(*args, **options):
    print("verify", gc.isenabled(), gc.get_freeze_count() > 10_000, file=sys.stderr)
    return verify(*args, **options)
converter.importlib.import_module, verdicts.verify = loading, computing
main()
"""
    shown = process("verify", RELU, SMALL, code=watched)
    assert shown.returncode == 0, shown.stderr
    said = [line for line in shown.stderr.splitlines() if line.startswith(("onnx2pytorch ", "verify "))]
    assert said[:2] == ["onnx2pytorch False", "verify True True"]


def test_the_collector_of_other_programs_is_left_alone():
    """A command that somebody calls in a process of their own, such as this one."""
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    with collector.paused():
        assert gc.isenabled()
    collector.resume()
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, frozen)
