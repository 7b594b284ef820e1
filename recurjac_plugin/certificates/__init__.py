"""Radii and signs that Jacobian bounds certify."""
