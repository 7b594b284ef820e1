"""Bounds of every entry of a Jacobian."""
