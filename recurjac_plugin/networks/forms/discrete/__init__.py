"""Piecewise constant operators, written with signs and floors."""
