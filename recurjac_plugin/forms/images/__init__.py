"""Operators on images, lines and volumes, one axis after the other."""
