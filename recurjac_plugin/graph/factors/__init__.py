"""Factors that stand for whole functions and not for derivatives."""
