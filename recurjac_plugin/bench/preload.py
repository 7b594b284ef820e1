"""Imported once by the server that processes are forked from, so that none of them spends seconds on imports.

Modules that start threads on import are left out, for threads do not survive a fork: onnxruntime.
"""

from __future__ import annotations

import gc

import recurjac_plugin.bench.solve  # noqa: F401
from recurjac_plugin.onnx_model import _converter_warnings, _import_onnx2pytorch

with _converter_warnings():
    _import_onnx2pytorch()

# What is here now is shared by all processes for as long as nobody writes to it, the garbage collector included.
gc.collect()
gc.freeze()
