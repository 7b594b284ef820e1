"""Rounding slacks."""

from __future__ import annotations

ROUNDING = 64.0
"""Rounding errors that a proof must leave room for, in units of the number type's `eps` times the size of the terms."""
