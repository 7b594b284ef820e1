"""`recurjac bench --scheduler`: the same run on a Dask cluster whose workers die."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import psutil
import pytest
from bench_runs import lines, started, table, until
from commands import recurjac
from places import DATA
from processes import environment

ONLY = ("--only", "*_small*", "--only", "*relu_large*", "--only", "*cnn_large*")
ANSWERS = [("data", "unsat"), ("data", "sat"), ("data", "unsat"), ("data", "unsat"), ("data", "sat")]


class Cluster:
    """A scheduler and workers, each a process with a nanny, as `dask scheduler` and `dask worker` start them."""

    def __init__(self, folder, **settings):
        self._file = folder / "scheduler.json"
        self._env = environment(**settings)
        self._processes = [self._start("scheduler", "--host", "127.0.0.1", "--port", "0")]
        until(self._file.exists)
        self.address = json.loads(self._file.read_text())["address"]

    def _start(self, what, *arguments):
        log = self._file.with_name(f"{what}.log").open("ab")
        with log:
            command = [sys.executable, "-m", "distributed.cli.dask_" + what, *arguments, "--no-dashboard"]
            command += ["--scheduler-file", str(self._file)]
            return subprocess.Popen(command, env=self._env, stdout=log, stderr=log, cwd=self._file.parent)

    def add_worker(self):
        """Start one more; returns its nanny."""
        self._processes.append(self._start("worker", "--nthreads", "1", "--nworkers", "1"))
        return psutil.Process(self._processes[-1].pid)

    def close(self):
        family = [each for one in self._processes for each in psutil.Process(one.pid).children(recursive=True)]
        for process in (*self._processes, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._processes:
            process.wait(30)


@contextlib.contextmanager
def cluster(folder, workers, **settings):
    made = Cluster(folder, **settings)
    try:
        yield made, [made.add_worker() for _ in range(workers)]
    finally:
        made.close()


def busy(nanny):
    """The worker of a nanny, if an instance is being solved on it: worker - fork server - instance."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for worker in nanny.children():
            if any(server.children() for server in worker.children()):
                return worker
    return None


def test_a_worker_killed_in_the_middle_loses_nothing(tmp_path):
    out = tmp_path / "out"
    with cluster(tmp_path, workers=2) as (made, nannies):
        run = started("--scheduler", made.address, DATA / "instances.csv", "--out", out, *ONLY)
        until(lambda: run.poll() is not None or (busy(nannies[0]) and busy(nannies[1])))
        worker = busy(nannies[1])
        assert worker is not None
        worker.kill()
        text, _ = run.communicate(timeout=120)
    assert run.returncode == 0, text
    assert [(row[0], row[3]) for row in table(out)] == ANSWERS
    assert len(lines(out)) == len(ANSWERS)
    assert {record["host"]["threads"] for record in lines(out)} == {1}
    assert len({record["host"]["dask_worker"] for record in lines(out)}) >= 1


@pytest.mark.slow
def test_an_instance_that_kills_each_worker_is_an_error(tmp_path):
    out = tmp_path / "out"
    with cluster(tmp_path, workers=1, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1") as (made, (nanny,)):
        run = started("--scheduler", made.address, DATA / "instances.csv", "--out", out, "--only", "*tanh_small*")
        dead = set()
        for _ in range(2):
            until(lambda: run.poll() is not None or ((worker := busy(nanny)) and worker.pid not in dead))
            worker = busy(nanny)
            dead.add(worker.pid)
            worker.kill()
        text, _ = run.communicate(timeout=120)
    assert run.returncode == 0, text
    (record,) = lines(out)
    assert record["result"] == "error"
    assert "worker died each time" in record["error"]


@pytest.mark.slow
def test_a_killed_run_goes_on_elsewhere(tmp_path):
    out = tmp_path / "out"
    with cluster(tmp_path, workers=1) as (made, _):
        run = started("--scheduler", made.address, DATA / "instances.csv", "--out", out, *ONLY)
        until(lambda: (out / "results.jsonl").exists() and lines(out))
        run.kill()
        run.communicate()
    recurjac("bench", DATA / "instances.csv", "--out", out, *ONLY, "--resume")
    assert [(row[0], row[3]) for row in table(out)] == ANSWERS
    assert len(lines(out)) == len(ANSWERS)


@pytest.mark.slow
def test_a_scheduler_that_dies_is_said(tmp_path):
    out = tmp_path / "out"
    with cluster(tmp_path, workers=1) as (made, (nanny,)):
        os.environ["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "2s"
        try:
            run = started("--scheduler", made.address, DATA / "instances.csv", "--out", out, *ONLY)
        finally:
            del os.environ["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"]
        until(lambda: busy(nanny))
        made._processes[0].kill()
        text, _ = run.communicate(timeout=120)
    assert run.returncode == 2, text
    assert "is gone" in text and "--resume" in text and "Traceback" not in text


@pytest.mark.slow
def test_workers_without_the_package_are_refused(tmp_path):
    with cluster(tmp_path, workers=0) as (made, _):
        # Another recurjac_plugin, without what is needed, comes first on the path of the worker.
        (tmp_path / "shadow" / "recurjac_plugin").mkdir(parents=True)
        (tmp_path / "shadow" / "recurjac_plugin" / "__init__.py").touch()
        made._env["PYTHONPATH"] = str(tmp_path / "shadow")
        made.add_worker()
        out = tmp_path / "out"
        result = recurjac("bench", "--scheduler", made.address, DATA / "instances.csv", "--out", out, code=2)
    (line,) = result.stderr.splitlines()
    assert "1 of 1 worker " in line and "cannot load recurjac_plugin" in line
    assert not out.exists()
