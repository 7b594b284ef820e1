"""The list of mutants fits the tree: each text occurs once, each test exists, no folder is left out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutations import MUTANTS

import recurjac_plugin

PACKAGE = Path(recurjac_plugin.__file__).parent
TESTS = Path(__file__).parent

ONLY_TRIED = {"audit", "bound_operators", "checker", "modules"}
"""Folders whose tests corrupt certificates, or try every operator on every kind of interval, by themselves."""

each_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.meaning)


@each_mutant
def test_its_text_occurs_once_and_what_takes_its_place_is_python(mutant):
    text = (PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert ast.dump(ast.parse(text.replace(mutant.old, mutant.new))) != ast.dump(ast.parse(text))


@each_mutant
def test_its_tests_exist(mutant):
    assert mutant.tests and all((TESTS / each).exists() for each in mutant.tests)


def test_every_folder_that_decides_something_has_one():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE}
    assert folders - {mutant.file.partition("/")[0] for mutant in MUTANTS} <= ONLY_TRIED
    assert len(MUTANTS) >= 40 and len({mutant.meaning for mutant in MUTANTS}) == len(MUTANTS)
