"""Certificates, checked by a small program of its own that shares nothing with what wrote them.

It needs numpy and onnx: no torch, no auto_LiRPA, nothing of this package but the errors and `extras`. A certificate is
only a list of hints; every bound is computed anew, in arithmetic whose rounding is bounded, for the network in real
arithmetic with the weights of the file, and for all real inputs of the property.
"""

from __future__ import annotations

from .document import Rejected
from .files import Accepted, check, check_jacobian

__all__ = ["Accepted", "Rejected", "check", "check_jacobian"]
