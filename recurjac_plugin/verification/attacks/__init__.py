"""Attacks: counterexamples by descent, and by evaluation alone."""
