"""Options that several commands share."""

from __future__ import annotations

import pytest
from commands import recurjac

from recurjac_plugin.jacobian.methods import HOST_METHODS, METHODS


@pytest.mark.parametrize(
    ("command", "names"), [("jacobian", METHODS), ("monotone", METHODS), ("verify", (*METHODS, *HOST_METHODS))]
)
def test_help_lists_the_methods_of_the_table(command, names):
    text = "".join(recurjac(command, "--help").stdout.split())  # lines may end within a name
    assert [name for name in names if name not in text] == []
