"""The folder of a run, which survives the death of the run at any moment.

``run.json``       what is run: options and instances; written once, before the first result
``results.jsonl``  one line per finished instance, appended and synced: the truth
``results.csv``    the same in VNN-COMP's form, derived from it and replaced as a whole
``.lock``          held while a process writes here; the system lets go of it when that process ends
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recurjac_plugin.errors import FileError, InputError, RecurJacError, counted
from recurjac_plugin.files import finite, write

from .summary import RESULTS

PLAN, RECORDS, TABLE = "run.json", "results.jsonl", "results.csv"
_TABLE_SECONDS = 1.0  # results.csv is at most this old while the run goes on


class RunFolder:
    """A run under the lock of this process; see `opened`.

    Attributes:
        path: the folder.
        records: of the instances that are finished, in the order in which they ended.
    """

    def __init__(self, path: Path, records: list[dict[str, Any]]) -> None:
        self.path, self.records = path, records
        self._table_time = -float("inf")

    @property
    def finished(self) -> set[int]:
        """Numbers of the instances that have a record."""
        return {record["number"] for record in self.records}

    def append(self, record: dict[str, Any]) -> None:
        """Keep a result: when this returns it is on the disk.

        Raises:
            FileError: the system refuses, e.g. because the disk is full.
        """
        record = finite(record)
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        file = self.path / RECORDS
        try:
            with file.open("ab", buffering=0) as stream:
                written = stream.write(line)
                os.fsync(stream.fileno())
        except OSError as error:
            raise FileError(f"`{file}` cannot be written: {error.strerror}; continue with --resume.") from error
        if written != len(line):
            raise FileError(f"`{file}` cannot be written: the disk is full; make room and continue with --resume.")
        self.records.append(record)
        if time.monotonic() - self._table_time > _TABLE_SECONDS:
            self.write_table()

    def write_table(self) -> None:
        """Bring results.csv up to date; rows are in the order of the instances.

        Raises:
            FileError: the system refuses.
        """
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        for record in sorted(self.records, key=lambda record: record["number"]):
            seconds = [f"{record[name]:.6g}" for name in ("prepare_seconds", "run_seconds")]
            rows.writerow(
                [record["category"], record["onnx"], record["vnnlib"], seconds[0], record["result"], seconds[1]]
            )
        write(self.path / TABLE, text.getvalue().encode())
        self._table_time = time.monotonic()


@contextmanager
def opened(path: Path, *, options: dict[str, Any], instances: Sequence[list[Any]], resume: bool) -> Iterator[RunFolder]:
    """Begin a run in a folder, or go on with the one that is there.

    Args:
        path: the folder; made where it does not exist.
        options: what the verdicts depend on.
        instances: what is run, in order; see `instances.Instance.identity`.
        resume: whether to go on with a run that the folder holds.

    Raises:
        FileError: the folder cannot be made or written to, is in use by another process, or holds a damaged run.
        InputError: it holds a run, and `resume` is not given; or that run had other options or instances.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path / ".lock")
    new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(None, "Permission denied")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FileError(
            f"`{path}` is in use by another `recurjac bench`: wait until it ends, or give another --out."
        ) from error
    except OSError as error:
        raise FileError(f"`{path}` cannot be written to: {error.strerror}; give another --out.") from error
    try:
        folder = _begin(path, json.loads(json.dumps({"options": options, "instances": list(instances)})), resume)
        try:
            yield folder
            folder.write_table()
        except RecurJacError:
            if not folder.records:  # it could not even begin: leave nothing that looks like a run
                for name in (PLAN, TABLE, RECORDS):
                    (path / name).unlink(missing_ok=True)
            raise
    finally:
        lock.release()
        if new and {entry.name for entry in path.iterdir()} <= {".lock"}:
            (path / ".lock").unlink(missing_ok=True)
            path.rmdir()


def read_records(path: Path, *, repair: bool = False) -> list[dict[str, Any]]:
    """Records of a run in the order in which they ended; a last line that was not finished does not count.

    Args:
        path: the folder.
        repair: cut the unfinished line off, so that the next one begins on a line of its own.

    Raises:
        FileError: another line is no record, or an instance has two.
    """
    file = path / RECORDS
    try:
        content = file.read_bytes() if file.exists() else b""
        whole, _, torn = content.rpartition(b"\n")
        if torn and repair:
            os.truncate(file, len(content) - len(torn))
    except OSError as error:
        raise FileError(f"`{file}` cannot be read: {error.strerror}.") from error
    records: list[dict[str, Any]] = []
    seen: set[Any] = set()
    for line, text in enumerate(whole.split(b"\n") if whole else [], start=1):
        record = _parsed(text)
        if record is None or record["number"] in seen:
            raise FileError(
                f"`{file}` line {line} is {'no record' if record is None else 'a second record of an instance'}: the "
                "file was changed by something else; start again with another --out."
            )
        seen.add(record["number"])
        records.append(record)
    return records


def read_plan(path: Path) -> dict[str, Any]:
    """What a folder's run is: options and instances.

    Raises:
        FileError: the folder holds no run.
    """
    file = path / PLAN
    try:
        plan = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise FileError(f"`{path}` holds no results of `recurjac bench`: `{PLAN}` is missing.") from error
    except (OSError, ValueError) as error:
        raise FileError(f"`{file}` cannot be read ({error}); start again with another --out.") from error
    if not isinstance(plan, dict) or not isinstance(plan.get("options"), dict) or not plan.get("instances"):
        raise FileError(f"`{file}` is not what `recurjac bench` writes; start again with another --out.")
    return plan


def _begin(path: Path, plan: dict[str, Any], resume: bool) -> RunFolder:
    """The run of a folder whose lock is held: a new one, or after `resume` the one that is there."""
    present = [name for name in (PLAN, RECORDS, TABLE) if (path / name).exists()]
    if present and not resume:
        raise InputError(f"`{path}` holds {present[0]} already: add --resume to go on with it, or give another --out.")
    if PLAN in present:
        _compare(path, read_plan(path), plan)
    elif present:
        raise FileError(f"`{path}` holds {present[0]} but no {PLAN}: not a run to go on with; give another --out.")
    else:
        write(path / PLAN, json.dumps(plan, indent=1).encode() + b"\n")
    folder = RunFolder(path, read_records(path, repair=True))
    folder.write_table()
    return folder


def _compare(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run that was begun with other options or instances."""
    for name in before["options"].keys() | now["options"].keys():
        begun, given = before["options"].get(name), now["options"].get(name)
        if begun != given:
            raise InputError(
                f"`{path}` was begun with {name} {begun!r}, not {given!r}: give the same options to go on with it, or "
                "another --out."
            )
    if before["instances"] != now["instances"]:
        raise InputError(
            f"`{path}` was begun with other instances or timeouts ({counted(len(before['instances']), 'instance')}, "
            f"now {len(now['instances'])}): give the same lists and options to go on with it, or another --out."
        )


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line of results.jsonl; None where it is no record."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and _is_record(record) else None


def _is_record(record: dict[str, Any]) -> bool:
    """Whether what is written and shown of a record is of its kind; older ones lack some of it."""
    cpu = record.get("cpu_seconds")
    seconds = [record.get("prepare_seconds", 0.0), record.get("run_seconds", 0.0), 0.0 if cpu is None else cpu]
    return (
        isinstance(record.get("number"), int)
        and record.get("result", "error") in RESULTS
        and all(isinstance(number, (int, float)) for number in seconds)
        and all(isinstance(record.get(name, {}), dict) for name in ("versions", "host"))
    )
