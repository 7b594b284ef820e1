"""Piecewise constant functions, written with signs and floors."""
