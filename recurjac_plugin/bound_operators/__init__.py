"""Bounds of single operators in the host's graph, in place of those of the host's that are not proved good."""
