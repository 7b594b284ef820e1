"""What every test shares: one thread, a fixed seed, and where the data lies."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
import torch
from host_tables import share_tables

import recurjac_plugin

# The tests are many small products: threads only get in each other's way, and under load they spin.
torch.set_num_threads(1)
share_tables()
gc.disable()  # while thousands of tests are collected, none of which is garbage


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # nobody looks at them again
    gc.enable()


@pytest.fixture(autouse=True)
def _alone():
    """The same numbers in every order of tests, and nothing left behind with the host: networks are read otherwise."""
    torch.manual_seed(0)
    yield
    registration = sys.modules.get("recurjac_plugin.plugin.registration")
    if registration is not None:
        registration.unregister()


@pytest.fixture
def registered():
    """The methods registered on the host for the duration of one test."""
    recurjac_plugin.register()
    yield
    recurjac_plugin.unregister()


@pytest.fixture(scope="session")
def vnncomp() -> Path:
    """The VNN-COMP benchmarks, one folder per category."""
    folder = os.environ.get("VNNCOMP_BENCHMARKS")
    if not folder:
        pytest.skip("VNNCOMP_BENCHMARKS is not set: no VNN-COMP networks to test on")
    assert Path(folder).is_dir(), f"VNNCOMP_BENCHMARKS={folder} is not a folder"
    return Path(folder).resolve()  # tests start commands in other folders
