"""Cutting a region until something is shown on every part of it."""
