"""Lipschitz constants, and what follows from them at once."""
