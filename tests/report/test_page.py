"""`recurjac report`: the numbers of its tables, and a page that needs nothing beside it."""

from __future__ import annotations

import base64
import json
import re

import pytest
from bench_runs import PLAN, open_folder, record
from commands import recurjac

from recurjac_plugin.errors import FileError
from recurjac_plugin.report.runs import Answer, Run, named_apart, placed, read_reference, read_run
from recurjac_plugin.report.statistics import charged, common, compared, counts


def run_of(name, *answers):
    """A run with answers (network, result, seconds, boxes, ...)."""
    made = [
        Answer("c", onnx, "p", result, seconds, 60.0, boxes, *more) for onnx, result, seconds, boxes, *more in answers
    ]
    return Run(name, f"/runs/{name}", placed(made))


FIRST = run_of("A", ("a", "unsat", 1.0, 10), ("b", "sat", 2.0, 8), ("c", "timeout", 61.0, 99), ("d", "unknown", 3.0, 1))
SECOND = run_of(
    "B", ("./a.gz", "unsat", 4.0, 40), ("b", "unsat", 1.0, 2, True), ("c", "unsat", 15.0, 9), ("e", "sat", 1.0, 1)
)


def test_counts():
    assert counts(FIRST) == {
        "unsat": 1, "sat": 1, "unknown": 1, "timeout": 1, "error": 0, "missing": 0, "wrong": 0
    }  # fmt: skip
    assert counts(SECOND, "c")["wrong"] == 1
    assert counts(SECOND, "c")["unsat"] == 2
    assert sum(counts(SECOND, "other").values()) == 0


def test_two_runs_by_hand():
    a, b, c = common([FIRST, SECOND])
    assert charged(FIRST, SECOND, a) == 1
    assert charged(FIRST, SECOND, c) == 61  # it took longer than it should have
    assert charged(SECOND, FIRST, b) == 60  # a wrong verdict solves nothing
    pair = compared(FIRST, SECOND)
    assert (pair.instances, pair.both, pair.only_first, pair.only_second) == (3, 1, 1, 1)
    assert pair.totals == (1 + 2 + 61, 4 + 60 + 15)
    assert pair.medians == (2, 15)
    assert pair.time_ratio == pytest.approx((1 / 4 * 2 / 60 * 61 / 15) ** (1 / 3))
    assert pair.boxes_ratio == pytest.approx(10 / 40)
    assert pair.cpu_totals == (None, None)
    assert compared(FIRST, run_of("C", ("z", "sat", 1.0, 1))) is None


def test_an_unknown_limit_is_that_of_the_other_run():
    other = Run("R", "r.csv", placed([Answer("c", "a", "p", "timeout", 5.0)]))
    assert charged(other, FIRST, ("c", "a", "p", 0)) == 60


def test_names_differ():
    runs = [Run("M", "/x/one", {}), Run("M", "/x/two", {}), Run("M", "/y/two", {}), Run("N", "/x/one", {})]
    assert [run.name for run in named_apart(runs)] == ["M (/x/one)", "M (/x/two)", "M (/y/two)", "N"]
    assert [run.name for run in named_apart(runs[:1] * 2)] == ["M (/x/one) [1]", "M (/x/one) [2]"]


@pytest.fixture
def folder(tmp_path):
    """A run of which one instance is not finished."""
    with open_folder(tmp_path / "run") as opened:
        opened.append(
            record(1) | {"boxes": 3, "wrong": True, "expected": "sat", "error": None, "versions": {"torch": "2"}}
        )
    return tmp_path / "run"


def test_a_run_that_is_not_finished(folder):
    run = read_run(folder)
    assert [(each.onnx, each.result, each.wrong) for each in run.answers.values()] == [
        ("a.onnx", "missing", False),
        ("b.onnx", "unsat", True),
    ]
    assert run.details == {"method": "CROWN", "seed": "0", "timeout": "5 s", "torch": "2"}
    assert (run.name, read_run(folder, name="mine").name) == ("run", "mine")
    assert not run.has_cpu
    assert not read_run(folder, {("c", "b.onnx", "b.vnnlib"): "unsat"}).answers["c", "b.onnx", "b.vnnlib", 0].wrong


def write_reference(path, *rows, header="category,onnx,vnnlib,expected,answer,solve_cpu_s,domains"):
    path.write_text("\n".join([header, *rows]))
    return path


def test_reference(tmp_path):
    path = write_reference(
        tmp_path / "ref.csv", "c,a,p,unsat,unsat,0.5,", "c,b,p,sat,unsat,1,7", "c,d,p,unknown,timeout,60,9"
    )
    run = read_reference(path)
    assert run.name == "ref"
    assert [(each.result, each.seconds, each.boxes, each.wrong) for each in run.answers.values()] == [
        ("unsat", 0.5, None, False), ("unsat", 1, 7, True), ("timeout", 60, 9, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("c,a,p,sat,maybe,1,1", "answer `maybe`"),
        ("c,a,p,sat,sat,-1,1", "solve_cpu_s `-1`"),
        ("c,a,p,sat,sat,1,x", "domains"),
    ],
)
def test_bad_reference(tmp_path, row, words):
    with pytest.raises(FileError, match=words):
        read_reference(write_reference(tmp_path / "ref.csv", row))


def test_the_page_needs_nothing_beside_it(folder, tmp_path):
    with open_folder(tmp_path / "other", options={"method": "<IBP & more>", "seed": 0}) as opened:
        opened.append(record(0, result="error", boxes=None, error="no <such> file"))
        opened.append(record(1, result="sat", boxes=12, error=None))
    reference = write_reference(tmp_path / "ref.csv", "c,b.onnx,b.vnnlib,sat,sat,0.25,99", "c,x,x,sat,timeout,1,")
    page = tmp_path / "page.html"
    said = json.loads(
        recurjac("report", folder, tmp_path / "other", "--reference", reference, "--out", page, "--json").stdout
    )
    text = page.read_text()
    assert set(said["pictures"]) == {"solved", "cactus", "times-2", "times-3", "boxes-2", "boxes-3"}
    embedded = [base64.b64decode(each) for each in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    beside = [(tmp_path / f"page-{name}.png").read_bytes() for name in said["pictures"]]
    assert sorted(embedded) == sorted(beside)
    assert all(png.startswith(b"\x89PNG") for png in embedded)
    assert re.findall(r'(?:src|href)="(?!data:)|url\(|@import|https?:', text) == []
    assert "Wrong verdicts" in text
    assert "no &lt;such&gt; file" in text and "&lt;IBP &amp; more&gt;" in text and "<IBP" not in text
    assert "3 instances in 1 category" in text
    assert {each.name for each in tmp_path.glob("page*")} == {"page.html", *(f"page-{n}.png" for n in said["pictures"])}


def test_a_page_about_one_run(folder, tmp_path):
    shown = recurjac("report", folder, "--out", tmp_path / "p.html", "--title", "My <run>").stdout.splitlines()
    assert shown == [str(tmp_path / name) for name in ("p.html", "p-solved.png", "p-cactus.png")]
    assert "My &lt;run&gt;" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("empty", "--out", "p.html"), "holds no results of `recurjac bench`"),
        (("missing", "--out", "p.html"), "holds no results of `recurjac bench`"),
        (("run", "--out", "p.txt"), "must end in .html"),
        (("run", "--out", "run/run.json/p.html"), "cannot be made"),
        (("run", "--out", "p.html", "--name", "a", "--name", "b"), "is given for 2 names, but there is 1 run"),
        (("run", "--out", "p.html", "--reference", "missing.csv"), "`missing.csv` does not exist"),
        (("run", "--out", "p.html", "--expected", "run/results.csv"), "has no column"),
    ],
)
def test_bad_input(folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = recurjac("report", *arguments, code=2)
    (line,) = result.stderr.splitlines()
    assert words in line
    assert not list(tmp_path.glob("p*"))


def test_a_plan_that_something_else_wrote(folder, tmp_path):
    plan = {"options": {}, "instances": [PLAN[0][:2]]}
    (folder / "run.json").write_text(json.dumps(plan))
    assert "is not what this version" in recurjac("report", folder, "--out", tmp_path / "p.html", code=2).stderr


def test_what_is_measured_of_runs_is_shown(tmp_path):
    """Timeouts, CPU beside wall seconds, names, and every instance of every run in one table; folders are made."""
    instances = [[0, "c", "a.onnx", "a_<b>.vnnlib", 5.0], [1, "c", "b.onnx", "b.vnnlib", 7.5]]
    for name, cpu in (("one", 2.25), ("two", 4.5)):
        with open_folder(tmp_path / name, instances=instances) as opened:
            more = {"boxes": 3, "error": None}
            opened.append(record(0) | more | {"vnnlib": "a_<b>.vnnlib", "cpu_seconds": cpu})
            opened.append(record(1, result="timeout") | more | {"cpu_seconds": cpu})
    page = tmp_path / "new" / "folder" / "page.html"
    recurjac("report", tmp_path / "one", tmp_path / "two", "--out", page, "--name", "fast", "--name", "slow")
    text = page.read_text()
    table = text[text.index('id="instances"') :]
    rows = re.findall(r"<tr><td class=\"wrap\">c</td>.*?</tr>", table, re.DOTALL)
    assert len(rows) == 4
    assert 'data-value="1.5">1.500</td><td data-value="2.25">2.250</td><td data-value="5.0">5</td>' in rows[0]
    assert "fast" in rows[0] and "slow" in rows[1] and "a_<wbr>&lt;b&gt;.vnnlib" in rows[0]
    assert "<td>timeout</td>" in text and text.count("5 to 7.5 s") == 2
    assert re.search(r"CPU seconds in total</td><td>4.500</td><td>9.000</td><td>0.5</td>", text)


def test_no_cpu_column_where_no_run_has_it(folder, tmp_path):
    recurjac("report", folder, "--out", tmp_path / "p.html")
    assert "CPU seconds" not in (tmp_path / "p.html").read_text()
