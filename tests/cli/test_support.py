"""The table of supported networks on the site is the one that the tables of the package give."""

from __future__ import annotations

import re
from pathlib import Path

from recurjac_plugin.cli.about.support_table import markdown_table

PAGE = Path(__file__).parent.parent.parent / "docs" / "supported.md"


def test_the_page_has_the_generated_table() -> None:
    found = re.search(r"<!-- support: .*? -->\n(.*?)\n<!-- /support -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == markdown_table(), "paste the output of `python -m recurjac_plugin.cli.about.support_table`"
