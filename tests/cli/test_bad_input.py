"""Bad input is one line on stderr and exit code 2, whatever the command."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from commands import CNN, RELU, SMALL, process, recurjac
from places import DATA


@pytest.fixture(scope="session")
def broken(tmp_path_factory):
    """Files that are not what a command needs, in the folder in which the commands are run."""
    folder = tmp_path_factory.mktemp("broken")
    content = Path(RELU).read_bytes()
    (folder / "truncated.onnx").write_bytes(content[: len(content) // 2])
    (folder / "text.onnx").write_text("not a network")
    (folder / "damaged.onnx.gz").write_bytes(gzip.compress(content)[:-20])
    (folder / "empty.onnx").write_bytes(b"")
    prop = Path(SMALL).read_text()
    (folder / "syntax.vnnlib").write_text(prop.replace("(assert (>= X_0", "(assert (>= X_0 (", 1))
    lines = prop.splitlines()
    (folder / "unbounded.vnnlib").write_text("\n".join(line for line in lines if "(<= X_5 " not in line))
    np.save(folder / "nan.npy", np.full(64, np.nan))
    np.save(folder / "shape.npy", np.zeros((3, 3)))
    np.save(folder / "none.npy", np.zeros((0, 64)))
    np.save(folder / "words.npy", np.array(["a"] * 64))
    np.save(folder / "objects.npy", np.array([None] * 64), allow_pickle=True)
    np.save(folder / "x.npy", np.zeros(64))
    np.savez(folder / "archive.npz", x=np.zeros(64))
    (folder / "text.npy").write_text("1 2 3")
    return folder


BAD = [
    ("nonsense", "No such command"),
    ("verify", "Missing argument 'MODEL PROP | QUERY"),
    (f"verify {RELU}", "expected a network and a property, or a query with"),
    (f"verify {RELU} {SMALL} --nonsense", "No such option"),
    (f"verify missing.onnx {SMALL}", "`missing.onnx` does not exist"),
    (f"verify {DATA} {SMALL}", "is a directory"),
    (f"verify truncated.onnx {SMALL}", "`truncated.onnx`"),
    (f"verify text.onnx {SMALL}", "`text.onnx`"),
    (f"verify damaged.onnx.gz {SMALL}", "`damaged.onnx.gz`"),
    (f"verify empty.onnx {SMALL}", "`empty.onnx` is empty"),
    (f"verify {RELU} missing.vnnlib", "`missing.vnnlib` does not exist"),
    (f"verify {RELU} syntax.vnnlib", "`syntax.vnnlib`"),
    (f"verify {RELU} unbounded.vnnlib", "X_5"),
    (f"verify {RELU} {SMALL} --method CROWNS", "Unknown method `CROWNS`"),
    (f"verify {RELU} {SMALL} --timeout 0", "`--timeout` must be more than 0"),
    (f"verify {RELU} {SMALL} --timeout -3", "`--timeout` must be a finite number"),
    (f"verify {RELU} {SMALL} --timeout soon", "'--timeout'"),
    (f"verify {RELU} {SMALL} --attack-seconds nan", "`--attack-seconds` must be a finite number"),
    (f"verify {RELU} {SMALL} --seed -1", "'--seed'"),
    (f"verify {RELU} {SMALL} --dtype float16", "'--dtype'"),
    (f"verify {RELU} {SMALL} --device tpu", "`--device` is 'tpu'"),
    (f"verify {RELU} {SMALL} --device meta", "`--device` is 'meta'"),
    (f"verify {RELU} {SMALL} --device cuda:99", "`--device` is 'cuda:99', but torch sees"),
    (f"verify {RELU} {SMALL} --results-file missing/r.txt", "its directory does not exist"),
    (f"verify {RELU} {SMALL} --results-file .", "`.` is a directory"),
    (f"jacobian {RELU}", "`--vnnlib` or `--input` must be given"),
    (f"jacobian {RELU} --vnnlib {SMALL} --input x.npy", "only one of them"),
    (f"jacobian {RELU} --vnnlib {SMALL} --eps 0.1", "`--eps` goes with `--input`"),
    (f"jacobian {RELU} --vnnlib {SMALL} --norm 2", "`--norm` goes with `--input`"),
    (f"jacobian {RELU} --input x.npy", "`--eps` goes with `--input`"),
    (f"jacobian {RELU} --input x.npy --eps -0.1", "`--eps` must be a finite radius"),
    (f"jacobian {RELU} --input x.npy --eps inf", "`--eps` must be a finite radius"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --norm 3", "`--norm` is '3'"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --method CROWN", "`CROWN` gives no Jacobian bounds"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --out missing/J.npz", "its directory does not exist"),
    (f"jacobian {RELU} --input missing.npy --eps 0.1", "`missing.npy` does not exist"),
    (f"jacobian {RELU} --input nan.npy --eps 0.1", "`nan.npy` contains NaN"),
    (f"jacobian {RELU} --input shape.npy --eps 0.1", "`shape.npy` has shape (3, 3), but the network takes (64,)"),
    (f"jacobian {RELU} --input none.npy --eps 0.1", "`none.npy` has shape (0, 64)"),
    (f"jacobian {RELU} --input words.npy --eps 0.1", "`words.npy` holds <U1"),
    (f"jacobian {RELU} --input objects.npy --eps 0.1", "`objects.npy` is not a NumPy array"),
    (f"jacobian {RELU} --input archive.npz --eps 0.1", "`archive.npz` is an archive"),
    (f"jacobian {RELU} --input text.npy --eps 0.1", "`text.npy` is not a NumPy array"),
    (f"jacobian {CNN} --input x.npy --eps 0.1 --plot p.bmp", "`--plot` must end in .png"),
    (f"jacobian {CNN} --input x.npy --eps 0.1 --plot missing/p.png", "its directory does not exist"),
    (f"jacobian {CNN} --input x.npy --eps 0.1 --plot p.png --output 10", "`--output` must be from 0 to 9"),
    (f"jacobian {CNN} --input x.npy --eps 0.1 --plot p.png --out .", "`.` is a directory"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --plot p.png --image-shape 8,9", "`--image-shape` is (8, 9)"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --plot p.png --image-shape 8x8", "`--image-shape` must be H,W"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --plot p.png --image-shape 16,2,2", "up to 4 channels, got 16"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --image-shape 8,8", "`--image-shape` goes with `--plot`"),
    (f"monotone {RELU}", "`--vnnlib` or `--input` must be given"),
    (f"monotone {RELU} --input x.npy", "`--eps` goes with `--input`"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 64", "`--feature` must be from 0 to 63"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature -1", "`--feature` must be from 0 to 63"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature one", "'--feature'"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --range 0,1", "`--range` goes with `--feature`"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 1,0", "`--range` is inverted: 1 is above 0"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 1", "`--range` must be two numbers"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 0,1,2", "`--range` must be two numbers"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 0,nan", "`--range` must have finite ends"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 0,1e99", "`--range` does not fit"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --norm 2 --feature 0 --range 0,1", "`--range` needs a box"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --norm 1 --timeout 1", "`--timeout` needs a box"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --norm 2 --max-boxes 9", "`--max-boxes` needs a box"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --timeout 0", "`--timeout` must be a finite number of seconds above 0"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --max-boxes 0", "'--max-boxes'"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --samples -1", "'--samples'"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --method CROWN", "`CROWN` gives no Jacobian bounds"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --csv missing/t.csv", "its directory does not exist"),
    (f"monotone {RELU} --input nan.npy --eps 0.1", "`nan.npy` contains NaN"),
    (f"lipschitz {RELU} --input x.npy", "Missing option '--eps'"),
    (f"lipschitz {RELU} --eps 0.1", "`--vnnlib` or `--input` must be given"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1,,0.2", "without gaps"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1,a", "must be a list of numbers"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1,-1", "must be a finite radius"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --methods RecurJac,Nope", "Unknown method `Nope`"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --methods CROWN", "`CROWN` gives no Jacobian bounds"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --input-norm 3", "`--input-norm` is '3'"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --output-norm 0", "`--output-norm` is '0'"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --samples -1", "'--samples'"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --steps -1", "'--steps'"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --plot p.bmp", "`--plot` must end in .png"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --csv missing/t.csv", "its directory does not exist"),
    (f"compare {RELU} {SMALL} --methods RecurJac,", "without gaps"),
    (f"compare {RELU} {SMALL} --timeout 0", "`--timeout` must be more than 0 seconds"),
    (f"compare {RELU} {SMALL} --branching widest", "'--branching'"),
    (f"verify {RELU} {SMALL} --branching widest", "'--branching'"),
    (f"compare {RELU} {SMALL} --plot p", "`--plot` must end in .png"),
    (f"compare {CNN} missing.vnnlib", "`missing.vnnlib` does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_code_2(broken, monkeypatch, arguments, message):
    monkeypatch.chdir(broken)
    before = sorted(os.listdir())
    result = recurjac(*arguments.split(), code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert sorted(os.listdir()) == before


def test_property_of_another_network(tmp_path):
    other = tmp_path / "p.vnnlib"
    other.write_text(
        "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n"
        "(assert (>= X_0 0))\n(assert (<= X_0 1))\n(assert (>= Y_0 0))\n"
    )
    for arguments in (("verify", RELU, other), ("compare", RELU, other), ("jacobian", RELU, "--vnnlib", other)):
        assert "has 1 input and 1 output, but the network 64 and 10" in recurjac(*arguments, code=2).stderr


def test_bad_input_to_a_process_leaves_no_traceback():
    shown = process("verify", "missing.onnx", SMALL)
    assert (shown.returncode, shown.stdout) == (2, "")
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: `missing.onnx`")


def test_operator_norm_is_no_method_over_a_region():
    for command in ("jacobian", "verify", "compare"):
        prop = ("--vnnlib", SMALL) if command == "jacobian" else (SMALL,)
        option = "--methods" if command == "compare" else "--method"
        message = recurjac(command, RELU, *prop, option, "Operator-Norm", code=2).stderr
        assert "`Operator-Norm` bounds Lipschitz constants on the whole space" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("radius",), "--input"),
        (("radius", "--norm", "3"), "--norm"),
        (("radius", "--labels", "10"), "contains 10"),
        (("radius", "--labels", "1,2"), "2 classes for 1 input;"),
        (("radius", "--labels", "one"), "--labels"),
        (("radius", "--target", "worst"), "runner-up"),
        (("radius", "--target", "12"), "0 to 9"),
        (("radius", "--steps", "0"), "--steps"),
        (("radius", "--limit", "-1"), "limit"),
        (("radius", "--initial", "nan"), "initial"),
        (("radius", "--clip", "1,0"), "--clip"),
        (("radius", "--clip", "1"), "--clip"),
        (("radius", "--clip", "a,b"), "--clip"),
        (("radius", "--clip", "40,50"), "outside"),
        (("radius", "--methods", "Nonsense"), "Unknown method"),
        (("landscape", "--output", "10"), "0 to 9"),
        (("landscape", "--methods", "CROWN"), "no Jacobian bounds"),
        (("landscape", "--points", "1"), "--points"),
        (("landscape", "--tolerance", "0"), "tolerance"),
        (("landscape", "--max-probes", "0"), "max_probes"),
        (("landscape", "--plot", "p.txt"), "--plot"),
    ],
)
def test_bad_radii(arguments, words, image):
    command, *rest = arguments
    where = () if not rest and words == "--input" else ("--input", image)
    result = recurjac(command, RELU, *where, *rest, code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize("command", ["radius", "landscape"])
def test_bad_inputs_of_radii(command, tmp_path):
    arrays = {"empty": np.zeros((0, 64)), "nan": np.full(64, np.nan), "text": np.array(["a"]), "other": np.zeros(63)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        recurjac(command, RELU, "--input", tmp_path / f"{name}.npy", code=2)
    (tmp_path / "nothing.npy").write_bytes(b"")
    assert "nothing.npy" in recurjac(command, RELU, "--input", tmp_path / "nothing.npy", code=2).stderr
