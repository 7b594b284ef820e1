"""Bounds of a Jacobian as people hold them: parts, pictures, tables and files."""
