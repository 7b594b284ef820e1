"""Imported once by the server that processes are forked from, so that none of them spends seconds on what all need.

That is the imports, and a first verdict, which finds out much that later ones need not. Threads do not survive a fork,
so the verdict is computed with one. onnxruntime, which onnx2pytorch imports, keeps a thread that sessions opened after
the fork can do without.
"""

from __future__ import annotations

import gc
import signal
import warnings

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C during the imports ends the server without a word; afterwards it ends with the process that it serves.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

import numpy as np
import torch
from torch import nn

import recurjac_plugin.bench.solve  # noqa: F401
from recurjac_plugin.networks.converter import import_onnx2pytorch
from recurjac_plugin.properties.spec import Box, Polytope, Spec
from recurjac_plugin.verification.verdicts import verify


def _first_verdict() -> None:
    """Prove by bounds alone that the output of a network of two layers is not 1000 or more."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.5)
    no = np.zeros(2, dtype=bool)
    violation = Polytope(A=np.array([[-1.0]]), b=np.array([-1000.0]), strict=no[:1])
    box = Box(lower=np.zeros(2), upper=np.ones(2), disjuncts=(violation,), lower_open=no, upper_open=no)
    verify(net, Spec(boxes=(box,), n_inputs=2, n_outputs=1))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_onnx2pytorch()
    torch.set_num_threads(1)
    _first_verdict()

# What is here now is shared by all processes for as long as nobody writes to it, the garbage collector included.
gc.collect()
gc.freeze()
