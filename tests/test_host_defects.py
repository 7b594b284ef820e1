"""docs/host_defects.md: every snippet shows its defect on the versions of auto_LiRPA that it names."""

from __future__ import annotations

import json
import math
import re
import tempfile
from functools import cache
from pathlib import Path

import pytest
from places import ROOT
from processes import python

from recurjac_plugin.host import IS_03, VERSION

PAGE = (ROOT / "docs" / "host_defects.md").read_text()
SECTION = re.compile(
    r"(?P<title>.+)\n\nSeen on: (?P<versions>.+)\.\n\nRight: .+?```python\n(?P<code>.+?)\n```", re.DOTALL
)
SNIPPETS = {found["title"]: found for found in map(SECTION.match, PAGE.split("\n### ")[1:])}
TABLE = dict(re.findall(r"^\| \[(.+)\]\(#.+\) \| (.+) \|$", PAGE, re.MULTILINE))
IMPORTS = re.search(r"```text\n(.+?)\n```", PAGE, re.DOTALL)[1]

# One process for all of them: the imports take longer than the snippets.
RUN = """
import contextlib, io, json, logging, sys, warnings
warnings.simplefilter("ignore")
if sys.argv[1] == "0.3":
    import recurjac_plugin
import torch
import auto_LiRPA
logging.disable(logging.CRITICAL)
said = {}
for title, code in json.load(open(sys.argv[2])).items():
    torch.set_default_dtype(torch.float32)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, title, "exec"), {"__name__": "snippet"})
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=printed)
    said[title] = printed.getvalue()
print(json.dumps(said))
"""


@cache
def said():
    """What the snippets for the installed version print."""
    here = {title: f"{IMPORTS}\n{found['code']}" for title, found in SNIPPETS.items() if seen_here(found["versions"])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "snippets.json"
        file.write_text(json.dumps(here))
        done = python("-c", RUN, "0.3" if IS_03 else VERSION, file)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def seen_here(versions):
    return ("0.3" if IS_03 else "0.7.1") in versions.split(", ")


def test_the_page_is_read_whole():
    assert len(SNIPPETS) == PAGE.count("```python\n") == PAGE.count("\n### ") > 25
    assert {title: found["versions"] for title, found in SNIPPETS.items()} == TABLE
    assert all(set(versions.split(", ")) <= {"0.3", "0.7.1"} for versions in TABLE.values())
    assert "recurjac_plugin" not in "".join(found["code"] for found in SNIPPETS.values())
    for found in SNIPPETS.values():
        assert len(found["code"].splitlines()) <= 18


@pytest.mark.parametrize("title", SNIPPETS)
def test_a_snippet_shows_its_defect(title):
    versions = SNIPPETS[title]["versions"]
    if not seen_here(versions):
        pytest.skip(f"seen on {versions} only")
    if not IS_03 and VERSION != "0.7.1":
        pytest.skip(f"not known of auto_LiRPA {VERSION}")
    wrong = re.search(r"wrong by (\S+)$", said()[title])
    assert wrong, said()[title]
    assert math.isfinite(float(wrong[1]))
    assert float(wrong[1]) > (1e-13 if "1e-12" in title else 1e-10)
