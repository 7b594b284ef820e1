"""Radii that a search over the sides of neurons certifies beyond those of single passes."""
