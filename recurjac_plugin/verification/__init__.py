"""Verdicts on properties of networks."""
