"""`recurjac bench`: every instance exactly once, whatever happens to lists, processes and folders."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import random
import shutil
import signal
import sys
import time

import bench_children
import psutil
import pytest
from bench_runs import OPTIONS, PLAN, QUICK, VERDICTS, lines, open_folder, record, started, table, until
from commands import recurjac
from filelock import FileLock
from places import DATA

import recurjac_plugin.bench.child as child_module
from recurjac_plugin.bench.instances import key, read_expected, read_instances
from recurjac_plugin.bench.local import run_local
from recurjac_plugin.bench.run_folder import read_plan, read_records
from recurjac_plugin.bench.solve import Task
from recurjac_plugin.errors import FileError, InputError


@pytest.fixture
def lists(tmp_path):
    """A folder with a list of instances that has every trap, and one property that belongs to nothing there."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(DATA / "digits_relu_small.vnnlib", folder)
    (folder / "digits_relu.onnx.gz").write_bytes(gzip.compress((DATA / "digits_relu.onnx").read_bytes()))
    (folder / "other.vnnlib").write_text(
        "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n"
        "(assert (>= X_0 0))\n(assert (<= X_0 1))\n(assert (>= Y_0 0))\n"
    )
    rows = (
        "./digits_relu.onnx,digits_relu_small.vnnlib,60",
        "missing.onnx,digits_relu_small.vnnlib,60",
        "digits_relu.onnx,missing.vnnlib,60",
        "digits_relu.onnx,digits_relu_small.vnnlib,0",
        "digits_relu.onnx,digits_relu_small.vnnlib,soon",
        "digits_relu.onnx,digits_relu_small.vnnlib",
        "",
        "digits_relu.onnx,other.vnnlib,60",
    )
    (folder / "instances.csv").write_bytes(b"\xef\xbb\xbf" + "\r".join(rows).encode())
    return folder / "instances.csv"


# lists


def test_every_trap_of_a_list(lists):
    found = read_instances([lists])
    assert [each.category for each in found] == ["mine"] * 7
    assert [each.problem is None for each in found] == [True, False, False, False, False, False, True]
    problems = [each.problem or "" for each in found]
    for number, words in enumerate(("", "missing.onnx", "missing.vnnlib", "timeout `0`", "timeout `soon`", "line 6")):
        assert words in problems[number]
    assert found[0].timeout == 60
    assert [each.number for each in read_instances([lists], only=["*/other.*"])] == [6]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends(tmp_path, end, last):
    path = tmp_path / "instances.csv"
    path.write_bytes((end.join(["a.onnx,a.vnnlib,5", "b.onnx,b.vnnlib,7.5"]) + end * last).encode())
    assert [each.vnnlib for each in read_instances([path])] == ["a.vnnlib", "b.vnnlib"]
    assert [each.timeout for each in read_instances([path], max_timeout=6)] == [5, 6]
    assert [each.timeout for each in read_instances([path], timeout=9)] == [9, 9]


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", ""])
def test_timeouts_that_cannot_be_used(tmp_path, timeout):
    path = tmp_path / "instances.csv"
    path.write_text(f"a.onnx,a.vnnlib,{timeout}\n")
    (found,) = read_instances([path])
    assert "expected a number of seconds above 0" in found.problem
    (found,) = read_instances([path], timeout=3)
    assert found.timeout == 3


def test_same_instance_however_it_is_written():
    assert key("c", "./nets/a.onnx.gz", "p.vnnlib") == key("c", "nets//a.onnx", "./p.vnnlib.gz")
    assert key("c", "a.onnx", "p.vnnlib") != key("d", "a.onnx", "p.vnnlib")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "has no lines"),
        (b"\xff\xfe\x00", "is not a table"),
        (b"category,onnx,expected\n", "has no column vnnlib"),
        (b"category,onnx,vnnlib,expected\na,b\n", "line 2 has 2 fields"),
        (b"category,onnx,vnnlib,expected\na,b,c,sat\na,b,c,unsat\n", "line 3 expects unsat"),
    ],
)
def test_bad_tables_of_answers(tmp_path, content, words):
    path = tmp_path / "expected.csv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=words):
        read_expected(path)


def test_answers(tmp_path):
    path = tmp_path / "expected.csv"
    path.write_text("category,onnx,vnnlib,expected\na,./n.onnx,p.vnnlib,SAT\na,n.onnx,q.vnnlib,unknown\n")
    assert read_expected(path) == {("a", "n.onnx", "p.vnnlib"): "sat"}


# processes


def tasks(count, timeout=0.4):
    limits = {"grace": 0.3, "loading": 0.8}
    return [Task(number, "n", "p", timeout, {"method": "CROWN"}, **limits) for number in range(count)]


def test_misfortunes_cost_one_instance_each(monkeypatch, tmp_path):
    monkeypatch.setattr(child_module.tempfile, "tempdir", str(tmp_path))
    found = {record["number"]: record for record in run_local(tasks(7), jobs=3, solve=bench_children.unwell)}
    assert sorted(found) == list(range(7))
    results = [found[number]["result"] for number in range(7)]
    assert results == ["timeout", "error", "error", "error", "timeout", "timeout", "unsat"]
    assert "Loading was not over after 0.8 s" in found[0]["error"]
    assert "ended by SIGABRT" in found[1]["error"] and "in unwell" in found[1]["log"]
    assert "exit code 3" in found[2]["error"]
    assert "RuntimeError: a bug of our own" in found[3]["error"] and "Traceback" in found[3]["log"]
    assert "0.3 s after the timeout" in found[4]["error"] and 0.7 <= found[4]["run_seconds"] < 5
    assert 0 <= found[4]["cpu_seconds"] <= found[4]["wall_seconds"] + 1
    assert found[1]["cpu_seconds"] is None
    assert (found[5]["late"], found[5]["error"]) == ("unsat", None)
    assert list(tmp_path.glob("recurjac-*")) == []


def test_records_of_processes(capfd):
    found = list(run_local(tasks(3), jobs=2, solve=bench_children.well))
    assert sorted(record["lower_bound"] for record in found) == [0, 1, 2]
    assert capfd.readouterr().out == ""
    for each in found:
        assert each["options"] == {"method": "CROWN"}
        assert (each["host"]["threads"], each["host"]["device"]) == (1, "cpu")
        assert each["versions"]["recurjac_plugin"]
        assert each["wall_seconds"] > 0


def test_a_process_that_may_use_cuda_is_not_forked():
    asked = [dataclasses.replace(task, device=device) for task, device in zip(tasks(2, timeout=60), ("cpu", "cuda"))]
    asked = [dataclasses.replace(task, loading=60.0) for task in asked]
    found = {record["host"]["device"]: record for record in run_local(asked, jobs=2, solve=bench_children.forked)}
    assert {device: (record["result"], record["boxes"]) for device, record in found.items()} == {
        "cpu": ("unsat", 1),
        "cuda": ("unsat", 0),
    }


def test_a_process_for_each_instance_and_none_left():
    records = run_local(tasks(5, timeout=20), jobs=2, solve=bench_children.process_id)
    ids = [next(records)["boxes"], next(records)["boxes"]]
    until(lambda: not any(map(psutil.pid_exists, ids)))
    assert os.getpid() not in ids and ids[0] != ids[1]
    records.close()
    assert [each for each in psutil.Process().children(recursive=True) if each.pid in ids] == []


def test_a_server_that_is_killed_costs_what_runs():
    records = run_local(tasks(6, timeout=20), jobs=1, solve=bench_children.process_id)
    found = [next(records)]
    (server,) = [each for each in psutil.Process().children() if "forkserver" in " ".join(each.cmdline())]
    server.kill()
    found += records
    assert [each["number"] for each in found] == list(range(6))
    assert sum(each["result"] == "error" for each in found) <= 1
    assert found[-1]["result"] == "unsat"


# the command


def test_verdicts_and_everything_measured(tmp_path):
    out = tmp_path / "deep" / "out"
    result = recurjac("bench", DATA / "instances.csv", "--out", out, *QUICK, "--jobs", 2, "--json")
    found = json.loads(result.stdout)
    assert found["categories"][-1] | {"seconds": 0} == {
        "category": "all", "instances": 4, "sat": 2, "unsat": 2, "unknown": 0, "timeout": 0, "error": 0, "wrong": 0,
        "seconds": 0,
    }  # fmt: skip
    assert table(out) == [("data", *names, verdict) for names, verdict in VERDICTS.items()]
    assert result.stderr.count("data/digits_") == 4
    for each in lines(out):
        assert each["solve_seconds"] <= each["run_seconds"] < each["wall_seconds"]
        assert each["prepare_seconds"] > 0
        assert each["cpu_seconds"] > 0
        assert each["peak_memory_bytes"] > 50e6
        assert (each["counterexample"] is not None) == (each["result"] == "sat")
        assert each["boxes"] >= 1
    for option in ((), ("--resume", "--method", "CROWN"), ("--resume", "--seed", 1), ("--resume", "--timeout", 9)):
        before = (out / "results.jsonl").read_bytes()
        refused = recurjac("bench", DATA / "instances.csv", "--out", out, *QUICK, *option, code=2)
        assert len(refused.stderr.splitlines()) == 1
        assert (out / "results.jsonl").read_bytes() == before
    again = recurjac("bench", DATA / "instances.csv", "--out", out, *QUICK, "--resume")
    assert "4 of 4 instances finished before" in again.stderr
    assert (out / "results.jsonl").read_bytes() == before


def test_bad_instances_cost_nothing_but_themselves(lists, tmp_path):
    expected = tmp_path / "expected.csv"
    expected.write_text("category,onnx,vnnlib,expected\nmine,digits_relu.onnx,digits_relu_small.vnnlib,sat\n")
    out = tmp_path / "out"
    result = recurjac("bench", lists, "--out", out, "--expected", expected, code=1)
    assert [row[3] for row in table(out)] == ["unsat", *["error"] * 6]
    assert [record["wrong"] for record in sorted(lines(out), key=lambda each: each["number"])] == [True, *[False] * 6]
    assert "WRONG VERDICT mine/digits_relu.onnx, digits_relu_small.vnnlib: unsat, expected sat" in result.stderr
    errors = {record["number"]: record["error"] for record in lines(out)}
    assert "1 input" in errors[6] and "other.vnnlib" in errors[6]
    assert all("\n" not in error for number, error in errors.items() if number)
    # Without the file the judgements stand; with another they are made anew.
    recurjac("bench", lists, "--out", out, "--resume", code=1)
    expected.write_text(expected.read_text().replace(",sat", ",unsat"))
    recurjac("bench", lists, "--out", out, "--resume", "--expected", expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.csv",), "`missing.csv` does not exist"),
        (("i.csv", "i.csv"), "given twice"),
        (("i.csv", "--only", "nothing*"), "None of 1 instance matches"),
        (("i.csv", "--timeout", "0"), "must be more than 0"),
        (("i.csv", "--max-timeout", "nan"), "finite number of seconds"),
        (("i.csv", "--grace", "-1"), "--grace"),
        (("i.csv", "--jobs", "0"), "--jobs"),
        (("i.csv", "--method", "CROWNS"), "Unknown method"),
        (("i.csv", "--device", "cuda:99"), "`--device` is 'cuda:99', but torch sees"),
        (("i.csv", "--expected", "i.csv"), "has no column"),
        (("i.csv", "--scheduler", "tcp://127.0.0.1:1", "--jobs", "2"), "--jobs"),
        (("i.csv", "--scheduler", "nowhere://"), "No Dask scheduler answers"),
    ],
)
def test_bad_options_leave_nothing_behind(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / "digits_relu.onnx", tmp_path)
    shutil.copy(DATA / "digits_relu_small.vnnlib", tmp_path)
    (tmp_path / "i.csv").write_text("digits_relu.onnx,digits_relu_small.vnnlib,5")
    before = sorted(os.listdir())
    result = recurjac("bench", *arguments, "--out", "out", code=2)
    (line,) = result.stderr.splitlines()
    assert words in line
    assert sorted(os.listdir()) == before


# the folder


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_cut_off_and_its_instance_run_again(tmp_path, cut):
    with open_folder(tmp_path / "out") as folder:
        folder.append(record(0, lower_bound=-float("inf")))
        folder.append(record(1))
    path = tmp_path / "out" / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with open_folder(tmp_path / "out") as folder:
        assert folder.finished == {0}
        assert folder.records[0]["lower_bound"] is None
        folder.append(record(1))
    assert path.read_bytes() == whole
    assert [row[1] for row in table(tmp_path / "out")] == ["a.onnx", "b.onnx"]


@pytest.mark.parametrize(
    ("content", "words"), [("no json\n", "line 1 is no record"), ("[1]\n", "no record"), ("{}\n", "no record"),
                           ('{"number": 0, "result": "maybe"}\n', "no record"),
                           ('{"number": 0, "result": []}\n', "no record"),
                           ('{"number": 0, "run_seconds": "1"}\n', "no record"),
                           ('{"number": 0, "cpu_seconds": []}\n', "no record"),
                           ('{"number": 0, "versions": null}\n', "no record"),
                           ('{"number": 0, "host": "x"}\n', "no record"),
                           ('{"number": 0}\n{"number": 0}\n', "line 2 is a second record")]
)  # fmt: skip
def test_damage_that_no_kill_does_is_refused(tmp_path, content, words):
    with open_folder(tmp_path):
        pass
    (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(FileError, match=words), open_folder(tmp_path):
        pass
    assert (tmp_path / "results.jsonl").read_text() == content


@pytest.mark.parametrize("plan", ["[]", "null", '{"options": {}}', '{"options": {}, "instances": []}'])
def test_plans_without_instances_are_refused(tmp_path, plan):
    (tmp_path / "run.json").write_text(plan)
    with pytest.raises(FileError, match="is not what `recurjac bench` writes"):
        read_plan(tmp_path)


def test_folders_that_are_not_for_us(tmp_path):
    with open_folder(tmp_path / "run", resume=False), pytest.raises(FileError, match="in use by another"):
        open_folder(tmp_path / "run").__enter__()
    for options, instances in (
        ({**OPTIONS, "seed": 1}, PLAN),
        (OPTIONS, PLAN[:1]),
        ({**OPTIONS, "branching": "c"}, PLAN),
    ):
        with pytest.raises(InputError, match="was begun with"):
            open_folder(tmp_path / "run", options=options, instances=instances).__enter__()
    with pytest.raises(InputError, match="add --resume"):
        open_folder(tmp_path / "run", resume=False).__enter__()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.csv").write_text("mine")
    with pytest.raises(FileError, match=r"no run\.json"):
        open_folder(tmp_path / "other").__enter__()
    assert (tmp_path / "other" / "results.csv").read_text() == "mine"
    for path in (tmp_path / "other" / "results.csv", tmp_path / "other" / "results.csv" / "out"):
        with pytest.raises(FileError, match="cannot be written to"):
            open_folder(path).__enter__()


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(FileError, match="Permission denied"):
        open_folder(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_second_bench_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        result = recurjac("bench", DATA / "instances.csv", "--out", tmp_path / "out", code=2)
    assert "in use by another `recurjac bench`" in result.stderr
    assert os.listdir(tmp_path / "out") in ([], [".lock"])


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with open_folder(tmp_path / "out") as folder:
        folder.append(record(0))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match=r"results\.jsonl` cannot be written: No space left.*--resume"):
            folder.append(record(1))
        monkeypatch.undo()


# killed


def kill_after(process, out, records, delay):
    """SIGKILL some time after so many results; its processes go with it."""
    path = out / "results.jsonl"
    until(lambda: process.poll() is not None or (path.exists() and path.read_bytes().count(b"\n") >= records))
    time.sleep(delay)
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def check_killed_runs(tmp_path, kills, only):
    """Kill a run some times, resume it each time, and compare the end with an undisturbed run."""
    arguments = (DATA / "instances.csv", *only, "--attack-seconds", 1, "--jobs", 2, "--max-timeout", 20)
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    for i, (records, delay) in enumerate(kills):
        kill_after(started(*arguments, "--out", killed, *["--resume"] * bool(i)), killed, records, delay)
    last = started(*arguments, "--out", killed, "--resume")
    text, _ = last.communicate(timeout=120)
    assert last.returncode == 0, text
    recurjac("bench", *arguments, "--out", undisturbed)
    assert table(killed) == table(undisturbed)
    numbers = [each["number"] for each in lines(killed)]
    assert sorted(numbers) == sorted(set(numbers)) == sorted(each["number"] for each in lines(undisturbed))
    keep = ("number", "result", "lower_bound", "boxes", "counterexample")  # how far one came when time was over varies
    same = [
        {each["number"]: [each[k] for k in keep[: 2 if each["result"] == "timeout" else None]] for each in lines(out)}
        for out in (killed, undisturbed)
    ]
    assert same[0] == same[1]
    return text


def test_killed_twice_in_a_row(tmp_path):
    seed = random.randrange(2**32)
    sys.stdout.write(f"random.Random({seed})\n")  # shown if the test fails
    delays = random.Random(seed)
    text = check_killed_runs(tmp_path, [(n, delays.uniform(0, 0.4)) for n in (0, 2)], QUICK)
    assert "instances finished before" in text


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment(tmp_path, seed):
    delays = random.Random(seed)
    check_killed_runs(tmp_path, [(0, delays.uniform(0, 8)) for _ in range(3)], ())


def test_a_worker_that_is_stopped_and_one_that_is_killed(tmp_path):
    out = tmp_path / "out"
    limits = ("--timeout", 5, "--grace", 1, "--load-timeout", 5, "--jobs", 3)
    run = started(DATA / "instances.csv", "--out", out, "--only", "*_small*", *limits)
    workers = {}

    def three():
        with contextlib.suppress(psutil.NoSuchProcess):
            for server in psutil.Process(run.pid).children():
                workers.update({each.pid: each for each in server.children()})
        return len(workers) == 3

    until(three)
    stopped, killed, _ = (workers[pid] for pid in sorted(workers))
    stopped.send_signal(signal.SIGSTOP)
    killed.kill()
    text, _ = run.communicate(timeout=180)
    assert run.returncode == 0, text
    by_result = sorted(lines(out), key=lambda each: str(each["error"]))
    assert sum("SIGKILL (by the system where memory runs out)" in str(each["error"]) for each in by_result) == 1
    assert sum("its process was killed" in str(each["error"]) for each in by_result) == 1
    assert len(by_result) == 3 and sum(each["error"] is None for each in by_result) == 1
    assert read_records(out) == lines(out)


@pytest.mark.slow
def test_a_user_may_stop_it(tmp_path):
    out = tmp_path / "out"
    run = started(DATA / "instances.csv", "--out", out, *QUICK)
    path = out / "results.jsonl"
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 1)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "go on with --resume" in text and "Traceback" not in text
    assert psutil.wait_procs(family, timeout=10)[1] == []


@pytest.mark.slow
def test_category_test(vnncomp, tmp_path):
    answers = vnncomp / "expected.csv"
    out = tmp_path / "out"
    recurjac("bench", vnncomp / "test" / "instances.csv", "--out", out, "--expected", answers, "--timeout", 60)
    assert [row[3] for row in table(out)] == ["unsat", "unsat", "unsat", "sat", "unsat"]
    assert {each["expected"] for each in lines(out)} == {"sat", "unsat"}
