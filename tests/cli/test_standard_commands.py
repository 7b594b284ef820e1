"""The command line that the VNN-LIB standard prescribes: `--name`, `--version`, `verify --network`, `supports`."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from commands import answer, process, recurjac
from onnx_specimens import OLD_FORMS, SPECIMENS, model, probe
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin import load_vnnlib
from recurjac_plugin.cli.about.supports import ANSWERS
from recurjac_plugin.cli.standard import answer as text_of
from recurjac_plugin.networks.onnx import onnx_session
from recurjac_plugin.networks.supported import KINDS, opset_versions, supported_operators
from recurjac_plugin.properties.spec import Declaration, Interface, Variable
from recurjac_plugin.verification.counterexample import Counterexample
from recurjac_plugin.verification.verdicts import Result, Verdict

RELU = DATA / "digits_relu.onnx"
OLD = DATA / "digits_relu_small.vnnlib"  # VNN-LIB 1.0


def query(tmp_path, size="large", *, element_type="real", changes=()):
    """A digits property as a query of the standard; returns its path."""
    boxes = load_vnnlib(DATA / f"digits_relu_{size}.vnnlib").boxes
    (box,) = boxes
    lines = ["(vnnlib-version <2.0>)", "(declare-network digits"]
    lines += [f"  (declare-input pixels {element_type} [1,64])", f"  (declare-output scores {element_type} [1,10]))"]
    for i, (low, high) in enumerate(zip(box.lower, box.upper)):
        number = [np.format_float_positional(v, trim="0") for v in (low, high)]
        lines += [f"(assert (>= pixels[0,{i}] {number[0]}))", f"(assert (<= pixels[0,{i}] {number[1]}))"]
    disjuncts = []
    for polytope in box.disjuncts:
        (row,) = polytope.A
        low, high = int(row.argmax()), int(row.argmin())  # Y_low - Y_high <= 0
        disjuncts.append(f"(<= scores[0,{low}] scores[0,{high}])")
    lines.append(f"(assert (or {' '.join(disjuncts)}))")
    text = "\n".join(lines)
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path = tmp_path / "query.vnnlib"
    path.write_text(text + "\n")
    return path


def tensors(lines):
    """Name, type, shape and values of every variable of an assignment."""
    found = []
    for line in lines:
        if head := re.fullmatch(r"([A-Za-z]\w*) (\w+) \[([\d,]*)\]", line):
            found.append((head[1], head[2], tuple(map(int, filter(None, head[3].split(",")))), []))
        else:
            assert re.fullmatch(r"-?\d+\.\d+", line), line  # the numbers of VNN-LIB: no exponent
            found[-1][3].append(float(line))
    return found


def test_name_and_version_are_one_line_each():
    assert recurjac("--name").stdout == "RecurJac\n"
    assert recurjac("--version").stdout == f"{rj.__version__}\n"


def test_counterexample_in_the_querys_own_variables(tmp_path):
    path = query(tmp_path)
    result = recurjac("verify", path, "--network", f"digits={RELU}", "--attack-seconds", 20, "--timeout", 60)
    verdict, *assignment = result.stdout.splitlines()
    assert verdict == "sat"
    (x_name, x_type, x_shape, x), (y_name, y_type, y_shape, y) = tensors(assignment)
    assert (x_name, x_type, x_shape, len(x)) == ("pixels", "real", (1, 64), 64)
    assert (y_name, y_type, y_shape, len(y)) == ("scores", "real", (1, 10), 10)
    assert load_vnnlib(path).violated(np.array(x), np.array(y))
    assert np.array_equal(onnx_session(RELU)(np.array([x]))[0].astype(np.float64), np.array(y))


def test_other_verdicts(tmp_path):
    path, results = query(tmp_path, "small"), tmp_path / "r.txt"
    shown = recurjac("verify", path, "--network", f"digits={RELU}", "--results-file", results)
    assert (shown.stdout, results.read_text()) == ("unsat\n", "unsat\n")
    assert "lower bound" in shown.stderr
    # A query of a newer minor version, of which the parser warns.
    newer = query(tmp_path, "small", changes=[("<2.0>", "<2.1>")])
    done = process("verify", newer, "--network", f"digits={RELU}", "--timeout", 1e-9)
    assert (done.returncode, done.stdout) == (0, "timed-out\n")


def test_unknown(tmp_path):
    arguments = ("verify", query(tmp_path, "mid"), "--network", f"digits={RELU}", "--attack-seconds", 0, "--no-split")
    assert recurjac(*arguments).stdout == "unknown\n"
    found = answer(*arguments)
    assert (found["verdict"], found["model"]) == ("unknown", str(RELU))


def test_version_1_has_one_network_of_any_name():
    assert recurjac("verify", OLD, "--network", f"it={RELU}").stdout == "unsat\n"
    large = DATA / "digits_relu_large.vnnlib"
    shown = recurjac("verify", large, "--network", f"it={RELU}", "--attack-seconds", 20).stdout
    assert shown.startswith("sat\n((X_0 ")


def test_the_form_of_an_assignment():
    A, B = Variable("A", "real", (2, 2)), Variable("B", "real", ())
    C, D, E = Variable("C", "real", (1,)), Variable("D", "real", (2,)), Variable("E", "real", (1, 1))
    declared = Declaration((Interface("f", (A,), (B,)), Interface("g", (C, D), (E,))))
    witness = Counterexample(np.array([0.5, -1e-7, 3.0, 1e20, 4.0, 5.0, 6.0]), np.array([-2.5, 7.0]))
    result = Result(Verdict.SAT, witness, -1.0, 1, 0.1)
    assert text_of(result, declared).splitlines() == [
        *("sat", "A real [2,2]", "0.5", "-0.0000001", "3.0", "100000000000000000000.0"),
        *("B real []", "-2.5", "C real [1]", "4.0", "D real [2]", "5.0", "6.0", "E real [1,1]", "7.0"),
    ]


BAD = [
    ((), "`--network`; give --network NAME=FILE"),
    (("--network", "digits"), "must be NAME=FILE, got 'digits'"),
    (("--network", "=n.onnx"), "must be NAME=FILE, got '=n.onnx'"),
    (("--network", "digits="), "must be NAME=FILE, got 'digits='"),
    (("--network", "a=n.onnx", "--network", "a=m.onnx"), "names `a` twice"),
    (("--network", "other=n.onnx"), "declares the network `digits`, but `--network` gives `other`; give"),
    (("--network", "digits=a.onnx", "--network", "g=b.onnx"), "gives `digits`, `g`; give `--network digits="),
    (("--network", "digits=nothing.onnx"), "`nothing.onnx` does not exist: expected an ONNX network"),
    (("more.vnnlib", "--network", f"digits={RELU}"), "goes with one file, the query; 2 were given"),
    (("--network", f"digits={RELU}", "--timeout", "0"), "`--timeout` must be more than 0 seconds"),
    (("--network", f"digits={RELU}", "--since", "5"), "`--since` goes with `--timeout`"),
    (("--network", f"digits={RELU}", "--serialise-assignments", "out"), "No such option"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input(tmp_path, arguments, message):
    result = recurjac("verify", query(tmp_path, "small"), *arguments, code=2)
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_three_files_are_too_many():
    message = recurjac("verify", RELU, OLD, OLD, code=2).stderr
    assert "expected a network and a property, or a query with `--network`; give no more" in message


def test_several_networks_for_version_1():
    arguments = ("--network", f"f={RELU}", "--network", f"g={RELU}")
    assert "about one network, but 2 were given" in recurjac("verify", OLD, *arguments, code=2).stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("pixels real", "pixels float32")], "declares `pixels` as float32, but bounds are computed without directed"),
        ([("scores real", "scores float64")], "declares `scores` as float64, but"),
        ([("[1,64]", "[64,1]"), *((f"[0,{i}] ", f"[{i},0] ") for i in range(10, 64))], ""),
    ],
)
def test_queries_of_another_type_or_shape(tmp_path, changes, message):
    if not message:
        text = query(tmp_path, "small").read_text()
        text = re.sub(r"pixels\[0,(\d+)\]", r"pixels[\1,0]", text).replace("[1,64]", "[64,1]")
        path = tmp_path / "query.vnnlib"
        path.write_text(text)
        message = "`pixels` of the network `digits` is declared as [64,1], but"
    else:
        path = query(tmp_path, "small", element_type="real", changes=changes)
    result = recurjac("verify", path, "--network", f"digits={RELU}", code=2)
    assert message in result.stderr
    assert result.stdout == ""


HEAD = "(vnnlib-version <2.0>)\n(declare-network digits (declare-input X real [1,2]) {}(declare-output Y real [1,2]))\n"
BOUNDS = "".join(f"(assert (>= X[0,{i}] 0.0)) (assert (<= X[0,{i}] 1.0))\n" for i in range(2))


@pytest.mark.parametrize(
    ("hidden", "more", "message"),
    [
        ('(declare-hidden H real [1,2] "h") ', "(assert (<= Y[0,0] 0.5))", "1 hidden nodes"),
        ("", "(assert (<= (* Y[0,0] Y[0,1]) 0.5))", "not linear"),
        ("(declare-input Z real [1]) ", "(assert (and (<= Y[0,0] 0.5) (== Z[0] 0.0)))", "2 inputs"),
    ],
)
def test_what_no_theory_that_is_named_covers(tmp_path, hidden, more, message):
    path = tmp_path / "q.vnnlib"
    path.write_text(HEAD.format(hidden) + BOUNDS + more + "\n")
    assert message in recurjac("verify", path, "--network", f"digits={RELU}", code=2).stderr


def test_linear_comparisons_of_inputs_and_outputs(tmp_path):
    """y = (x0, x1): no output lies above its input, and inputs in this order are there."""
    from onnx_files import model, node, save

    net = save(tmp_path / "n.onnx", model([node("Relu", "x", "y")], [1, 2], [1, 2]))
    path = tmp_path / "q.vnnlib"
    for gap, order, expected in (("0.25", "", "unsat"), ("0.0", "(assert (<= X[0,0] (- X[0,1] 0.5)))", "sat")):
        path.write_text(HEAD.format("") + BOUNDS + f"(assert (>= Y[0,0] (+ X[0,0] {gap})))" + order)
        found = recurjac("verify", path, "--network", f"digits={net}", "--timeout", 60).stdout.splitlines()
        assert found[0] == expected
    assert found[1] == "X real [1,2]" and float(found[2]) <= float(found[3]) - 0.5


PAIR = (
    "(vnnlib-version <2.0>)\n"
    "(declare-network f (declare-input A real [1,2]) (declare-output B real [1,2]))\n"
    "(declare-network g (equal-to f) (declare-input C real [1,2]) (declare-output D real [1,2]))\n"
    "(assert (and (>= A[0,0] 0.0) (<= A[0,0] 1.0) (>= A[0,1] 0.0) (<= A[0,1] 1.0)))\n"
    "(assert (and (== C[0,1] A[0,1]) (>= C[0,0] 0.0) (<= C[0,0] A[0,0])))\n"
    "(assert (< {} {}))\n"
)


@pytest.fixture
def identity(tmp_path):
    from onnx_files import model, node, save

    return save(tmp_path / "n.onnx", model([node("Relu", "x", "y")], [1, 2], [1, 2]))


@pytest.mark.parametrize(("sides", "expected"), [(("B[0,0]", "D[0,0]"), "unsat"), (("D[0,0]", "B[0,0]"), "sat")])
def test_two_uses_of_a_network(tmp_path, identity, sides, expected):
    """Inputs in this order: so are outputs. One file is given, by its name, alone, or as VNN-COMP writes pairs."""
    path, results = tmp_path / "q.vnnlib", tmp_path / "r.txt"
    path.write_text(PAIR.format(*sides))
    pairs = f"[('f', '{identity}'), ('g', '{identity}')]"
    for arguments in ((path, "--network", f"f={identity}"), (identity, path), (pairs, path)):
        shown = recurjac("verify", *arguments, "--timeout", 60, "--results-file", results).stdout
        verdict, *assignment = shown.splitlines()
        assert verdict == expected and results.read_text() == shown
        if expected == "sat":
            found = tensors(assignment)
            assert [tensor[:3] for tensor in found] == [(name, "real", (1, 2)) for name in "ABCD"]
            (a, b, c, d) = (np.array(tensor[3]) for tensor in found)
            assert a[1] == c[1] and 0 <= c[0] <= a[0] <= 1 and d[0] < b[0]
            assert np.array_equal(a.astype(np.float32), b) and np.array_equal(c.astype(np.float32), d)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--network", "g={}"), "declares the network `f`, but `--network` gives `g`; give `--network f=FILE`"),
        (("--network", "f={}", "--network", "g={}"), "but `--network` gives `f`, `g`; give `--network f=FILE` and no"),
        (("--network", "f={}", "--certificate", "c.json"), "`--certificate` is for properties of one network"),
    ],
)
def test_files_of_two_networks(tmp_path, identity, arguments, message):
    path = tmp_path / "q.vnnlib"
    path.write_text(PAIR.format("B[0,0]", "D[0,0]"))
    shown = recurjac("verify", path, *(each.format(identity) for each in arguments), code=2)
    assert message in shown.stderr and shown.stdout == ""


@pytest.mark.parametrize("pairs", ["[", "[1, 2]", "[('f',)]", "['ab.onnx"])
def test_lists_of_networks_that_are_none(tmp_path, pairs):
    path = tmp_path / "q.vnnlib"
    path.write_text(PAIR.format("B[0,0]", "D[0,0]"))
    assert "must be a file, or a list like" in recurjac("verify", pairs, path, code=2).stderr


# supports


def supports(capability):
    return recurjac("supports", capability).stdout.splitlines()


def test_every_capability_has_an_answer_of_the_permitted_words():
    permitted = {
        "--onnx-element-types": {"real"},
        "--hidden-node-theories": {"NH", "H"},
        "--multiple-input-output-theories": {"SIO", "MIO"},
        "--multiple-network-theories": {"SNET", "MENET", "MINET", "MNET"},
        "--multiple-node-comparison-theories": {"SNC", "MNC"},
        "--arithmetic-complexity-theories": {"BND", "OUTC", "LIN", "POLY"},
        "--optimised-disjunctive-reasoning": {"true", "false"},
        "--serialise-assignments": {"true", "false"},
    }
    assert len(ANSWERS) == 11
    for capability, words in permitted.items():
        assert set(supports(capability)) <= words
        assert supports(capability)
    oldest, newest = map(int, supports("--onnx-opset-versions"))
    assert oldest < newest <= onnx.defs.onnx_opset_version()
    assert supports("--vnnlib-versions") == ["1.0", "2.0"]
    operators = supports("--onnx-operators")
    assert operators == sorted(set(operators))
    assert {"Relu", "Gemm", "Conv"} <= set(operators)
    assert set(operators) <= {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}


@pytest.mark.parametrize("arguments", [("--onnx-colours",), ("onnx-operators",), ("--name", "--version"), ()])
def test_no_capability(arguments):
    result = recurjac("supports", *arguments, code=2)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_help_lists_the_capabilities():
    shown = "".join(line.strip() for line in recurjac("supports", "--help").stdout.splitlines())
    assert all(capability in shown for capability in ANSWERS)


# what `supports` says of operators and operator sets


@pytest.mark.parametrize("name", sorted(SPECIMENS.keys() | KINDS.keys()))
@pytest.mark.filterwarnings("ignore")  # what torch says about its older exporter
def test_operators_are_supported_where_their_bounds_hold(name, tmp_path):
    reason = probe(model(name, SPECIMENS[name]), tmp_path / "net.onnx")
    assert (reason is None) == (name in supported_operators()), reason


@pytest.mark.parametrize(
    "opset", [n if n in (7, 10, 12, 18, 24) else pytest.param(n, marks=pytest.mark.slow) for n in range(7, 25)]
)
@pytest.mark.filterwarnings("ignore")
def test_operator_sets(opset, tmp_path):
    """A convolutional network, and the operators whose form changed, in every operator set."""
    oldest, newest = opset_versions()
    if not oldest <= opset <= newest:
        pytest.skip(f"{oldest} to {newest} with onnx {onnx.__version__}")
    if opset >= 13:
        for name in ("Conv", "Relu", "Split", "Squeeze", "ReduceSum", "ReduceMean", "Pad", "Clip"):
            if name in supported_operators():
                converted = onnx.version_converter.convert_version(model(name, SPECIMENS[name]), opset)
                assert probe(converted, tmp_path / "net.onnx") is None, name
    else:
        for (name, until), specimen in OLD_FORMS.items():
            if opset <= until and name in supported_operators():
                old = model(name, specimen, opset=opset)
                onnx.checker.check_model(old, full_check=True)
                assert probe(old, tmp_path / "net.onnx") is None, name
