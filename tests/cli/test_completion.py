"""What shells offer behind an option."""

from __future__ import annotations

import pytest
from processes import environment, python

from recurjac_plugin.audit.names import OPERATORS
from recurjac_plugin.audit.table import chosen
from recurjac_plugin.cli.about.supports import ANSWERS
from recurjac_plugin.jacobian.methods import parse, parse_global, parse_jacobian_method, parse_verification_method

CASES = {
    "recurjac lip": {"lipschitz"},
    "recurjac jacobian --method RecurJac-": {"RecurJac-Linear", "RecurJac-McCormick", "RecurJac-Optimized"},
    "recurjac lipschitz --methods Fast-Lip,Oper": {"Fast-Lip,Operator-Norm"},
    "recurjac verify --method alpha": {"alpha-CROWN"},
    "recurjac bench --method alpha": {"alpha-CROWN"},
    "recurjac radius --norm ": {"1", "2", "inf"},
    "recurjac lipschitz --output-norm i": {"inf"},
    "recurjac verify --device c": {"cpu", "cuda"},
    "recurjac doctor --only HardS": {"HardSigmoid", "HardSwish"},
    "recurjac lipschitz --conf": {"--config"},
    "recurjac supports --onnx-op": {"--onnx-opset-versions", "--onnx-operators"},
    "recurjac supports --": {*ANSWERS, "--help"},
    "recurjac supports ": {*ANSWERS},
}


def offered(words, code=""):
    """What bash is told of these words, by a process that runs some code first."""
    count = len(words.split()) - (not words.endswith(" "))
    env = environment(_RECURJAC_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(count))
    return python("-c", code + "from recurjac_plugin.cli import main\nmain()", env=env)


@pytest.mark.parametrize("words", CASES)
def test_bash_is_offered(words):
    shown = offered(words)
    assert shown.stderr == ""
    assert CASES[words] <= set(shown.stdout.split())
    assert all(offer.startswith(words.split(" ")[-1]) for offer in shown.stdout.split())


def test_names_of_operators_are_those_of_the_specimens():
    assert list(OPERATORS) == list(dict.fromkeys(specimen.operator for specimen in chosen([])))


@pytest.mark.parametrize("words", ["recurjac doctor --only ", "recurjac supports --", "recurjac lipschitz --methods F"])
def test_nobody_waits_for_torch(words):
    tells = "import atexit, sys\natexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    shown = offered(words, tells)
    assert shown.stdout
    assert shown.stderr == "False\n"


def test_what_is_offered_is_taken():
    from recurjac_plugin.cli.options import norm_of
    from recurjac_plugin.cli.terminal import completion

    for offered, taken in (
        (completion.jacobian_methods, parse_jacobian_method),
        (completion.output_methods, parse_verification_method),
        (completion.norms, norm_of),
        (completion.lists_of_methods, lambda name: parse_global(name) or parse(name)),
    ):
        names = offered("")
        assert len(names) >= 3
        for name in names:
            assert taken(name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_shown(shell):
    # Where typer can, it looks which shell it runs in, and takes no name; from make that is sh.
    env = environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    shown = python("-m", "recurjac_plugin.cli", "--show-completion", shell, env=env)
    assert shown.returncode == 0 and "_RECURJAC_COMPLETE=complete" in shown.stdout
