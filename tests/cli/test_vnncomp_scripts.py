"""The scripts that the VNN-COMP harness calls, run as it runs them."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import DATA, ROOT

from recurjac_plugin import load_vnnlib
from recurjac_plugin.networks.onnx import onnx_session

SCRIPTS = ROOT / "examples" / "vnncomp"
RELU, SMALL, LARGE = DATA / "digits_relu.onnx", DATA / "digits_relu_small.vnnlib", DATA / "digits_relu_large.vnnlib"


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def command(tmp_path):
    """recurjac as it is in this checkout."""
    inside = tmp_path / "bin"
    inside.mkdir()
    return executable(
        inside / "recurjac",
        f"#!/bin/sh\nPYTHONPATH='{ROOT}' OMP_NUM_THREADS=1 exec '{sys.executable}' -m recurjac_plugin.cli \"$@\"\n",
    )


def run(script, *arguments, command=None, **environment):
    given = {"RECURJAC": str(command)} if command else {}
    return subprocess.run(
        [SCRIPTS / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **given, **environment},
        cwd="/",
        check=False,
    )


def run_instance(results, command, *, onnx=RELU, vnnlib=SMALL, timeout: object = 60, **environment):
    return run("run_instance.sh", "v1", "digits", onnx, vnnlib, results, timeout, command=command, **environment)


def test_compressed_files_listed_without_gz_and_with_carriage_returns(tmp_path, command):
    folder = tmp_path / "a folder"
    folder.mkdir()
    for source in (RELU, LARGE):
        (folder / f"{source.name}.gz").write_bytes(gzip.compress(source.read_bytes()))
    files = f"{folder / RELU.name}\r", f"{folder / LARGE.name}\r"
    assert run("prepare_instance.sh", "v1\r", "digits\r", *files, command=command).returncode == 0
    options = {"timeout": "60\r", "RECURJAC_OPTIONS": "--attack-seconds 20 --seed 1"}
    done = run_instance(folder / "result.txt\r", command, onnx=files[0], vnnlib=files[1], **options)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.iterdir())) == 3
    verdict, assignment = (folder / "result.txt").read_text().split("\n", 1)
    assert verdict == "sat"
    assert re.fullmatch(r"\((\([XY]_\d+ \S+\)\s*)+\)", assignment.strip())
    values = dict(re.findall(r"\(([XY]_\d+) ([^)\s]+)\)", assignment))
    x, y = (np.array([float(v) for name, v in values.items() if name[0] == side]) for side in "XY")
    assert load_vnnlib(LARGE).violated(x, y)
    assert np.array_equal(onnx_session(RELU)(x[None])[0].astype(np.float64), y)


def test_time_that_passed_before_the_solver_started_counts(tmp_path, command):
    late = executable(tmp_path / "late", f"#!/bin/sh\nsleep 1.1\nexec '{command}' \"$@\"\n")
    done = run_instance(tmp_path / "r.txt", late, timeout=1)
    assert (done.returncode, (tmp_path / "r.txt").read_text()) == (0, "timeout\n")


def test_acas_xu(tmp_path, command, vnncomp):
    folder = vnncomp / "acasxu"
    files = folder / "ACASXU_run2a_1_1_batch_2000.onnx", folder / "prop_3.vnnlib"
    options = {"timeout": 116, "RECURJAC_OPTIONS": "--attack-seconds 0"}
    done = run_instance(tmp_path / "r.txt", command, onnx=files[0], vnnlib=files[1], **options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.txt").read_text() in ("unsat\n", "unknown\n")  # it holds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"onnx": "/nowhere/n.onnx"}, "`/nowhere/n.onnx` does not exist: expected an ONNX network; check the path."),
        ({"vnnlib": "/nowhere/p.vnnlib.gz"}, "`/nowhere/p.vnnlib.gz` does not exist: expected a VNN-LIB property"),
        ({"timeout": "0"}, "got the timeout `0`, expected a positive number of seconds."),
        ({"timeout": "0.00"}, "got the timeout `0.00`"),
        ({"timeout": "soon"}, "got the timeout `soon`"),
        ({"timeout": "-3"}, "got the timeout `-3`"),
        ({"timeout": ""}, "got the timeout ``"),
    ],
)
def test_bad_input_is_an_error_in_the_results(tmp_path, arguments, message):
    results = tmp_path / "r.txt"
    results.write_text("unsat\n")  # of another run
    done = run_instance(results, "true", **arguments)
    assert done.returncode != 0
    assert done.stderr.startswith(f"run_instance.sh: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == ["r.txt"]
    assert results.read_text() == "error\n"


def test_places_that_cannot_be_written(tmp_path):
    for place, message in ((tmp_path, "is a folder"), (tmp_path / "none" / "r.txt", "cannot be written")):
        done = run_instance(place, "true")
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert message in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_no_network(tmp_path, command):
    (tmp_path / "n.onnx").write_text("not ONNX")
    done = run_instance(tmp_path / "r.txt", command, onnx=tmp_path / "n.onnx")
    assert done.returncode == 2
    assert "is not an ONNX network" in done.stderr
    assert (tmp_path / "r.txt").read_text() == "error\n"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("install_tool.sh", ()),
        ("install_tool.sh", ("v2",)),
        ("prepare_instance.sh", ("v1", "digits", RELU)),
        ("prepare_instance.sh", ("v2", "digits", RELU, SMALL)),
        ("prepare_instance.sh", ("v1", "digits", "/nowhere/n.onnx", SMALL)),
        ("prepare_instance.sh", ("v1", "digits", RELU, "/nowhere/p.vnnlib")),
        ("run_instance.sh", ("v1", "digits", RELU, SMALL, "r.txt")),
        ("run_instance.sh", ("v0", "digits", RELU, SMALL, "r.txt", "60")),
    ],
)
def test_wrong_arguments(script, arguments):
    done = run(script, *arguments, command="true", PYTHON="false")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(f"{script}: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_instance_is_skipped_where_recurjac_does_not_run(tmp_path):
    for broken, code in ((executable(tmp_path / "broken", "#!/bin/sh\nexit 3\n"), 3), (tmp_path / "missing", 1)):
        assert run("prepare_instance.sh", "v1", "digits", RELU, SMALL, command=broken).returncode == code


@pytest.mark.parametrize(("ending", "code"), [("exit 1", 1), ("kill -SEGV $$", 139), ("kill -KILL $$", 137)])
def test_a_solver_that_dies(tmp_path, ending, code):
    dying = executable(tmp_path / "dying", f"#!/bin/bash\n{ending}\n")
    assert run_instance(tmp_path / "r.txt", dying).returncode == code
    assert (tmp_path / "r.txt").read_text() == "error\n"


@pytest.mark.skipif(shutil.which("timeout") is None, reason="no `timeout` of coreutils here")
def test_a_solver_that_hangs_is_ended_and_nothing_else(tmp_path):
    hanging = executable(tmp_path / "hanging", "#!/bin/bash\nexec sleep 1000\n")
    with subprocess.Popen([hanging]) as other:
        try:
            done = run_instance(tmp_path / "r.txt", hanging, timeout=1, RECURJAC_GRACE="0")
            assert (done.returncode, (tmp_path / "r.txt").read_text()) == (0, "timeout\n")
            assert other.poll() is None
        finally:
            other.kill()


def test_install_uses_the_pinned_set_and_leaves_the_hosts_own_ranges_out(tmp_path):
    """With an interpreter that writes down what it is asked for."""
    noted = tmp_path / "calls"
    fake = f"#!/bin/bash\nprintf '%s\\n' \"$*\" >>'{noted}'\n"
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    for name in ("python", "recurjac"):
        executable(venv / name, fake)
    python = executable(tmp_path / "python", fake)
    done = run("install_tool.sh", "v1", PYTHON=str(python), RECURJAC_VENV=str(venv.parent), AUTO_LIRPA="the-host==1")
    assert done.returncode == 0, done.stderr
    assert noted.read_text().splitlines() == [
        f"-m venv {venv.parent}",
        f"-m pip install --quiet -c {ROOT}/constraints.txt {ROOT}[cli,host,onnx]",
        "-m pip install --quiet --no-deps --no-build-isolation the-host==1",
        "doctor",
    ]


def test_shellcheck_has_no_remarks():
    found = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("shellcheck is not installed")
    scripts = sorted(SCRIPTS.glob("*.sh"))
    assert len(scripts) == 4
    done = subprocess.run([found, "-x", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
